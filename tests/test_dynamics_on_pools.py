"""Scorers of training dynamics on an unlabelled pool: labels are predicted, and the states kept of the proxy answer."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from fakes import PlainTrainer, blobs, mlp
from oracles import aum, el2n, forgetting, grand, moso

from prunefuse_al.errors import FallbackWarning, InputError, NonFiniteError
from prunefuse_al.scorers import CCS, SCORERS, ClassBalanced, CostAware, Mixture, TwoStage, get_scorer
from prunefuse_al.scorers._about import ABOUT
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.training import TorchTrainer, reader
from prunefuse_al.types import Selection

X, Y = blobs(120, 6, 3)
POOL = range(40, 120)
DYNAMIC = [name for name in SCORERS if "dynamics" in get_scorer(name).needs and name != "adapruner"]  # needs labels


class Listens:
    """Keeps the signals it is given."""

    needs = frozenset({"dynamics", "labels"})

    def select(self, signals: Any, k: int, *, rng: Any = None) -> Selection:
        self.signals = signals
        return Selection(signals.indices[:k])


def selector(scorer: Any = "least_confidence", **options: Any) -> PrunedProxySelector:
    options = {"trainer": TorchTrainer(30, 8, device="cpu", progress=False), **options}
    return PrunedProxySelector(mlp(6, 16, 3), 0.5, scorer=scorer, random_state=0, **options)


def fitted(scorer: Any = "least_confidence", **options: Any) -> PrunedProxySelector:
    return selector(scorer, **options).fit(X[:40], Y[:40])


@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_pool_is_asked_with_every_state_that_was_kept(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", chunk)
    monkeypatch.setattr("prunefuse_al.training.known.PART", chunk)
    listens = Listens()
    chosen = fitted(listens)
    chosen.select(X, 5, POOL)
    snapshots = chosen._state.snapshots
    assert [snapshot.epoch for snapshot in snapshots] == list(range(3, 31, 3))
    logits, features = [], []
    for snapshot in snapshots:
        network = copy.deepcopy(chosen.model)
        network.load_state_dict(snapshot.weights)
        said = TorchTrainer(device="cpu").infer(network, X[40:], ("logits", "features"))
        logits.append(said.logits.double().tolist())
        features.append(said.features.double().tolist())
    labels = TorchTrainer(device="cpu").infer(chosen.model, X[40:]).logits.argmax(1).tolist()
    right = [[max(range(3), key=z.__getitem__) == y for z, y in zip(t, labels, strict=True)] for t in logits]
    want = {
        "aum": aum.score(logits, labels),
        "el2n": el2n.score(logits[:3], labels),  # epochs 3, 6 and 9
        "forgetting": forgetting.score(right),
        "grand": grand.score(logits[:3], features[:3], labels),
        "moso": moso.score(logits, features, labels, [snapshot.lr for snapshot in snapshots]),
        "correct": [sum(each) / len(each) for each in zip(*right, strict=True)],
    }
    assert listens.signals.labels.tolist() == labels
    assert listens.signals.dynamics.keys() == want.keys()
    for name, values in want.items():
        torch.testing.assert_close(listens.signals.dynamics[name], torch.tensor(values).double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*DYNAMIC, "moderate"])
def test_by_name_before_or_after_training(name: str) -> None:
    before, after = fitted(name), fitted()
    picked, again = before.select(X, 20, POOL), after.select(X, 20, POOL, scorer=name)
    assert torch.equal(picked.indices, again.indices)
    assert len(set(picked.indices.tolist()) & set(POOL)) == 20
    assert picked.labels == again.labels == "predicted"
    assert before.query(X, 20, POOL).tolist() == picked.indices.tolist()
    reruns = [row.stage for row in after.costs.rows()].count("retrain_proxy")
    assert reruns == (0 if name == "moderate" else 1)  # it was not watched, so it is run again
    after.select(X, 20, POOL, scorer=name)
    after.fit(X[:50], Y[:50]).select(X, 20, POOL, scorer=name)  # from then on it is watched
    stages = [row.stage for row in after.costs.rows()]
    assert (stages.count("train_proxy"), stages.count("retrain_proxy")) == (2, reruns)


def test_a_training_that_is_run_again_is_paid_for_once_by_the_dense_loop() -> None:
    before, after = fitted("aum"), fitted()
    for chosen in (before, after):
        chosen.select(X, 20, POOL, scorer="aum")
    (again,) = [row for row in after.costs.rows() if row.stage == "retrain_proxy"]
    own = sum(row.macs for row in before.costs.rows())
    assert again.macs > 0
    assert after.costs.ratio() == pytest.approx(before.costs.ratio() * (own + again.macs) / own)


def test_scorers_of_answers_alone_record_no_labels_and_keep_no_states() -> None:
    chosen = fitted()
    assert chosen.select(X, 5, POOL).labels is None
    assert chosen._state.snapshots == ()


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
@pytest.mark.parametrize("options", [{"warm_start": True}, {"sync_every": 1}, {"proxy": mlp(6, 5, 3)}])
def test_a_training_is_run_again_as_it_was(options: dict[str, Any]) -> None:
    before, after = fitted("aum", **options), fitted(**options)
    for chosen in (before, after):
        chosen.fit(X[:60], Y[:60])
    assert before.select(X, 9, POOL).indices.tolist() == after.select(X, 9, POOL, scorer="aum").indices.tolist()


def test_the_replayed_passes_are_in_the_ledger() -> None:
    watched, plain = fitted("aum"), fitted("entropy")
    for chosen in (watched, plain):
        chosen.query(X, 5, POOL)
    macs = [next(row.macs for row in s.costs.rows() if row.stage == "score") for s in (watched, plain)]
    assert macs[0] == 11 * macs[1]  # ten states and the trained network


@pytest.mark.parametrize(
    "scorer",
    [
        TwoStage("moderate", "margin"),
        TwoStage("margin", "aum"),
        TwoStage("aum", "k_center"),
        TwoStage(Mixture("margin", "aum"), "random"),
        Mixture("moderate"),
        Mixture("random", "el2n"),
        ClassBalanced("k_center"),
    ],
    ids=repr,
)
def test_combined_scorers_say_which_labels_any_of_their_parts_went_by(scorer: Any) -> None:
    assert fitted().select(X, 9, POOL, scorer=scorer).labels == "predicted"
    assert selector().coreset((X, Y), 0.1, scorer=scorer).labels == "given"
    assert fitted().select(X, 9, POOL, scorer=TwoStage("margin", Mixture("k_center"))).labels is None


def test_combined_scorers_ask_the_training_for_what_their_parts_read() -> None:
    costs = [1.0] * 120
    assert TwoStage("aum", Mixture("el2n")).dynamics == {"aum", "el2n"}
    assert ClassBalanced(CostAware("forgetting", costs)).dynamics == {"forgetting"}
    assert ClassBalanced("margin").dynamics == frozenset()
    macs = {}
    for name, scorer in {
        "aum": "aum",
        "balanced": ClassBalanced("aum"),
        "mixed": Mixture("aum"),
        "cheap first": TwoStage("random", "moso", keep=1),
        "cheap last": TwoStage("moso", "random", keep=1),
    }.items():
        chosen = fitted(scorer)
        chosen.query(X, 20, POOL)
        macs[name] = sum(row.macs for row in chosen.costs.rows() if row.stage == "score")
    assert macs["aum"] == macs["balanced"] == macs["mixed"]  # ten states and the trained network, once
    assert macs["cheap first"] < macs["cheap last"] / 2  # of the twenty rows that are left


@pytest.mark.parametrize("name", [*(name for name in DYNAMIC if "part" not in ABOUT[name].passes), "moderate"])
def test_passes_are_as_many_as_the_documentation_says(name: str) -> None:
    """Of thirty epochs ten states are kept, three of them of the first ten epochs."""
    written = re.sub(r"(\d)([se])", r"\1*\2", ABOUT[name].passes).split(";")
    want = [eval(count, {"s": 10, "e": 3}) for count in written]
    in_core_set, on_pool, one = selector(name), fitted(name), fitted("entropy")
    in_core_set.coreset((X, Y), 0.2)
    for chosen in (on_pool, one):
        chosen.query(X, 5)
    passed = [next(r.macs for r in s.costs.rows() if r.stage == "score") for s in (in_core_set, on_pool, one)]
    assert [passed[0] / passed[2], passed[1] / passed[2]] == [want[0], want[-1]]


@pytest.mark.parametrize("name", ["moso", "grand", "aum"])
def test_rows_that_are_not_finite_are_named_as_the_pool_numbers_them(name: str) -> None:
    damaged = X.clone()
    damaged[77, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"rows \[77\] of the data are the first that give NaN"):
        fitted(name).select(damaged, 5, POOL)


def test_a_trainer_that_records_nothing_is_told_before_it_trains() -> None:
    trainer = PlainTrainer()
    with pytest.raises(
        InputError, match=r"Forgetting\(\) reads training dynamics, but PlainTrainer\.fit takes no `reco"
    ):
        fitted("forgetting", trainer=trainer)
    assert trainer.seen_teachers == []
    chosen = fitted(trainer=trainer)
    with pytest.raises(InputError, match=r"EL2N\(\) reads training dynamics, but PlainTrainer\.fit takes no"):
        chosen.select(X, 5, POOL, scorer="el2n")
    assert chosen.query(X, 5, POOL).shape == (5,)


class Reports(PlainTrainer):
    """A training loop of one's own that tells a recorder what it sees."""

    def fit(self, model: Any, data: Any, *, teacher: Any = None, seed: Any = None, recorder: Any = None) -> float:
        x, y = (torch.stack(column) for column in zip(*(data[i] for i in range(len(data))), strict=True))
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if recorder is not None:
            recorder.begin(len(data), 6)
        for epoch in range(1, 7):
            logits = model(x)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.see(torch.arange(len(data)), logits, y)
                recorder.end_epoch(epoch, model, 0.1)
        return float(loss.detach())


