"""A network that comes trained: pruned by its weights, statistics from unlabelled data, asked before any label."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import PlainTrainer, assert_same_picks, blobs, mlp, seeded, trainer
from torch import Tensor, nn

from prunefuse_al import ProgressivePruning, PrunedProxySelector, PruneFuseEstimator, prune
from prunefuse_al.errors import CheckpointError, InputError, NonFiniteError, NotFittedError
from prunefuse_al.selector.state import Uncut

X, Y = blobs(240)
POOL = X[120:]


def fresh(seed: int = 0) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            *(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()),
            *(nn.Linear(32, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3)),
        ),
        seed,
    )


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    network = fresh()
    trainer(epochs=15, lr=0.1).fit(network, (X[:120], Y[:120]), seed=0)
    return network


selector = partial(fakes.selector, scorer="margin", pretrained=False)  # their statistics alone are estimated again


def accuracy(module: nn.Module) -> float:
    with torch.no_grad():
        return float((module.eval()(POOL).argmax(1) == Y[120:]).float().mean())


def statistics(module: nn.Module) -> tuple[Tensor, Tensor]:
    norm: Any = module.get_submodule("1")
    return norm.running_mean, norm.running_var


def test_a_pruned_checkpoint_answers_before_anything_is_labelled(trained: nn.Module) -> None:
    chosen = selector(trained).prepare(POOL)
    assert accuracy(chosen.model) > accuracy(selector(fresh()).prepare(POOL).model) + 0.2
    assert [(row.round, row.stage) for row in chosen.costs.rows()] == [(1, "prune"), (1, "recalibrate")]
    picked = chosen.query(POOL, 10)
    with torch.no_grad():
        top = chosen.model.eval()(POOL).softmax(1).sort(descending=True).values
    margins = top[:, 0] - top[:, 1]
    assert_same_picks(picked, margins.argsort()[:10], margins)  # the pool is read with BatchNorm folded
    assert chosen.round == 0
    assert chosen.costs.rows()[-1].round == 0
    with torch.no_grad():
        torch.testing.assert_close(chosen.fuse().eval()(X), chosen.model.eval()(X), rtol=1e-4, atol=1e-5)
    with pytest.raises(NotFittedError, match="labelled data is not in memory"):
        chosen.fit_target()
    assert chosen.fit(X[:30], Y[:30]).round == 1
    straight = selector(trained, recalibration_data=POOL).fit(X[:30], Y[:30])
    torch.testing.assert_close(chosen.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)


def test_channels_stay_by_the_trained_weights_and_statistics_are_those_of_the_pool(trained: nn.Module) -> None:
    chosen = selector(trained, recalibration_data=POOL).prepare()
    cut = prune(trained, X[:2], 0.5)
    assert chosen.proxy.channel_map == cut.channel_map != prune(fresh(), X[:2], 0.5).channel_map
    hidden = cut.module.get_submodule("0")(POOL)
    mean, variance = statistics(chosen.model)
    torch.testing.assert_close(mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variance, hidden.var(0), rtol=1e-4, atol=1e-5)
    labelled = selector(trained).fit(X[:20], Y[:20])
    first: Any = labelled._state.start.module  # type: ignore[union-attr]
    torch.testing.assert_close(
        statistics(first)[0], cut.module.get_submodule("0")(X[:20]).mean(0), rtol=1e-4, atol=1e-5
    )


def test_a_fused_target_is_recalibrated_on_the_data_set_aside(trained: nn.Module) -> None:
    chosen = selector(trained, recalibration_data=POOL, cross="copy").fit(X[:30], Y[:30])
    again = pickle.loads(pickle.dumps(chosen)).fuse()  # the labelled data is gone, but this one is not needed
    fused = chosen.fuse()
    torch.testing.assert_close(again.state_dict(), fused.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(statistics(fused)[0], fused.get_submodule("0")(POOL).mean(0), rtol=1e-4, atol=1e-5)
    other = chosen.fuse(X[:30])
    torch.testing.assert_close(statistics(other)[0], fused.get_submodule("0")(X[:30]).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"sync_every": 2}, {"progressive": ProgressivePruning(2, 2)}])
def test_nothing_changes_for_a_random_start(options: dict[str, Any]) -> None:
    with_data = selector(fresh(), recalibration_data=POOL, **options).fit(X[:40], Y[:40])
    without = selector(fresh(), **options).fit(X[:40], Y[:40])
    torch.testing.assert_close(with_data.model.state_dict(), without.model.state_dict(), rtol=0, atol=0)
    assert "recalibrate" not in with_data.costs.totals()


def test_a_trained_network_is_thinned_by_its_activations_while_it_is_trained(trained: nn.Module) -> None:
    def kept(importance: str) -> Any:
        options = {"progressive": ProgressivePruning(2, 2), "unlabelled": POOL, "pretrained": "auto"}
        return selector(trained, importance=importance, **options).fit(X[:40], Y[:40]).proxy.channel_map

    assert kept("auto") == kept("activation")
    assert kept("auto") != kept("l2")


def test_other_proxies_and_networks_without_batch_norm_have_nothing_to_estimate(trained: nn.Module) -> None:
    svp = selector(fresh(), proxy=trained, recalibration_data=POOL).prepare()
    torch.testing.assert_close(svp.model.state_dict(), trained.state_dict(), rtol=0, atol=0)
    assert len(svp.query(POOL, 5)) == 5
    plain = selector(mlp(6, 16, 3), recalibration_data=POOL).prepare()
    dense = selector(trained, pruning_ratio=0).prepare(POOL)
    torch.testing.assert_close(dense.model.state_dict(), trained.state_dict(), rtol=0, atol=0)
    assert all("recalibrate" not in each.costs.totals() for each in (svp, plain, dense))


def test_statistics_without_a_count_of_batches_are_recognised(trained: nn.Module) -> None:
    """Checkpoints converted from elsewhere hold statistics, but often no count."""
    converted = copy.deepcopy(trained)
    for module in converted.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.num_batches_tracked.zero_()  # type: ignore[union-attr, operator]
    assert "recalibrate" in selector(converted).prepare(POOL).costs.totals()


def test_a_prepared_selector_can_be_saved_and_prunes_progressively_afterwards(
    trained: nn.Module, tmp_path: Path
) -> None:
    options = {"progressive": ProgressivePruning(2, 2), "recalibration_data": POOL}
    chosen = selector(trained, **options).prepare()
    chosen.save(tmp_path / "s")
    with pytest.raises(
        CheckpointError, match=r"JSON could not hold recalibration_data; pass recalibration_data=\.\.\."
    ):
        PrunedProxySelector.load(tmp_path / "s", fresh())
    loaded = PrunedProxySelector.load(tmp_path / "s", fresh(), recalibration_data=POOL)
    np.testing.assert_array_equal(loaded.query(POOL, 20), chosen.query(POOL, 20))
    for each in (loaded, chosen):
        each.fit(X[:40], Y[:40])
    torch.testing.assert_close(loaded.model.state_dict(), chosen.model.state_dict(), rtol=0, atol=0)
    assert [row.stage for row in loaded.costs.rows() if row.stage == "prune"] == ["prune"] * 3


def test_the_data_is_shared_by_copies(trained: nn.Module) -> None:
    chosen = selector(trained, recalibration_data=POOL)
    assert copy.deepcopy(chosen).options.recalibration_data is chosen.options.recalibration_data


@pytest.mark.parametrize("scorer", ["k_center", "typiclust", "probcover"])
def test_a_first_round_by_features_of_which_nothing_is_labelled(trained: nn.Module, scorer: str) -> None:
    chosen = selector(trained, scorer=scorer).prepare(POOL)
    assert len(set(chosen.query(POOL, 6).tolist())) == 6
    with pytest.raises(InputError, match="CAL"):  # asks how labelled neighbours are answered
        chosen.select(POOL, 6, scorer="cal")
    assert chosen.fit(X[:30], Y[:30]).round == 1


def test_what_cannot_be_prepared_is_said(trained: nn.Module) -> None:
    with pytest.raises(InputError, match=r"prepare: pass unlabelled data.*recalibration_data="):
        selector(trained).prepare()
    for ready in (selector(trained).prepare(POOL), selector(trained).fit(X[:30], Y[:30])):
        with pytest.raises(InputError, match="the proxy is there already"):
            ready.prepare(POOL)
    with pytest.raises(InputError, match="recalibration_data= was given with recalibrate=False"):
        selector(trained, recalibration_data=POOL, recalibrate=False)
    with pytest.raises(InputError, match="0 rows"):
        selector(trained, recalibration_data=POOL[:0])
    broken = selector(trained)
    with pytest.raises(NonFiniteError):
        broken.prepare(torch.full((20, 6), float("nan")))
    assert (len(broken.costs), type(broken._state)) == (0, Uncut)


def test_the_estimator_has_the_same_options(trained: nn.Module) -> None:
    quick = trainer()
    options = {"sync_every": 2, "recalibration_data": POOL.numpy(), "progressive": ProgressivePruning(2, 2)}
    est = PruneFuseEstimator(trained, trainer=quick, random_state=0, pretrained=False, **options).fit(
        X[:40].numpy(), Y[:40].numpy()
    )
    alone = selector(trained, trainer=quick, scorer="least_confidence", **options).fit(X[:40], Y[:40])
    torch.testing.assert_close(est.selector_.model.state_dict(), alone.model.state_dict(), rtol=0, atol=0)
    from sklearn.base import clone

    assert clone(est).recalibration_data is est.recalibration_data
    assert clone(est).progressive == est.progressive
    bare = PruneFuseEstimator(trained, trainer=quick, recalibrate=False, random_state=0, pretrained=False)
    bare.fit(X[:40], Y[:40])
    assert "recalibrate" not in bare.costs_.totals()
    with pytest.raises(InputError, match="takes no on_epoch"):
        PruneFuseEstimator(trained, trainer=PlainTrainer(), progressive=ProgressivePruning()).fit(X[:40], Y[:40])
