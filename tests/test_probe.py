"""`Probe`: a head on features that are computed once: oracles by hand, the cache, files, what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import Items, PlainTrainer, assert_same_picks, blobs, mlp, same, seeded, trainer, weights
from sklearn.base import clone
from torch import Tensor, nn
from torch.utils.data import Subset

from prunefuse_al import EarlyStopping, FunctionTrainer, PrunedProxySelector, PruneFuseEstimator, ShrinkPerturb
from prunefuse_al.adapters.modal import query_strategy
from prunefuse_al.data import ArrayDataset
from prunefuse_al.errors import (
    CheckpointError,
    CostWarning,
    FallbackWarning,
    InputError,
    NonFiniteError,
    UnsupportedModelError,
)
from prunefuse_al.network import collect
from prunefuse_al.proxies import Probe
from prunefuse_al.proxies.feature_file import read_features
from prunefuse_al.proxies.head_training import LogisticTrainer
from prunefuse_al.selector.checkpoint import opened, write_file
from prunefuse_al.selector.encoding import encode
from prunefuse_al.training import ProgressivePruning

X, Y = blobs(120)
POOL, LABELS = X.numpy(), Y.numpy()


def dense(seed: int = 0) -> nn.Sequential:
    return mlp(6, 16, 12, 3, seed=seed)


def probed(proxy: Probe | None = None, model: nn.Module | None = None, **options: Any) -> PrunedProxySelector:
    given = {"trainer": trainer(), "random_state": 0, "scorer": "margin", **options}
    return PrunedProxySelector(model or dense(), proxy=proxy or Probe(), **given)


def fitted(head: nn.Linear, features: Tensor, y: Tensor) -> nn.Linear:
    """Return a copy of a head with the logistic regression that a probe's training begins with."""
    copied = copy.deepcopy(head)
    LogisticTrainer(trainer()).fit(copied, ArrayDataset(features, y))
    return copied


def stages(selector: PrunedProxySelector, start: int = 0) -> list[tuple[str, int]]:
    return [(row.stage, row.samples) for row in selector.costs.rows()[start:]]


def computed(selector: PrunedProxySelector, start: int = 0) -> int:
    return sum(samples for stage, samples in stages(selector, start) if stage == "features")


def loop(selector: PrunedProxySelector, rounds: int = 3, pool: Any = POOL) -> list[int]:
    labelled = list(range(20))
    for _ in range(rounds):
        selector.fit(POOL[labelled], LABELS[labelled])
        labelled += selector.query(pool, 4, candidates=np.setdiff1d(np.arange(len(POOL)), labelled)).tolist()
    return labelled


# ---- oracles


def test_features_are_those_of_the_dense_network_and_logits_those_of_the_whole_proxy() -> None:
    chosen = probed().fit(X[:30], Y[:30])
    said, wanted = chosen.signals(X, frozenset({"features", "logits"})), collect(dense(), X, {"features"})
    torch.testing.assert_close(said.features, wanted.features)
    torch.testing.assert_close(said.logits, collect(chosen.model, X).logits)


def test_the_head_is_a_linear_layer_trained_on_features_by_hand() -> None:
    chosen, net = probed().fit(X[:30], Y[:30]), dense()
    features = collect(net, X[:30], {"features"}).features
    head = fitted(net[4], features, Y[:30])
    trainer().fit(head, (features, Y[:30]), seed=chosen.options.seed("train_proxy"))
    torch.testing.assert_close(weights(chosen.model[4]), weights(head))
    assert same({k: v for k, v in weights(chosen.model).items() if k[0] != "4"}, weights(dense()[:4]))


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(label_smoothing=0.1), lambda z, y: z.logsumexp(1).mean()], ids=("smoothed", "own")
)
def test_a_head_of_another_loss_is_trained_from_its_present_weights(loss: Any) -> None:
    chosen, net = probed(trainer=trainer(loss=loss)).fit(X[:30], Y[:30]), dense()
    head = copy.deepcopy(net[4])
    given = collect(net, X[:30], {"features"}).features
    trainer(loss=loss).fit(head, (given, Y[:30]), seed=chosen.options.seed("train_proxy"))
    torch.testing.assert_close(weights(chosen.model[4]), weights(head))


