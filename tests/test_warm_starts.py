"""Warm starts: from the last proxy as it is, or shrunk and perturbed; what is kept, what is drawn, what it costs."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import PlainTrainer, assert_same, batch_norm, blobs, mlp, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.random_networks import Spec, build, specs
from sklearn.base import clone
from torch import nn

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, ShrinkPerturb
from prunefuse_al.errors import InputError
from prunefuse_al.training import FunctionTrainer, ProgressivePruning
from prunefuse_al.training.shrink_perturb import shrink_perturb

X, Y = blobs(160)


trainer = partial(fakes.trainer, epochs=6)


def selector(warm: Any = None, **options: Any) -> PrunedProxySelector:
    warm = ShrinkPerturb() if warm is None else warm
    options = {"trainer": trainer(), "random_state": 0, "scorer": "margin", "warm_start": warm, **options}
    return PrunedProxySelector(batch_norm(), 0.5, **options)


def samples(chosen: PrunedProxySelector) -> list[int]:
    """Return how many rows each training of the proxy has seen; two are tried first."""
    return [row.samples - 2 for row in chosen.costs.rows() if row.stage == "train_proxy"]


def test_neither_shrunk_nor_perturbed_is_a_plain_warm_start() -> None:
    plain, same = selector(True), selector(ShrinkPerturb(1, 0))
    for m in (30, 50, 70):
        assert_same(plain.fit(X[:m], Y[:m]).model, same.fit(X[:m], Y[:m]).model)


@settings(max_examples=25)
@given(specs, st.floats(0, 1), st.floats(0.01, 2))
def test_law_parameters_are_mixed_and_nothing_else_changes(spec: Spec, shrink: float, perturb: float) -> None:
    initial = build(spec)
    trained = copy.deepcopy(initial)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.25
    mixed, again = copy.deepcopy(trained), copy.deepcopy(trained)
    for network in (mixed, again):
        shrink_perturb(network, initial, ShrinkPerturb(shrink, perturb), seed=3)
    assert_same(mixed, again)
    for name, value in trained.named_buffers():
        assert torch.equal(value, mixed.get_buffer(name))
    for (name, value), parameter in zip(trained.named_parameters(), mixed.parameters(), strict=True):
        begun, noise = initial.get_parameter(name), (parameter - shrink * value)[value != 0]
        if bool((begun == begun.flatten()[0]).all()):  # a norm's scale, a bias of zeros: as in a fresh network
            torch.testing.assert_close(noise, perturb * begun[value != 0], rtol=1e-4, atol=1e-5)
        else:
            assert len(noise.unique()) > 1


def test_noise_is_fresh_and_of_the_scale_of_the_initial_weights() -> None:
    initial = mlp(300, 200, 3)
    rounds = []
    for seed in (1, 2):
        network = copy.deepcopy(initial)
        shrink_perturb(network, initial, ShrinkPerturb(0, 0.5), seed)
        rounds.append(network.get_parameter("0.weight").detach())
    begun = initial.get_parameter("0.weight").detach()
    for noise in rounds:
        assert float(noise.std()) == pytest.approx(0.5 * float(begun.std()), rel=0.02)
        assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), begun.flatten()]))[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten() for noise in rounds]))[0, 1])) < 0.02


def test_frozen_and_zero_entries_stay() -> None:
    network = seeded(lambda: nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Flatten(), nn.Linear(8, 3)))
    network[2].bias.requires_grad_(False)
    initial, frozen = copy.deepcopy(network), network[2].bias.detach().clone()
    shrink_perturb(network, initial, ShrinkPerturb(), seed=0)
    assert torch.equal(network[2].bias, frozen)
    assert not network[0].weight[0].any()
    assert (network[0].weight[1:] != initial[0].weight[1:]).all()


def test_every_round_draws_its_own_noise_and_a_seed_repeats_it() -> None:
    networks = []
    for state in (0, 0, 1):
        chosen = selector(random_state=state).fit(X[:40], Y[:40])
        begun = []
        for _ in range(2):
            before = copy.deepcopy(chosen.model)
            chosen.fit(X[:40], Y[:40])
            assert chosen._state.begun is not None
            weight = chosen._state.begun.network.get_parameter("3.weight") - 0.4 * before.get_parameter("3.weight")
            begun.append(weight.detach() / 0.1)
        networks.append(begun)
    assert all(torch.equal(a, b) for a, b in zip(networks[0], networks[1], strict=True))
    assert not torch.allclose(networks[0][0], networks[0][1], atol=0.01)
    assert not torch.allclose(networks[0][0], networks[2][0], atol=0.01)


def test_saved_in_the_middle_it_goes_on_with_the_same_picks(tmp_path: Path) -> None:
    chosen = selector(ShrinkPerturb(0.5, 0.2, epochs=0.5)).fit(X[:30], Y[:30])
    chosen.fit(X[:40], Y[:40]).save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", batch_norm())
    assert loaded.options.warm_start == ShrinkPerturb(0.5, 0.2, epochs=0.5)
    for m in (50, 60):
        assert_same(loaded.fit(X[:m], Y[:m]).model, chosen.fit(X[:m], Y[:m]).model)
        np.testing.assert_array_equal(loaded.query(X, 20), chosen.query(X, 20))
    assert samples(loaded) == samples(chosen) == [6 * 30, 3 * 40, 3 * 50, 3 * 60]


@pytest.mark.parametrize(("epochs", "rows"), [(None, 6), (2, 2), (1, 1), (1.0, 6), (0.34, 2), (0.01, 1)])
def test_warm_rounds_may_be_shorter(epochs: Any, rows: int) -> None:
    mine = trainer()
    chosen = selector(ShrinkPerturb(epochs=epochs), trainer=mine).fit(X[:40], Y[:40]).fit(X[:50], Y[:50])
    assert samples(chosen) == [6 * 40, rows * 50]
    assert mine.epochs == 6
    chosen.fit_target()
    assert chosen.costs.rows()[-1].samples - 2 == 6 * 50  # the target is trained in full
    cold = chosen.fit(X[:50], Y[:50], warm_start=False)
    assert samples(cold)[-1] == 6 * 50


def test_the_proxy_still_fuses_exactly() -> None:
    chosen = selector()
    for m in (30, 50, 70):
        chosen.fit(X[:m], Y[:m])
    fused, trained = chosen.fuse(), chosen.model
    with torch.no_grad():
        torch.testing.assert_close(fused.eval()(X), trained.eval()(X), rtol=1e-4, atol=1e-5)
    cut = chosen.proxy.channel_map.extract(dict(fused.state_dict()))
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in cut.items())


def test_after_a_sync_the_new_cut_is_trained_in_full() -> None:
    chosen = selector(ShrinkPerturb(epochs=2), sync_every=2)
    for m in (30, 40, 50, 60):
        chosen.fit(X[:m], Y[:m])
    assert samples(chosen) == [6 * 30, 2 * 40, 6 * 50, 2 * 60]


def test_a_proxy_that_was_thinned_while_it_was_trained_goes_on_thin() -> None:
    chosen = selector(progressive=ProgressivePruning(3, 3)).fit(X[:40], Y[:40])
    widths = [p.shape for p in chosen.model.parameters()]
    assert [p.shape for p in chosen.fit(X[:60], Y[:60]).model.parameters()] == widths
    assert chosen.model.eval()(X).isfinite().all()


def test_what_was_never_trained_is_not_shrunk() -> None:
    warm, plain = selector().prepare(X), selector(True).prepare(X)
    assert_same(warm.fit(X[:40], Y[:40]).model, plain.fit(X[:40], Y[:40]).model)


def test_dynamics_are_those_of_the_training_as_it_was() -> None:
    asked_before = selector(ShrinkPerturb(epochs=2), scorer="aum")
    asked_after = selector(ShrinkPerturb(epochs=2))
    for m in (40, 60):
        for each in (asked_before, asked_after):
            each.fit(X[:m], Y[:m])
    after = asked_after.select(X, 10, scorer="aum")
    np.testing.assert_array_equal(asked_before.select(X, 10).indices, after.indices)
    assert samples(asked_after)[-1] == 2 * 60


def test_the_estimator_passes_it_on() -> None:
    rule = ShrinkPerturb(epochs=2)
    est = PruneFuseEstimator(batch_norm(), trainer=trainer(), random_state=0, warm_start=rule)
    assert clone(est).get_params()["warm_start"] == rule
    x, y = X.numpy(), Y.numpy()
    est.fit(x[:40], y[:40]).fit(x[:60], y[:60])
    direct = selector(rule).fit(X[:40], Y[:40]).fit(X[:60], Y[:60])
    assert_same(est.selector_.model, direct.model)
    est.partial_fit(x[:60], y[:60])
    assert_same(est.selector_.model, direct.fit(X[:60], Y[:60], warm_start=True).model)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shrink": 1.5}, "shrink=1.5.*0 <= shrink <= 1"),
        ({"shrink": float("nan")}, "shrink=nan"),
        ({"perturb": -0.1}, "perturb=-0.1.*0 or more"),
        ({"shrink": 0, "perturb": 0}, "leave weights of zero.*warm_start=False"),
        ({"epochs": 0}, "epochs=0.*int from 1"),
        ({"epochs": 1.5}, "epochs=1.5.*float above 0 and up to 1"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs": "half"}, "epochs='half'"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ShrinkPerturb(**options)


def one_step(model: nn.Module, data: Any) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(0.1)


def test_a_trainer_without_epochs_cannot_train_fewer() -> None:
    mine = FunctionTrainer(one_step)
    assert selector(trainer=mine).fit(X[:40], Y[:40]).fit(X[:40], Y[:40]).round == 2
    with pytest.raises(InputError, match=r"ShrinkPerturb\(.*FunctionTrainer has no whole number `epochs`"):
        selector(ShrinkPerturb(epochs=2), trainer=mine)
    with pytest.raises(InputError, match="leave epochs= out"):
        selector(trainer=mine).fit(X, Y, warm_start=ShrinkPerturb(epochs=0.5))
    with pytest.raises(InputError, match="warm_start='yes'; pass True, False or ShrinkPerturb"):
        selector("yes")
    own = selector(ShrinkPerturb(epochs=3), trainer=PlainTrainer())
    assert own.fit(X, Y).fit(X, Y).round == 2
