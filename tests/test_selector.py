"""The loop as the paper states it, with a trainer that knows nothing of this library."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import PlainTrainer, assert_same_picks, blobs, mlp, same, seeded, weights
from torch import Tensor, nn

from prunefuse_al.errors import BudgetError, FallbackWarning, FusionError, InputError, NonFiniteError, NotFittedError
from prunefuse_al.scorers import SCORERS, get_scorer, least_confidence
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.training import TorchTrainer, reader
from prunefuse_al.training.distillation import Distillation
from prunefuse_al.types import RngLike, Selection, Signals

X, Y = blobs(160)


def selector(ratio: float = 0.5, **options: Any) -> PrunedProxySelector:
    options = {"trainer": PlainTrainer(), "random_state": 0, "fine_tune_lr_scale": None, **options}
    return PrunedProxySelector(mlp(6, 16, 12, 3), ratio, **options)


def test_the_loop() -> None:
    chosen = selector()
    labelled = list(range(10))
    for number in range(1, 4):
        chosen.fit(X[labelled], Y[labelled])
        mask = np.ones(len(X), bool)
        mask[labelled] = False
        picked = chosen.query(X, 8, candidates=mask)
        assert picked.dtype == np.int64
        assert len(set(picked.tolist()) | set(labelled)) == len(labelled) + 8
        labelled += picked.tolist()
        assert chosen.round == number
    target = chosen.fit_target(X[labelled], Y[labelled])
    assert [layer.out_features for layer in target.children() if isinstance(layer, nn.Linear)] == [16, 12, 3]
    assert (target(X).argmax(1) == Y).float().mean() > 0.9
    stages = [(row.round, row.stage) for row in chosen.costs.rows()]
    assert stages == [
        *[(1, "prune"), (1, "train_proxy"), (1, "score"), (1, "rank"), (2, "train_proxy"), (2, "score"), (2, "rank")],
        *[(3, "train_proxy"), (3, "score"), (3, "rank"), (3, "fuse"), (3, "train_target")],
    ]
    assert chosen.costs.ratio() < 0.6


def test_the_users_network_is_never_changed() -> None:
    model: Any = mlp(6, 16, 3).train()
    before = weights(model)
    chosen = PrunedProxySelector(model, trainer=PlainTrainer(), random_state=0, fine_tune_lr_scale=None)
    chosen.fit(X, Y).fit_target()
    assert same(weights(model), before)
    assert model.training
    fused = weights(chosen.fuse())
    with torch.no_grad():
        model[0].weight.zero_()  # nor does changing it later change the selector
    assert same(weights(chosen.fuse()), fused)


def test_every_round_starts_from_the_same_pruned_weights() -> None:
    chosen, fresh = selector(), selector()
    first = weights(chosen.fit(X[:40], Y[:40]).model)
    chosen.fit(X[40:], Y[40:])
    assert same(weights(chosen.fit(X[:40], Y[:40]).model), first)
    assert same(weights(fresh.fit(X[:40], Y[:40]).model), first)


def test_warm_start_goes_on() -> None:
    cold, warm = selector(), selector(warm_start=True)
    for each in (cold, warm):
        each.fit(X[:40], Y[:40]).fit(X[:40], Y[:40])
    assert warm.history < cold.history
    assert cold.fit(X[:40], Y[:40], warm_start=True).history < cold.fit(X[:40], Y[:40]).history


def test_fused_equals_proxy_before_fine_tuning() -> None:
    chosen = selector().fit(X, Y)
    torch.testing.assert_close(chosen.fuse()(X), chosen.model(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(chosen.predict_proba(X).sum(1), 1, rtol=1e-12)
    assert chosen.predict_proba(X).dtype == np.float64


def test_pruning_ratio_zero_is_the_dense_baseline() -> None:
    dense, model = selector(0), mlp(6, 16, 12, 3)
    PlainTrainer().fit(model, torch.utils.data.TensorDataset(X, Y))
    assert same(weights(dense.fit(X, Y).model), weights(model))
    assert dense.costs.ratio() == 1.0
    assert same(weights(dense.fuse()), weights(model))


def test_another_network_selects_and_nothing_is_fused() -> None:
    other = mlp(6, 4, 3)
    chosen = selector(proxy=other).fit(X, Y)
    assert len(chosen.query(X, 3)) == 3
    assert same(weights(other), weights(mlp(6, 4, 3)))
    with pytest.raises(FusionError, match="fit_target"):
        chosen.fuse()
    target, alone = chosen.fit_target(), mlp(6, 16, 12, 3)
    PlainTrainer().fit(alone, torch.utils.data.TensorDataset(X, Y))
    assert same(weights(target), weights(alone))


GIVEN = {"logits", "features", "labels", "labelled_features"}  # what comes of a plain trainer


def test_a_trainer_that_cannot_give_what_is_needed_is_named() -> None:
    chosen = selector(scorer="bald").fit(X[:20], Y[:20])
    with pytest.raises(InputError, match=r"PlainTrainer\.infer was asked for mc_logits and gave none"):
        chosen.query(X, 7)


@pytest.mark.parametrize("name", [name for name, cls in SCORERS.items() if cls().needs <= GIVEN])
def test_queries_are_repeatable_and_the_same_from_copies(name: str) -> None:
    picklable = not any(need.startswith("labelled_") for need in get_scorer(name).needs)
    options: dict[str, Any] = {"scorer": name}
    if "dynamics" in get_scorer(name).needs:  # the plain trainer records none
        options["trainer"] = TorchTrainer(4, 8, device="cpu", progress=False)
    chosen = selector(**options).fit(X[:20], Y[:20])
    first = chosen.query(X, 7)
    np.testing.assert_array_equal(first, chosen.query(X, 7))
    np.testing.assert_array_equal(first, copy.deepcopy(chosen).query(X, 7))
    if picklable:  # labelled data does not go into pickles
        np.testing.assert_array_equal(first, pickle.loads(pickle.dumps(chosen)).query(X, 7))
    else:
        with pytest.raises(NotFittedError, match="the labelled data is not in memory"):
            pickle.loads(pickle.dumps(chosen)).query(X, 7)
    np.testing.assert_array_equal(first, selector(**options).fit(X[:20], Y[:20]).query(X, 7))


def test_random_picks_differ_between_rounds() -> None:
    chosen = selector(scorer="random").fit(X, Y)
    first = chosen.query(X, 20)
    assert set(first) != set(chosen.fit(X, Y).query(X, 20))


def test_picks_the_least_confident_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = selector().fit(X[:20], Y[:20])
    rows = torch.arange(20, 160, 3)
    with torch.no_grad():
        scores = least_confidence(chosen.model(X))
    whole = chosen.query(X, 9, candidates=rows)
    monkeypatch.setattr(reader, "CHUNK", 10)
    trainer = chosen.options.trainer
    assert isinstance(trainer, PlainTrainer)
    trainer.inferred.clear()
    assert_same_picks(whole, chosen.query(X, 9, candidates=rows), scores)
    assert_same_picks(whole, rows[scores[rows].argsort(descending=True)[:9]], scores)
    assert max(trainer.inferred) == 10
    np.testing.assert_allclose(chosen.predict_proba(X), selector().fit(X[:20], Y[:20]).predict_proba(X), rtol=1e-6)


class FarFromLabelled:
    """A scorer that needs features of both sides and predicted labels."""

    needs = frozenset({"features", "labelled_features", "labels"})

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        assert signals.features is not None
        assert signals.labelled_features is not None
        assert signals.labels is not None
        assert signals.logits is None or len(signals.logits) == len(signals.features)
        distance = torch.cdist(signals.features, signals.labelled_features).amin(1)
        self.distances = torch.zeros(len(X)).index_copy(0, signals.indices, distance)
        return Selection(signals.indices[distance.argsort(descending=True)[:k]])


def test_a_scorer_of_the_users_own_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = FarFromLabelled()
    chosen = selector(scorer=scorer).fit(X[:20], Y[:20])
    picked = chosen.query(X, 5)
    assert not set(picked) & set(range(20))
    monkeypatch.setattr(reader, "CHUNK", 50)
    assert_same_picks(picked, chosen.query(X, 5), scorer.distances)
    with pytest.raises(NotFittedError, match="labelled data is not in memory"):
        pickle.loads(pickle.dumps(chosen)).query(X, 5)


@pytest.mark.parametrize("scorer", ["k_center", "badge", "typiclust", "probcover", "cal"])
def test_diverse_scorers_are_asked_by_name_and_read_in_chunks(scorer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = selector(scorer=scorer).fit(X[:20], Y[:20])
    rows = np.arange(20, 90)
    picked = chosen.query(X, 8, candidates=rows)
    assert len(set(picked)) == 8
    assert set(picked) <= set(rows)
    seen = []
    for chunk in (reader.CHUNK, 25):
        monkeypatch.setattr(reader, "CHUNK", chunk)
        seen.append(Listens(get_scorer(scorer)))
        chosen.select(X, 8, rows, scorer=seen[-1])
    whole, parts = (vars(each.signals) for each in seen)
    assert parts.pop("outputs") == whole.pop("outputs")
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=1e-4, atol=1e-6)  # a pick may hang on the last bit


class Listens:
    """Keeps what a scorer is given."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.needs = scorer, scorer.needs

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        self.signals = signals
        selection: Selection = self.scorer.select(signals, k, rng=rng)
        return selection