def test_a_head_that_answers_or_goes_on_is_not_fitted_anew() -> None:
    net = dense()
    with torch.no_grad():
        net[4].load_state_dict(fitted(net[4], collect(net, X, {"features"}).features, Y).state_dict())
    still = trainer(epochs=1, lr=1e-9)
    chosen = probed(model=net, trainer=still).fit(X[:30], Y[:30])
    torch.testing.assert_close(weights(chosen.model), weights(net))
    gone_on = probed(trainer=still, warm_start=True).fit(X[:10], Y[:10])
    before = weights(gone_on.model)
    torch.testing.assert_close(weights(gone_on.fit(X[:30], Y[:30]).model), before)


@pytest.mark.parametrize("kind", [Probe(), Probe("float16"), Probe(head="logistic")], ids=repr)
def test_a_query_ranks_as_the_whole_network_does(kind: Probe) -> None:
    chosen = probed(kind).fit(X[:30], Y[:30])
    p = collect(chosen.model, X).logits.softmax(1).sort(1).values
    margin = (p[:, -1] - p[:, -2]).numpy()
    assert_same_picks(chosen.query(POOL, 10), margin.argsort()[:10], margin, atol=2e-3)


def test_passes_leave_features_out() -> None:
    chosen = probed(Probe(dropout=0.3)).fit(X[:30], Y[:30])
    said = chosen.signals(X, frozenset({"mc_logits", "features"}), mc_samples=4)
    features, head = said.features.double(), chosen.model[4].double()
    alive = (features.abs().sum(0) > 0) & head.weight.ne(0).all(0)
    for logits in said.mc_logits.double():
        kept = torch.linalg.lstsq(features[:, alive], logits - head.bias).solution / head.weight.T[alive]  # [d c]
        wanted = (kept > 0.5) / 0.7
        torch.testing.assert_close(kept, wanted.to(kept), atol=1e-3, rtol=0)
        assert 0 < (kept.mean(1) > 0.5).double().mean() < 1
    with pytest.raises(UnsupportedModelError, match="no dropout that can be switched on"):
        probed(Probe(dropout=0), scorer="bald").fit(X[:30], Y[:30]).query(X, 3)


@pytest.mark.parametrize(
    "scorer", ["bald", "badge", "k_center", "cal", "el2n", "grand", "moso", "forgetting", "ccs", "typiclust"]
)
def test_scorers_read_features_passes_and_the_training_of_the_head(scorer: str) -> None:
    chosen = probed(scorer=scorer).fit(X[:30], Y[:30])
    picked = chosen.query(X, 6)
    later = probed().fit(X[:30], Y[:30])  # its training is run again to be watched
    np.testing.assert_array_equal(later.select(X, 6, scorer=scorer, rng=0).indices, chosen.select(X, 6, rng=0).indices)
    assert len(set(picked.tolist())) == 6


def test_the_target_is_the_dense_network_with_the_head_and_is_trained_whole() -> None:
    net = dense()
    net[0].weight.requires_grad_(False)
    chosen = probed(model=net, cross="copy").fit(X[:30], Y[:30])
    fused, target = chosen.fuse(), chosen.fit_target()
    assert same(weights(fused), weights(chosen.model))
    moved = {name for name, value in weights(target).items() if not torch.equal(value, weights(fused)[name])}
    assert moved == {"0.bias", "2.weight", "2.bias", "4.weight", "4.bias"}
    assert [p.requires_grad for p in target.parameters()] == [p.requires_grad for p in net.parameters()]


def test_batchnorm_of_the_trunk_stays_as_it_is() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    net[1].running_mean += 1
    chosen = probed(model=net, cross="copy").fit(X[:30], Y[:30])
    assert "recalibrate_target" not in dict(stages(chosen))
    assert torch.equal(chosen.fuse()[1].running_mean, net[1].running_mean)


@pytest.mark.parametrize("own", [PlainTrainer(), None], ids=["a class", "a function"])
def test_trainers_of_ones_own_train_a_linear_layer_on_features(own: Any) -> None:
    seen: list[Any] = []

    def fit(model: nn.Module, data: Any) -> None:
        seen.append((type(model).__mro__[1], data[0][0].shape))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x, y = torch.stack([x for x, _ in data]), torch.tensor([int(y) for _, y in data])
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    chosen = probed(trainer=own or FunctionTrainer(fit)).fit(X[:30], Y[:30])
    assert len(chosen.query(X, 5)) == 5
    assert own or seen == [(nn.Linear, (12,))]