@pytest.mark.parametrize("name", ["moso", "ccs"])
def test_a_trainer_of_ones_own_may_record(name: str) -> None:
    picked = fitted(name, trainer=Reports()).select(X, 9, POOL)
    late = fitted(trainer=Reports()).select(X, 9, POOL, scorer=name)
    assert torch.equal(picked.indices, late.indices)
    assert selector(name, trainer=Reports()).coreset((X, Y), 0.1).labels == "given"


@pytest.mark.parametrize("name", ["ccs", "d2"])
def test_ccs_and_d2_fall_back_on_the_margin_and_say_so(name: str) -> None:
    chosen = fitted(name, trainer=PlainTrainer())
    with pytest.warns(
        FallbackWarning, match=r"difficulty='aum'.* takes no `recorder`; .*difficulty='margin'.* is used"
    ):
        picked = chosen.select(X, 9, POOL)
    other = SCORERS[name](difficulty="margin")
    assert torch.equal(chosen.select(X, 9, POOL, scorer=other).indices, picked.indices)


def test_a_loaded_selector_says_what_it_lacks(tmp_path: Any) -> None:
    chosen = fitted("forgetting")
    chosen.save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 3))
    with pytest.raises(InputError, match="neither the training nor its data is kept in a selector that was saved"):
        loaded.query(X, 5, POOL)
    twin = pickle.loads(pickle.dumps(chosen))
    assert twin.query(X, 5, POOL).tolist() == chosen.query(X, 5, POOL).tolist()


def test_dynamics_are_not_had_from_one_look() -> None:
    with pytest.raises(InputError, match=r"dynamics.*select\(\) and coreset\(\)"):
        fitted("aum").signals(X, frozenset({"dynamics"}))


def test_a_query_that_fails_leaves_no_trace() -> None:
    chosen = fitted()
    rows = chosen.costs.rows()
    with pytest.raises(InputError, match="features"):
        chosen.select(X[:, :5], 5, scorer=CCS())
    assert chosen.costs.rows() == rows
    assert chosen._state.snapshots == ()