class NeedsPixels(FarFromLabelled):
    needs = frozenset({"pixels"})


def test_what_a_pool_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(InputError, match="NeedsPixels needs pixels, which a pool cannot"):
        selector(scorer=NeedsPixels()).fit(X, Y).query(X, 3)


def test_candidates_as_numbers_and_as_a_mask_agree() -> None:
    chosen = selector().fit(X, Y)
    mask = np.arange(160) % 7 == 3
    np.testing.assert_array_equal(chosen.query(X, 5, mask), chosen.query(X, 5, np.flatnonzero(mask)))
    assert set(chosen.query(X, int(mask.sum()), torch.from_numpy(mask))) == set(np.flatnonzero(mask))


@pytest.mark.parametrize(
    ("k", "candidates", "error", "message"),
    [
        (161, None, BudgetError, "k=161 but there are 160 candidates"),
        (0, None, BudgetError, "k=0 .* ask for 1 to 160"),
        (1, np.zeros(160, bool), BudgetError, "nothing is left to label"),
        (1, [], BudgetError, "nothing is left to label"),
        (1, np.zeros(7, bool), InputError, "mask of length 7, but the pool has 160 rows"),
        (1, [3, 160], InputError, "row 160, but the pool has rows 0 to 159"),
        (1, [-1], InputError, "row -1"),
        (1, [3, 3, 4], InputError, "1 repeated rows"),
        (1, np.array([9, 4, 9, 0, 9, 4], np.uint8), InputError, "3 repeated rows"),
        (1, [0.5], InputError, "float64"),
        (1.5, None, BudgetError, "whole number"),
    ],
)
def test_bad_queries(k: Any, candidates: Any, error: type[Exception], message: str) -> None:
    chosen = selector().fit(X, Y)
    rows = len(chosen.costs)
    with pytest.raises(error, match=message):
        chosen.query(X, k, candidates)
    assert len(chosen.costs) == rows