def test_logistic_regression_is_that_of_scikit_learn_and_rare_classes_come_last() -> None:
    chosen = probed(Probe(head="logistic")).fit(X[:30], Y[:30])
    solver = chosen.history
    p = chosen.predict_proba(X[:30])
    assert (p.argmax(1) == LABELS[:30]).mean() > 0.8
    z = collect(dense(), X[:30], {"features"}).features.double().numpy()
    z = (z - z.mean(0)) / np.where(z.std(0) == 0, 1, z.std(0))
    np.testing.assert_allclose(p, solver.predict_proba(z), atol=1e-4)
    two = Y[:30] > 0
    few = probed(Probe(head="logistic")).fit(X[:30], two.long())
    assert few.predict_proba(X[:30])[:, 2].max() < 0.01
    np.testing.assert_allclose(few.predict_proba(X[:30])[:, 1], few.history.predict_proba(z)[:, 1], atol=0.01)


def test_a_single_output_with_a_sigmoid() -> None:
    loss = nn.BCEWithLogitsLoss()
    chosen = probed(model=mlp(6, 8, 1), trainer=trainer(loss=loss)).fit(X[:30], (Y[:30] > 0).float())
    torch.testing.assert_close(
        torch.as_tensor(chosen.predict_proba(X)[:, 1]), torch.sigmoid(chosen.model(X)[:, 0]).detach().double()
    )


# ---- what is computed, and when


def test_rounds_after_the_first_compute_nothing() -> None:
    chosen = probed()
    loop(chosen)
    rows = chosen.costs.rows()
    assert [(row.round, row.network, row.samples) for row in rows if row.stage == "features"] == [
        *((1, "dense", 20), (1, "dense", 100)),
        *((2, "dense", 0), (2, "dense", 0), (3, "dense", 0), (3, "dense", 0)),  # looked for, and found
    ]
    later = [row for row in rows if row.round > 1]
    whole = next(row for row in rows if row.stage == "features")
    assert {row.stage for row in later} == {"features", "train_proxy", "score", "rank"}
    assert not any(row.macs for row in later if row.stage == "features")
    per_row = whole.forward_macs // whole.samples
    assert all(row.macs <= 0.2 * row.dense_macs for row in later if row.samples)  # 36 of 324, there and back
    assert all(row.dense_macs == row.samples * per_row for row in later if row.stage == "score")
    assert chosen.costs.ratio() < 1
    assert chosen.costs.totals()["features"]["samples"] == len(POOL)


@pytest.mark.parametrize(
    "again",
    [
        lambda pool: pool,
        lambda pool: pool.copy(),
        lambda pool: torch.from_numpy(pool),
        lambda pool: pool[::-1],
        lambda pool: pool[40:],
        lambda pool: torch.from_numpy(pool.copy()),
    ],
    ids=["itself", "a copy", "a tensor", "turned round", "a part", "a tensor of a copy"],
)
def test_rows_of_arrays_are_known_wherever_they_are(again: Callable[[Any], Any]) -> None:
    chosen = probed().fit(X[:20], Y[:20])
    chosen.query(POOL, 5)
    before = len(chosen.costs)
    chosen.query(again(POOL), 5)
    assert computed(chosen, before) == 0


def test_a_dataset_of_items_is_known_as_an_object_and_by_its_parts() -> None:
    data = Items([(x, int(y)) for x, y in zip(X, Y, strict=True)])
    chosen = probed().fit(Subset(data, range(20)))
    assert computed(chosen) == 20
    chosen.query(data, 5)
    assert computed(chosen) == 120
    chosen.fit(Subset(Subset(data, range(10, 80)), range(30)))
    chosen.fit(data)
    assert computed(chosen) == 120
    chosen.query(Items(data.items), 5)
    assert computed(chosen) == 240


def test_labels_go_with_their_rows_wherever_these_are_read_from() -> None:
    data = Items([(x, int(y)) for x, y in zip(X, Y, strict=True)])
    rows = [7, 3, 60, 11, 4, 90, 33]
    plain, chosen = probed().fit(X[rows], Y[rows]), probed()
    chosen.prepare(data).query(data, 3)
    torch.testing.assert_close(weights(chosen.fit(Subset(data, rows)).model), weights(plain.model))
    shares = torch.linspace(0.1, 1, 7)
    torch.testing.assert_close(
        weights(probed().fit(X[rows], Y[rows], shares).model),
        weights(chosen.fit(Subset(data, rows), Y[rows], shares).model),
    )


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray], ids=["tensor", "array"])
def test_what_was_written_to_is_computed_again(kind: type) -> None:
    pool = X.clone() if kind is torch.Tensor else POOL.copy()
    chosen = probed().fit(X[:20], Y[:20])
    chosen.query(pool, 5)
    pool[:] = pool * 2
    before = len(chosen.costs)
    picked = chosen.query(pool, 5)
    assert computed(chosen, before) == 120
    fresh = probed().fit(X[:20], Y[:20])
    np.testing.assert_array_equal(fresh.query(X * 2, 5), picked)


