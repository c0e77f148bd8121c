"""Scoring a random part of a pool, and a pruning ratio that falls as labels grow."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import assert_same, assert_same_picks, blobs, mlp, trainer
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from prunefuse_al import (
    FallingRatio,
    PrunedProxySelector,
    PruneFuseEstimator,
    ShrinkPerturb,
    prune,
    selector_preset,
)
from prunefuse_al.errors import CheckpointError, InputError
from prunefuse_al.scorers import LeastConfidence, Margin
from prunefuse_al.training import ProgressivePruning

X, Y = blobs(200)
FALLING = FallingRatio(0.75, 0.25, labels=(40, 160), steps=2)


def selector(ratio: Any = 0.5, **options: Any) -> PrunedProxySelector:
    options = {"trainer": trainer(), "random_state": 0, "scorer": "margin", **options}
    return PrunedProxySelector(mlp(6, 16, 16, 3), ratio, **options)


def width(chosen: PrunedProxySelector) -> int:
    return chosen.model[0].out_features  # type: ignore[union-attr,return-value]


# ---- a part of the pool ----


@pytest.mark.parametrize("scorer", ["margin", "k_center", "random", "badge"])
def test_a_share_of_the_candidates_is_scored(scorer: str) -> None:
    chosen = selector(scorer=scorer, candidate_fraction=0.25).fit(X[:40], Y[:40])
    candidates = np.arange(40, 200)[::-1]
    picked = chosen.select(X, 10, candidates)
    assert picked.considered == 40
    assert len(set(picked.indices.tolist())) == 10
    assert int(picked.indices.min()) >= 40
    if scorer != "random":
        known = 40 if scorer == "k_center" else 0  # what is labelled is looked at as well
        assert [row.samples for row in chosen.costs.rows() if row.stage == "score"] == [40 + known]
    np.testing.assert_array_equal(chosen.query(X, 10, candidates), picked.indices)
    others = chosen.select(X, 10, candidates, rng=7).indices
    assert set(others.tolist()) != set(picked.indices.tolist())


def test_what_is_picked_is_the_best_of_what_was_drawn() -> None:
    whole, part = selector().fit(X, Y), selector(candidate_fraction=0.5).fit(X, Y)
    every = whole.select(X, 200)
    assert every.considered == 200
    assert every.scores is not None
    score = torch.empty(200)
    score[every.indices] = every.scores
    drawn = part.select(X, 100)
    assert drawn.considered == 100  # so all of these were drawn
    best = part.select(X, 30)
    assert best.scores is not None
    # Read in batches of another size, so to rounding, and in the same order up to ties.
    highest = score[drawn.indices].sort(descending=True, stable=True)
    torch.testing.assert_close(best.scores, highest.values[:30].to(best.scores.dtype), rtol=1e-4, atol=1e-6)
    assert_same_picks(best.indices, drawn.indices[highest.indices[:30]], score)


@pytest.mark.parametrize(("fraction", "k", "scored"), [(0.001, 3, 3), (0.001, 200, 200), (0.501, 3, 101), (1, 3, 200)])
def test_there_are_always_enough_to_pick_from(fraction: float, k: int, scored: int) -> None:
    picked = selector(candidate_fraction=fraction).fit(X[:40], Y[:40]).select(X, k)
    assert picked.considered == scored
    assert len(picked.indices.unique()) == k


def test_all_candidates_are_scored_as_ever() -> None:
    for scorer in ("margin", "random", "k_center"):
        whole, plain = selector(scorer=scorer, candidate_fraction=1.0), selector(scorer=scorer)
        np.testing.assert_array_equal(whole.fit(X, Y).query(X, 9), plain.fit(X, Y).query(X, 9))


def test_rounds_draw_other_parts_and_a_loaded_selector_the_same(tmp_path: Path) -> None:
    chosen = selector(candidate_fraction=0.2, scorer="random").fit(X[:40], Y[:40])
    chosen.save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 16, 3))
    first = chosen.query(X, 20)
    np.testing.assert_array_equal(loaded.query(X, 20), first)
    assert set(chosen.fit(X[:40], Y[:40]).query(X, 20).tolist()) != set(first.tolist())


@pytest.mark.parametrize("fraction", [0, 0.0, -0.5, 1.01, float("nan"), True, "half", None])
def test_shares_outside_of_what_there_is(fraction: Any) -> None:
    with pytest.raises(InputError, match=r"candidate_fraction=.*share of the candidates scored, 0 < share <= 1"):
        selector(candidate_fraction=fraction)


# ---- a falling ratio ----


@given(st.integers(1, 500), st.integers(2, 50), st.integers(1, 6), st.floats(0.3, 0.95), st.floats(0, 0.29))
def test_law_a_falling_ratio_never_rises_and_has_so_many_steps(
    first: int, factor: int, steps: int, start: float, end: float
) -> None:
    ratio = FallingRatio(start, end, (first, first * factor), steps)
    found = [ratio(n) for n in range(first * factor + 2)]
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert all(value == start for value in found[: first + 1])
    assert found[-1] == found[-2] == end
    assert len(set(found)) <= steps + 1
    if first > 50:  # with few labels a step may pass over more than one
        assert len(set(found)) == steps + 1


def test_where_the_ratio_changes_the_proxy_is_cut_anew_from_the_same_network() -> None:
    chosen = selector(FALLING)
    for m in (30, 40, 80, 100, 160):
        chosen.fit(X[:m], Y[:m])
        ratio = FALLING(m)
        expected = prune(mlp(6, 16, 16, 3), X[:2], ratio)
        assert chosen.proxy.channel_map == expected.channel_map
        assert chosen.proxy.report().pruning_ratio == ratio
        assert_same(chosen.model, selector(ratio).fit(X[:m], Y[:m]).model)
        assert_same(chosen.fuse(), selector(ratio).fit(X[:m], Y[:m]).fuse())
    cuts = [(row.round, row.parameters) for row in chosen.costs.rows() if row.stage == "prune"]
    assert [number for number, _ in cuts] == [1, 3, 5]
    assert [a for _, a in cuts] == sorted({a for _, a in cuts})  # each wider than the one before


def test_with_warm_starts_it_goes_on_from_the_new_cut() -> None:
    for warm in (True, ShrinkPerturb(epochs=1)):
        chosen = selector(FALLING, warm_start=warm)
        for m in (40, 50, 80, 90):
            chosen.fit(X[:m], Y[:m])
            assert chosen._state.begun is not None
            if m in (40, 80):
                assert_same(chosen._state.begun.network, prune(mlp(6, 16, 16, 3), X[:2], FALLING(m)).module)
        rows = [row.samples - 2 for row in chosen.costs.rows() if row.stage == "train_proxy"]
        assert rows == [3 * 40, (3 if warm is True else 1) * 50, 3 * 80, (3 if warm is True else 1) * 90]


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    ratio = lambda n: 0.5 if n < 50 else 0  # noqa: E731
    chosen = selector(ratio).fit(X[:40], Y[:40])
    assert width(chosen) == 8
    chosen.save(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"could not hold pruning_ratio; pass pruning_ratio=\.\.\."):
        PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 16, 3))
    loaded = PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 16, 3), pruning_ratio=ratio)
    assert width(loaded.fit(X[:60], Y[:60])) == 16  # at 0 it is the dense network
    assert_same(loaded.model, selector(0).fit(X[:60], Y[:60]).model)
    with pytest.raises(InputError, match=r"gave 1.5 for 40 labelled samples; .*0 <= p < 1"):
        selector(lambda n: 1.5).fit(X[:40], Y[:40])


def test_saved_in_the_middle_it_goes_on_with_the_same_picks(tmp_path: Path) -> None:
    chosen = selector(FALLING, candidate_fraction=0.5, warm_start=ShrinkPerturb()).fit(X[:40], Y[:40])
    chosen.fit(X[:50], Y[:50]).save(tmp_path / "s")
    loaded, copied = PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 16, 3)), pickle.loads(pickle.dumps(chosen))
    assert loaded.options.pruning_ratio == FALLING
    for m in (60, 90, 160):
        for each in (chosen, loaded, copied):
            each.fit(X[:m], Y[:m])
        for other in (loaded, copied):
            assert_same(other.model, chosen.model)
            np.testing.assert_array_equal(other.query(X, 20), chosen.query(X, 20))
    assert [row.stage for row in loaded.costs.rows() if row.stage == "prune"] == ["prune"] * 3


def test_before_any_label_it_starts_at_the_first_ratio() -> None:
    chosen = selector(FALLING).prepare(X)
    assert width(chosen) == width(chosen.fit(X[:40], Y[:40])) == 4
    assert [row.stage for row in chosen.costs.rows()] == ["prune", "train_proxy"]
    assert width(chosen.fit(X, Y)) == 12


@pytest.mark.parametrize("importance", [None, "same", "random"])
def test_between_syncs_as_well(importance: Any) -> None:
    chosen = selector(FALLING, sync_every=2, sync_importance=importance, target_trainer=trainer(epochs=1))
    widths = []
    for m in (30, 40, 50, 80, 90):
        chosen.fit(X[:m], Y[:m])
        widths.append(width(chosen))
        torch.testing.assert_close(chosen.fuse().eval()(X), chosen.model.eval()(X), rtol=1e-4, atol=1e-5)
    assert widths == [4, 4, 4, 8, 8]


def test_channels_may_leave_during_training_to_a_ratio_that_falls() -> None:
    chosen = selector(FALLING, progressive=ProgressivePruning(2, 2))
    for m, expected in ((40, 4), (80, 8), (160, 12)):
        assert width(chosen.fit(X[:m], Y[:m])) == expected


def test_the_estimator_passes_them_on() -> None:
    est = PruneFuseEstimator(
        mlp(6, 16, 16, 3), FALLING, trainer=trainer(), scorer="margin", random_state=0, candidate_fraction=0.5
    )
    copied = clone(est)
    assert copied.pruning_ratio == FALLING
    assert copied.candidate_fraction == 0.5
    x, y = X.numpy(), Y.numpy()
    direct = selector(FALLING, candidate_fraction=0.5)
    for m in (40, 80):
        np.testing.assert_array_equal(est.fit(x[:m], y[:m]).query(x, 9), direct.fit(X[:m], Y[:m]).query(X, 9))
    assert [row.round for row in est.costs_.rows() if row.stage == "prune"] == [1, 2]


def test_cheap_rounds_by_name() -> None:
    options = selector_preset("cheap_rounds")
    chosen = selector(0.5, **options, trainer=trainer(epochs=6))
    epochs = []
    for m in (40, 80):
        chosen.fit(X[:m], Y[:m])
        epochs.append(len(chosen.history.epochs))
    assert epochs == [6, 2]
    assert chosen.select(X, 9).considered == round(0.3 * len(X))
    again = {"scorer": "margin", "random_state": 0, **options}
    estimator = PruneFuseEstimator(mlp(6, 16, 16, 3), 0.5, trainer=trainer(epochs=6), **again)
    estimator.fit(X[:40].numpy(), Y[:40].numpy()).fit(X[:80].numpy(), Y[:80].numpy())
    np.testing.assert_array_equal(estimator.query(X.numpy(), 9), chosen.query(X, 9))


def test_cheapest_rounds_by_name() -> None:
    options = selector_preset("cheapest_rounds")
    chosen = selector(options.pop("pruning_ratio"), **options, trainer=trainer(epochs=20))
    epochs = []
    for m in (40, 80):
        chosen.fit(X[:m], Y[:m])
        epochs.append(len(chosen.history.epochs))
    assert epochs == [20, 2]
    assert width(chosen) == int(16 * 0.3)
    assert chosen.select(X, 9).considered == round(0.3 * len(X))


def test_what_is_recommended() -> None:
    chosen = PrunedProxySelector(
        mlp(6, 16, 16, 3), **selector_preset("recommended"), trainer=trainer(epochs=6), random_state=0
    )
    epochs = []
    for m in (40, 80):
        chosen.fit(X[:m], Y[:m])
        epochs.append(len(chosen.history.epochs))
    assert epochs == [6, 2]
    picked = chosen.query(X, 9)
    np.testing.assert_array_equal(picked, chosen.select(X, 9, scorer=Margin()).indices)


def test_the_papers_settings() -> None:
    network = mlp(6, 16, 16, 3)
    chosen = PrunedProxySelector(network, **selector_preset("paper"), trainer=trainer(epochs=3), random_state=0)
    for m in (40, 80):
        before = chosen.fit(X[:m], Y[:m]).proxy
    again = PrunedProxySelector(network, **selector_preset("paper"), trainer=trainer(epochs=3), random_state=0)
    assert_same(again.fit(X[:80], Y[:80]).model, chosen.model)  # a fresh proxy in every round
    dense, fused = dict(network.named_parameters()), dict(chosen.fuse().named_parameters())
    expected = before.channel_map.scatter(dict(chosen.model.named_parameters()), dense)
    assert all(torch.equal(fused[name], expected[name]) for name in dense)
    options = chosen.options
    assert (options.scorer, options.fine_tune_lr_scale, options.pruning_ratio) == (LeastConfidence(), None, 0.5)


def test_a_preset_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="preset: name='cheap'; pass one of 'recommended', 'paper', 'cheap_rounds'"):
        selector_preset("cheap")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": 1.0}, r"start=1.0; pass the share of channels removed, 0 <= p < 1"),
        ({"end": 0.75}, "end=0.75"),
        ({"start": "much"}, "start='much'"),
        ({"labels": (0, 10)}, r"labels=\(0, 10\); pass two, of which the first is at least 1 and below"),
        ({"labels": (10, 10)}, "below the second"),
        ({"labels": (10,)}, "two whole numbers"),
        ({"labels": (1.5, 3)}, "two whole numbers"),
        ({"steps": 0}, "steps=0; pass how often the ratio falls, from 1"),
    ],
)
def test_falling_ratios_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        FallingRatio(**{"start": 0.75, "end": 0.25, "labels": (40, 160), **options})