def test_bad_rows_of_a_pool_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", 64)
    pool = X.clone()
    pool[[101, 140]] = float("nan")
    with pytest.raises(NonFiniteError, match=r"rows \[101\]"):
        selector().fit(X, Y).query(pool, 3)


def test_a_failed_fit_changes_nothing() -> None:
    chosen = selector().fit(X, Y)
    before, rows, picked = weights(chosen.model), chosen.costs.rows(), chosen.query(X, 4)
    rows = chosen.costs.rows()
    with pytest.raises(NonFiniteError):
        chosen.fit(torch.full_like(X, float("nan")), Y)
    with pytest.raises(InputError, match="no labels"):
        chosen.fit(X)
    assert same(weights(chosen.model), before)
    assert (chosen.round, chosen.costs.rows()) == (1, rows)
    np.testing.assert_array_equal(chosen.query(X, 4), picked)


@pytest.mark.parametrize("call", ["query", "fuse", "fit_target", "predict_proba", "proxy", "model"])
def test_nothing_works_before_fit(call: str) -> None:
    chosen = selector()
    calls: dict[str, Callable[[], Any]] = {
        "query": lambda: chosen.query(X, 1),
        "fuse": chosen.fuse,
        "fit_target": lambda: chosen.fit_target(X, Y),
        "predict_proba": lambda: chosen.predict_proba(X),
        "proxy": lambda: chosen.proxy,
        "model": lambda: chosen.model,
    }
    with pytest.raises(NotFittedError, match="call fit"):
        calls[call]()
    assert len(chosen.costs) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, r"pruning_ratio=1.0.*0 <= p < 1"),
        ({"ratio": -0.1}, r"pruning_ratio=-0.1"),
        ({"scorer": "entrophy"}, "did you mean 'entropy'"),
        ({"cross": "presrve"}, "presrve"),
        ({"sync_every": 0}, "sync_every=0"),
        ({"fine_tune_lr_scale": 0.0}, "fine_tune_lr_scale=0.0"),
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": "seven"}, "seven"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        selector(**options)