def test_what_is_predicted_is_not_kept_and_not_counted_as_selection() -> None:
    chosen = probed().fit(X[:20], Y[:20])
    before = len(chosen.costs)
    one, other = chosen.predict_proba(X), chosen.predict_proba(X)
    np.testing.assert_array_equal(one, other)
    assert stages(chosen, before) == [("predict", 100), ("predict", 120)] * 2


def test_a_failed_call_leaves_the_cache_as_it_was() -> None:
    chosen = probed().fit(X[:20], Y[:20])
    before, rows = list(chosen.proxy.features._tables), chosen.costs.rows()
    bad = X.clone()
    bad[100, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"rows \[100\] of the data"):
        chosen.query(bad, 5)
    assert (chosen.proxy.features._tables, chosen.costs.rows()) == (before, rows)
    assert len(chosen.query(bad, 5, candidates=range(20, 90))) == 5


def test_a_half_keeps_half_and_says_what_it_cannot_hold() -> None:
    chosen = probed(Probe("float16")).fit(X[:20], Y[:20])
    chosen.query(X, 5)
    assert {table.values.dtype for table in chosen.proxy.features._tables} == {torch.float16}
    with pytest.raises(NonFiniteError, match=r"do not fit half precision.*features='memory'"):
        chosen.query(X * 1e6, 5)


def test_copies_share_and_pickles_leave_out() -> None:
    chosen = probed().fit(X[:20], Y[:20])
    picked = chosen.query(X, 5)
    shared, pickled = copy.deepcopy(chosen), pickle.loads(pickle.dumps(chosen))
    before = len(chosen.costs)
    for other, samples in ((shared, 0), (pickled, 120)):
        np.testing.assert_array_equal(other.query(X, 5), picked)
        assert computed(other, before) == samples
    shared.query(X * 2, 5)
    before = len(chosen.costs)
    chosen.query(X * 2, 5)
    assert computed(chosen, before) == 120


def test_it_goes_into_a_file_and_comes_back(tmp_path: Path) -> None:
    chosen = probed(Probe(dropout=0.25, refresh=0.5), sync_every=2).fit(X[:20], Y[:20])
    chosen.save(tmp_path / "file")
    loaded = PrunedProxySelector.load(tmp_path / "file", dense(3))
    assert loaded.options.proxy == Probe(dropout=0.25, refresh=0.5)
    np.testing.assert_array_equal(loaded.query(X, 5), chosen.query(X, 5))
    torch.testing.assert_close(weights(loaded.fit(X[:30], Y[:30]).model), weights(chosen.fit(X[:30], Y[:30]).model))


def test_a_file_of_a_thin_proxy_is_none_of_a_probe(tmp_path: Path) -> None:
    options = {"trainer": trainer(), "random_state": 0}
    PrunedProxySelector(dense(), 0.5, **options).fit(X[:20], Y[:20]).save(tmp_path / "file")
    with pytest.raises(CheckpointError, match="its proxy was cut from the model"):
        PrunedProxySelector.load(tmp_path / "file", dense(), proxy=Probe())
    file = opened(tmp_path / "file")
    config = {**file.config, "options": {**file.config["options"], "proxy": encode(Probe())}}
    write_file(tmp_path / "made", file.tensors(), config)
    with pytest.raises(CheckpointError, match="thinner than the network, which no Probe is"):
        PrunedProxySelector.load(tmp_path / "made", dense())


def test_threads_take_turns() -> None:
    chosen, pools = probed().fit(X[:20], Y[:20]), [X * factor for factor in (1.0, 2.0, 3.0, 2.0)]
    wanted = [probed().fit(X[:20], Y[:20]).query(pool, 5) for pool in pools]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pool: chosen.query(pool, 5), pools))
    np.testing.assert_array_equal(found, wanted)


def test_before_anything_is_labelled() -> None:
    chosen = probed().prepare(X)
    logits = collect(dense(), X).logits
    torch.testing.assert_close(chosen.signals(X).logits, logits)
    assert len(chosen.query(X, 5)) == 5
    assert computed(chosen) == 120
    chosen.fit(X[:20], Y[:20])
    assert computed(chosen) == 120


def test_a_core_set() -> None:
    chosen = probed()
    picked = chosen.coreset(X, 0.2, Y, scorer="ccs")
    assert len(picked.indices) == 24
    assert computed(chosen) == 120
    for scorer in ("grand", "k_center"):  # which reads about what is labelled, and nothing is
        assert len(chosen.coreset(X, 0.2, Y, scorer=scorer).indices) == 24


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(9, 5), nn.Linear(11, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.table(ids).mean(1), x], 1) @ self.mix.weight.T)


def test_several_inputs_by_name() -> None:
    pool = {"ids": torch.arange(360).reshape(120, 3) % 9, "x": X}
    net, rows = seeded(Two), list(range(20))
    chosen = probed(model=net).fit({name: value[rows] for name, value in pool.items()}, Y[rows])
    chosen.query(pool, 5)
    chosen.fit({name: value.numpy()[rows] for name, value in pool.items()}, Y[rows])
    assert computed(chosen) == 120
    torch.testing.assert_close(chosen.signals(pool).logits, collect(chosen.model, pool).logits)


# ---- trainings


def test_warm_starts_go_on_from_the_head(tmp_path: Path) -> None:
    chosen = probed(warm_start=True).fit(X[:20], Y[:20])
    head = copy.deepcopy(chosen.model[4])
    chosen.fit(X[:30], Y[:30])
    features = collect(dense(), X[:30], {"features"}).features
    trainer().fit(head, (features, Y[:30]), seed=chosen.options.seed("train_proxy", 2))
    torch.testing.assert_close(weights(chosen.model[4]), weights(head))
    shrunk = probed(warm_start=ShrinkPerturb(0.5, 0.1, epochs=1)).fit(X[:20], Y[:20]).fit(X[:30], Y[:30])
    assert len(shrunk.history.epochs) == 1
    assert same(weights(shrunk.model[:4]), weights(dense()[:4]))


def test_early_stopping_goes_by_features_of_held_out_rows() -> None:
    rule = EarlyStopping(2, validation_data=(X[60:], Y[60:]))
    chosen = probed(trainer=trainer(early_stopping=rule)).fit(X[:20], Y[:20])
    net = dense()
    given, held = (collect(net, rows, {"features"}).features for rows in (X[:20], X[60:]))
    head = fitted(net[4], given, Y[:20])
    rule = EarlyStopping(2, validation_data=(held, Y[60:]))
    trainer(early_stopping=rule).fit(head, (given, Y[:20]), seed=chosen.options.seed("train_proxy"))
    torch.testing.assert_close(weights(chosen.model[4]), weights(head))


def test_a_transform_is_for_inputs_and_that_is_said() -> None:
    def doubled(x: Tensor) -> Tensor:
        assert x.shape[1] == 6
        return x * 2

    with pytest.warns(FallbackWarning, match="augmentation cannot be seen by a frozen trunk"):
        probed(trainer=trainer(transform=lambda x: doubled(x) + 1, eval_transform=doubled)).fit(X[:20], Y[:20])
    chosen = probed(trainer=trainer(transform=doubled, eval_transform=doubled)).fit(X[:20], Y[:20])
    plain = probed().fit(X[:20] * 2, Y[:20])
    torch.testing.assert_close(weights(chosen.model), weights(plain.model))
    np.testing.assert_array_equal(chosen.query(X, 5), plain.query(X * 2, 5))


def test_v2_cuts_the_next_probe_from_the_target() -> None:
    chosen = probed(sync_every=2)
    for n in (20, 30):
        chosen.fit(X[:n], Y[:n])
        chosen.query(X, 3)
    target = chosen.fit_target()
    with pytest.warns(CostWarning, match="V2 with sync_every=1 costs about 1.11"):
        probed(sync_every=1).fit(X[:20], Y[:20])
    before = len(chosen.costs)
    chosen.fit(X[:40], Y[:40])
    assert same(weights(chosen.model[:4]), weights(target[:4]))
    chosen.query(X, 3)
    assert computed(chosen, before) == 120
    torch.testing.assert_close(
        chosen.signals(X, frozenset({"features"})).features, collect(target, X, {"features"}).features
    )