def test_random_state_forms() -> None:
    generator = np.random.default_rng(3)
    a, b = selector(random_state=generator), selector(random_state=generator)
    assert a.options.entropy != b.options.entropy
    assert selector(random_state=np.random.RandomState(3)).options.entropy >= 0
    assert selector(random_state=None).options.entropy != selector(random_state=None).options.entropy
    assert selector(random_state=np.int64(5)).options.entropy == 5


def test_a_trainer_without_lr_scale_is_told() -> None:
    with pytest.warns(FallbackWarning, match="PlainTrainer has no `lr_scale`"):
        selector(fine_tune_lr_scale=0.2).fit(X, Y).fit_target()


def test_a_trainer_of_its_own_for_the_target() -> None:
    own = PlainTrainer(epochs=0)
    chosen = selector(target_trainer=own, fine_tune_lr_scale=0.2).fit(X, Y)
    with pytest.raises(UnboundLocalError):  # no epoch, no loss: the fake's own mistake, which must come through
        chosen.fit_target()
    assert own.seen_teachers == [None]
    assert [row.stage for row in chosen.costs.rows()] == ["prune", "train_proxy"]


def test_the_teacher_is_the_proxy_only_when_the_trainer_distils() -> None:
    trainer = PlainTrainer()
    chosen = selector(trainer=trainer).fit(X, Y)
    chosen.fit_target()
    assert trainer.seen_teachers == [None, None]
    distilling = PlainTrainer()
    distilling.distillation = "on"  # type: ignore[attr-defined]
    chosen = selector(target_trainer=distilling).fit(X, Y)
    chosen.fit_target()
    assert distilling.seen_teachers == [chosen.model]
    row = chosen.costs.rows()[-1]
    plain_forward = row.samples * (6 * 16 + 16 * 12 + 12 * 3)
    assert row.forward_macs == plain_forward  # this fake never calls its teacher


def test_datasets_without_labels_and_pools_with_them() -> None:
    pairs = torch.utils.data.TensorDataset(X, Y)
    chosen = selector().fit(pairs)
    np.testing.assert_array_equal(chosen.query(pairs, 5), chosen.query(X, 5))
    with pytest.raises(InputError, match="no labels"):
        selector().fit([1.0, 2.0])


def pictures(seed: int = 0) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            *(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)),
        ),
        seed,
    )


def torch_trainer(**options: Any) -> TorchTrainer:
    return TorchTrainer(**{"epochs": 15, "batch_size": 16, "progress": False, "device": "cpu", **options})


def test_batch_norm_is_folded_for_pools_only_where_it_is_exact() -> None:
    picks = []
    for fold in (True, False):
        chosen = PrunedProxySelector(pictures(), trainer=torch_trainer(), random_state=0, fold_batchnorm=fold)
        picks.append(chosen.fit(X, Y).query(X, 12))
        scores = least_confidence(torch.from_numpy(chosen.predict_proba(X)).log())
        row = next(row for row in chosen.costs.rows() if row.stage == "score")
        assert row.samples == 160
        assert (row.parameters < sum(p.numel() for p in chosen.model.parameters())) == fold
        assert any(isinstance(m, nn.BatchNorm1d) for m in chosen.model.modules())
    assert_same_picks(picks[0], picks[1], scores)


@pytest.mark.parametrize("cross", ["preserve", "copy", 0.5])
def test_statistics_are_estimated_again_where_fusing_made_them_wrong(cross: Any) -> None:
    chosen = PrunedProxySelector(pictures(), trainer=torch_trainer(), random_state=0, cross=cross).fit(X, Y)
    target = chosen.fuse()
    assert ("recalibrate_target" in chosen.costs.totals()) == (cross != "preserve")
    hidden: list[Tensor] = []
    hook = target.get_submodule("1").register_forward_hook(lambda *call: hidden.append(call[2]))
    with torch.no_grad():
        target.eval()(X)
    hook.remove()
    if cross != "preserve":
        scale = (
            target.get_parameter("1.weight").detach().abs()
        )  # what is normalised by right statistics has this spread
        torch.testing.assert_close(hidden[0].std(0), scale, atol=1e-3, rtol=1e-3)
        with pytest.raises(NotFittedError, match="pass it to fuse"):
            pickle.loads(pickle.dumps(chosen)).fuse()
    again = pickle.loads(pickle.dumps(chosen)).fuse(X)
    assert same(weights(again), weights(target))