@pytest.mark.filterwarnings("ignore:V2 with sync_every")
def test_features_are_computed_again_where_the_head_no_longer_fits() -> None:
    separable, mixed = Y[:30], torch.arange(30) // 3 % 3
    for labels, serves in ((separable, True), (mixed, False)):
        chosen = probed(Probe(refresh=0.9), sync_every=1, trainer=trainer(60)).fit(X[:30], labels)
        right = (chosen.predict_proba(X[:30]).argmax(1) == labels.numpy()).mean()
        assert (right >= 0.9) == serves
        assert ("sync" in dict(stages(chosen))) != serves


# ---- a file of features


def test_a_file_outlives_the_process_and_any_reader_takes_it(tmp_path: Path) -> None:
    place = tmp_path / "f.npy"
    first = probed(Probe(place))
    labelled = loop(first)
    assert computed(first) == 120
    torch.testing.assert_close(torch.from_numpy(np.load(place)), collect(dense(), X, {"features"}).features)
    second = probed(Probe(place))
    assert loop(second) == labelled
    assert computed(second) == 16  # the few that are compared
    assert [p.name for p in tmp_path.iterdir()] == ["f.npy"]


def test_what_is_known_already_goes_into_the_file(tmp_path: Path) -> None:
    chosen = probed(Probe(tmp_path / "f.npy"))
    chosen.fit(X[40:60], Y[40:60])
    chosen.fit(X[:10], Y[:10])
    chosen.coreset(X, 0.2, Y, scorer="ccs")
    assert computed(chosen) == 120
    torch.testing.assert_close(
        torch.from_numpy(np.load(tmp_path / "f.npy")), collect(dense(), X, {"features"}).features
    )


def test_a_pool_that_shrinks_is_in_the_file_of_the_whole_one(tmp_path: Path) -> None:
    chosen = probed(Probe(tmp_path / "f.npy")).fit(X[:20], Y[:20])
    chosen.query(POOL, 5)
    for again in (chosen, probed(Probe(tmp_path / "f.npy"))):
        before = len(again.costs)
        again.fit(X[:30], Y[:30]).query(np.delete(POOL, range(30), 0), 5)
        assert computed(again, before) == (0 if again is chosen else 16)
    with pytest.raises(InputError, match="it is of 120 rows, and the data has 121"):
        chosen.query(torch.cat([X, X[:1] + 1]), 5)


def test_a_file_is_looked_at_before_anything_is_trained_on_it(tmp_path: Path) -> None:
    probed(Probe(tmp_path / "f.npy")).fit(X[:20], Y[:20]).query(X, 3)
    with pytest.raises(InputError, match="by another eval_transform or precision"):
        probed(Probe(tmp_path / "f.npy"), trainer=trainer(eval_transform=lambda x: x * 2)).fit(X[:20], Y[:20])


def test_a_file_of_items(tmp_path: Path) -> None:
    place = tmp_path / "f.npy"
    for samples in (20 + 100, 20 + 16):
        data = Items([(x, int(y)) for x, y in zip(X, Y, strict=True)])
        chosen = probed(Probe(place)).fit(Subset(data, range(20)))
        chosen.query(data, 5)
        chosen.fit(Subset(data, range(40)))
        assert computed(chosen) == samples


@pytest.mark.filterwarnings("ignore:V2 with sync_every")
def test_a_file_is_written_anew_after_a_sync(tmp_path: Path) -> None:
    place = tmp_path / "f.npy"
    chosen = probed(Probe(place), sync_every=1)
    for n in (20, 30):
        chosen.fit(X[:n], Y[:n])
        chosen.query(X, 3)
    network = nn.Sequential(*list(chosen.model[:4]), nn.Identity())
    torch.testing.assert_close(torch.from_numpy(np.load(place)), network(X).detach())
    with pytest.raises(InputError, match=r"f.npy' holds what another network, a Sequential, says of data"):
        probed(Probe(place)).fit(X[:20], Y[:20])


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"model": dense(1)}, "holds what another network, a Sequential"),
        ({"pool": X[:100] + 1}, "it is of 120 rows, and the data has 100"),
        ({"pool": torch.cat([X[:119], X[:1] + 1])}, "1 of 16 rows that were compared are others"),
        ({"pool": X.double()}, r"its rows are float32 \[6\], and those of the data float64 \[6\]"),
        ({"trainer": trainer(eval_transform=lambda x: x * 2)}, "by another eval_transform or precision"),
    ],
)
def test_a_file_of_something_else_is_refused(other: dict[str, Any], match: str, tmp_path: Path) -> None:
    place = tmp_path / "f.npy"
    probed(Probe(place)).fit(X[:20], Y[:20]).query(X, 3)
    held = place.read_bytes()
    pool = other.pop("pool", X)
    with pytest.raises(InputError, match=match):
        probed(Probe(place), **other).fit(X[:20], Y[:20]).query(pool, 3)
    assert place.read_bytes() == held


def test_another_head_may_read_the_same_file(tmp_path: Path) -> None:
    place, net = tmp_path / "f.npy", dense()
    probed(Probe(place)).fit(X[:20], Y[:20]).query(X, 3)
    net[4] = seeded(lambda: nn.Linear(12, 5), 7)
    chosen = probed(Probe(place), net).fit(X[:20], Y[:20])
    chosen.query(X, 3)
    assert computed(chosen) == 16


@pytest.mark.parametrize("damage", ["cut", "foreign", "array", "said", "empty"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    place = tmp_path / "f.npy"
    probed(Probe(place)).fit(X[:20], Y[:20]).query(X, 3)
    held = place.read_bytes()
    if damage == "array":
        np.save(place, np.zeros((120, 12), np.float32))
    elif damage == "said":
        start = held.rindex(b'{"network"')
        length = int.from_bytes(held[-8 - 21 : -21], "little")
        said = json.dumps({**json.loads(held[start : start + length]), "rows": "many"}).encode()
        place.write_bytes(held[:start] + said + len(said).to_bytes(8, "little") + held[-21:])
    else:
        place.write_bytes({"cut": held[:-40], "foreign": b"something else" * 9, "empty": b""}[damage])
    with pytest.raises(InputError, match="no file of features that a Probe wrote whole"):
        probed(Probe(place)).fit(X[:20], Y[:20])
    place.write_bytes(held)
    assert read_features(str(place)) is not None


def test_a_file_that_cannot_be_written_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    chosen = probed(Probe(tmp_path / "no" / "f.npy"))
    chosen.fit(X[:20], Y[:20])
    (tmp_path / "no").rmdir()
    rows = chosen.costs.rows()
    with pytest.raises(InputError, match=r"f.npy' cannot be written \(No such file"):
        chosen.query(X, 3)
    assert chosen.costs.rows() == rows
    (tmp_path / "no").mkdir()
    assert len(chosen.query(X, 3)) == 3


def test_no_file_names_what_is_written_to(tmp_path: Path) -> None:
    chosen = probed(Probe(tmp_path / "f.npy")).fit(X[:20], Y[:20])
    chosen.save(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"pass proxy=\.\.\. to load"):
        PrunedProxySelector.load(tmp_path / "file", dense())
    for kind in (Probe(), Probe(tmp_path / "other.npy")):
        loaded = PrunedProxySelector.load(tmp_path / "file", dense(), proxy=kind)
        np.testing.assert_array_equal(loaded.query(X, 5), chosen.query(X, 5))
    assert b"f.npy" not in (tmp_path / "file").read_bytes()


# ---- what is refused


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(-1, 2, 3)).mean(1)


class AtPositions(nn.Module):
    """A head at every position, of which one is taken: the last, or that with the largest answer."""

    def __init__(self, largest: bool, outputs: int) -> None:
        super().__init__()
        self.mix, self.head, self.largest = nn.Linear(3, 5), nn.Linear(5, outputs), largest

    def forward(self, x: Tensor) -> Tensor:
        made = self.head(self.mix(x.reshape(-1, 2, 3)).tanh())  # [b 2 c]
        return made.amax(1) if self.largest else made[:, -1]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x).relu())