def test_a_pretrained_network_is_repaired_or_recalibrated_once_after_pruning() -> None:
    model = pictures()
    torch_trainer().fit(model, (X, Y), seed=0)
    for options, stage in (({}, "repair"), ({"repair": False}, "recalibrate"), ({"pretrained": False}, "recalibrate")):
        chosen = PrunedProxySelector(model, trainer=torch_trainer(), random_state=0, **options).fit(X, Y).fit(X, Y)
        each = ["head"] * (stage == "repair") + ["train_proxy"]
        assert [row.stage for row in chosen.costs.rows()] == ["prune", stage, *each, *each]
    alone = {"pretrained": False, "recalibrate": False}
    left_alone = PrunedProxySelector(model, trainer=torch_trainer(), random_state=0, **alone).fit(X, Y)
    assert [row.stage for row in left_alone.costs.rows()] == ["prune", "train_proxy"]


def test_the_target_is_fine_tuned_at_a_lower_rate() -> None:
    trainer = torch_trainer(epochs=3, scheduler="constant", lr=0.1)
    rates: list[float] = []
    for scale in (0.2, None):
        chosen = PrunedProxySelector(pictures(), trainer=trainer, random_state=0, fine_tune_lr_scale=scale).fit(X, Y)
        before = weights(chosen.fuse())
        after = weights(chosen.fit_target())
        rates.append(float(sum((after[name].double() - before[name].double()).abs().sum() for name in before)))
    assert rates[0] < rates[1]
    assert trainer.lr_scale == 1.0  # the user's object is not touched


def test_distillation_is_taught_by_the_proxy_and_paid_for() -> None:
    trainer = torch_trainer(epochs=3)
    plain = PrunedProxySelector(pictures(), trainer=trainer, random_state=0).fit(X, Y)
    taught = PrunedProxySelector(pictures(), trainer=trainer, random_state=0, distillation=Distillation(0.9)).fit(X, Y)
    proxy = weights(taught.model)
    targets = [weights(each.fit_target()) for each in (plain, taught)]
    assert not same(*targets)
    assert taught.costs.rows()[-1].forward_macs > plain.costs.rows()[-1].forward_macs
    assert taught.costs.rows()[-1].backward_macs == plain.costs.rows()[-1].backward_macs
    assert same(weights(taught.model), proxy)
    assert trainer.distillation is None
    with pytest.raises(InputError, match="PlainTrainer has no `distillation`"):
        selector(distillation=Distillation()).fit(X, Y).fit_target()


def test_a_memory_mapped_pool_of_bytes(tmp_path: Path) -> None:
    pool = np.random.default_rng(0).integers(0, 255, (500, 6), dtype=np.uint8)
    np.save(tmp_path / "pool.npy", pool)
    trainer = torch_trainer(transform=_to_float, eval_transform=_to_float)
    chosen = PrunedProxySelector(mlp(6, 16, 3), trainer=trainer, random_state=0)
    chosen.fit(pool[:60], pool[:60].argmax(1) % 3)
    np.testing.assert_array_equal(chosen.query(np.load(tmp_path / "pool.npy", "r"), 9), chosen.query(pool, 9))


def _to_float(x: Tensor) -> Tensor:
    return x.float() / 255


def test_deep_copies_share_the_data() -> None:
    chosen = selector().fit(X, Y)
    assert same(weights(copy.deepcopy(chosen).fit_target()), weights(chosen.fit_target()))


def test_sync_and_another_network_exclude_each_other() -> None:
    with pytest.raises(InputError, match="one of the two"):
        selector(proxy=mlp(6, 4, 3), sync_every=1)


def test_repr_tells_what_it_is() -> None:
    text = repr(selector().fit(X, Y))
    assert "pruning_ratio=0.5" in text
    assert "round 1" in text