def test_a_head_at_one_of_several_positions() -> None:
    chosen = probed(model=seeded(lambda: AtPositions(False, 3))).fit(X[:20], Y[:20])
    torch.testing.assert_close(chosen.signals(X).logits, collect(chosen.model, X).logits)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: AtPositions(True, 1), "makes them, but not of what it would be given without itself"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.ReLU()), r"no nn.Linear makes them, logits \[2, 3\] of Sequential"),
        (lambda: nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 3, 1), nn.Flatten()), "no nn.Linear makes them"),
        (Averaged, "no nn.Linear makes them"),
        (Tied, "shares its weights: one.weight, head.weight, head.bias are the same"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), "parametrised or hooked"),
        (lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3).requires_grad_(False)), "'1' is frozen"),
    ],
)
def test_a_head_that_is_no_linear_layer_is_refused(make: Callable[[], nn.Module], match: str) -> None:
    loss = nn.BCEWithLogitsLoss() if "not of what" in match else "cross_entropy"
    chosen = probed(model=seeded(make), trainer=trainer(loss=loss))
    with pytest.raises(UnsupportedModelError, match=match):
        chosen.fit(X[:20], Y[:20])
    assert (chosen.round, len(chosen.costs)) == (0, 0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"progressive": ProgressivePruning(1, 1)}, r"progressive= prunes .* proxy=Probe\(.*never does"),
        ({"sync_importance": "l1", "sync_every": 2}, r"sync_importance= prunes .* proxy=Probe\(.*never does"),
        ({"proxy": Probe(refresh=0.9)}, r"refresh=0.9 .* give sync_every= as well"),
        (
            {"proxy": Probe(head="logistic"), "trainer": trainer(loss=nn.BCEWithLogitsLoss())},
            "head='logistic' minimises cross entropy",
        ),
    ],
)
def test_options_that_contradict_one_another(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        probed(**options)


def test_logistic_regression_needs_classes_and_has_no_dynamics() -> None:
    chosen = probed(Probe(head="logistic"))
    with pytest.raises(InputError, match="all 20 labels are 1"):
        chosen.fit(X[:20], torch.ones(20).long())
    with pytest.raises(InputError, match="the number of a class, 0 to 2"):
        chosen.fit(X[:20], torch.eye(3)[Y[:20]] * 0.9 + 1 / 30)
    with pytest.raises(InputError, match="takes no `recorder`"):
        chosen.fit(X[:20], Y[:20]).select(X, 3, scorer="el2n")


@pytest.mark.filterwarnings("ignore:V2 with sync_every")
def test_refresh_compares_classes() -> None:
    chosen = probed(Probe(refresh=0.9), sync_every=1)
    with pytest.raises(InputError, match="compares answers with the number of a class"):
        chosen.fit(X[:20], torch.eye(3)[Y[:20]] * 0.9 + 1 / 30)
    assert chosen.round == 0


def test_features_that_are_not_finite_are_named() -> None:
    net = dense()
    with torch.no_grad():
        net[2].weight[0] = 1e38
    with pytest.raises(NonFiniteError, match="are NaN or infinite"):
        probed(model=net).fit(X[:20] * 1e9, Y[:20])


# ---- as a classifier of scikit-learn


def test_an_estimator_takes_a_kind_of_proxy_and_keeps_the_features_over_rounds() -> None:
    est = PruneFuseEstimator(dense(), proxy=Probe(dropout=0.25), trainer=trainer(), random_state=0, scorer="margin")
    labelled = list(range(20))
    for _ in range(3):
        est.fit(POOL[labelled], LABELS[labelled])
        rest = np.setdiff1d(np.arange(len(POOL)), labelled)
        labelled += rest[est.query(POOL[rest], 4)].tolist()  # a new array each round, as hosts hand over
    assert labelled == loop(probed(Probe(dropout=0.25)))
    assert computed(est.selector_) == 120
    other = clone(est)
    assert other.proxy == Probe(dropout=0.25)
    assert other.proxy is not est.proxy
    rows = labelled[:-4]
    np.testing.assert_array_equal(other.fit(POOL[rows], LABELS[rows]).predict(POOL), est.predict(POOL))
    np.testing.assert_allclose(pickle.loads(pickle.dumps(est)).predict_proba(POOL), est.predict_proba(POOL), atol=1e-5)
    assert est.fit_target().score(POOL, LABELS) > 0.5


def test_an_estimator_takes_another_network() -> None:
    est = PruneFuseEstimator(dense(), proxy=mlp(6, 4, 3), trainer=trainer(), random_state=0)
    assert clone(est).fit(POOL, LABELS).selector_.model[0].out_features == 4
    assert est.proxy is est.get_params()["proxy"]


def test_an_active_learner_of_modal() -> None:
    models = pytest.importorskip("modAL.models")
    est = PruneFuseEstimator(dense(), proxy=Probe(), trainer=trainer(), random_state=0)
    learner = models.ActiveLearner(est, query_strategy("margin"), POOL[:20], LABELS[:20])
    pool, labels = POOL[20:], LABELS[20:]
    for _ in range(2):
        rows, _ = learner.query(pool, n_instances=5)
        learner.teach(pool[rows], labels[rows])
        pool, labels = np.delete(pool, rows, 0), np.delete(labels, rows, 0)
    assert computed(learner.estimator.selector_) == 120
