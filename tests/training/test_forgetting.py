"""Short trainings do not leave batch norms with statistics of weights that are no more."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from prunefuse_al import TorchTrainer, errors
from prunefuse_al.network.batchnorm import forgetting
from prunefuse_al.network.freezing import frozen_norms

X = np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)
Y = np.arange(64) % 2


def network(momentum: float | None, *, seen: bool) -> nn.Sequential:
    """A batch norm that, where it has seen anything, saw other inputs than X."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 2))
    if seen:
        model[0].running_mean.fill_(50.0)
        model[0].running_var.fill_(9.0)
    return model


def trained(model: nn.Module, epochs: int, **options: object) -> nn.Module:
    trainer = TorchTrainer(epochs, batch_size=16, lr=0.01, progress=False, device="cpu", **options)
    trainer.fit(model, (X, Y), seed=0)
    return model


@pytest.mark.parametrize(("momentum", "seen"), [(0.1, True), (0.01, True), (0.01, False)])
@pytest.mark.parametrize("epochs", [1, 3, 8])
def test_statistics_of_earlier_weights_are_forgotten(momentum: float, seen: bool, epochs: int) -> None:
    left = trained(network(momentum, seen=seen), epochs)[0]
    assert left.momentum == momentum
    assert np.abs(left.running_mean.numpy() - X.mean(0)).max() < 0.02 * 50 + 0.5
    as_is = trained(network(momentum, seen=seen), epochs, batchnorm="as_is")[0]
    start = 50.0 if seen else 0.0
    kept = (1 - momentum) ** (4 * epochs)  # of 4 steps an epoch
    expected = kept * start + (1 - kept) * X.mean(0)
    np.testing.assert_allclose(as_is.running_mean.numpy(), expected, atol=1.5)
    weights = [dict(module.named_parameters()) for module in (left, as_is)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])  # only statistics differ


@pytest.mark.parametrize(
    ("momentum", "seen", "epochs"),
    [(0.1, False, 1), (0.1, True, 10), (0.01, True, 100), (0.5, True, 2), (None, True, 1)],
)
def test_what_forgets_by_itself_and_new_networks_are_left_alone(
    momentum: float | None, seen: bool, epochs: int
) -> None:
    found, expected = (
        trained(network(momentum, seen=seen), epochs, batchnorm=how).state_dict() for how in ("auto", "as_is")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_frozen_statistics_stay() -> None:
    model = network(0.01, seen=True)
    model[0].requires_grad_(False)
    assert frozen_norms(model)
    assert torch.equal(trained(model, 2)[0].running_mean, torch.full((4,), 50.0))


def test_momentum_is_put_back_whatever_happens() -> None:
    model = network(0.01, seen=True)
    with pytest.raises(errors.NonFiniteError):
        TorchTrainer(2, lr=1e30, progress=False, device="cpu", optimizer="adam").fit(model, (X * 1e30, Y), seed=0)
    assert model[0].momentum == 0.01
    before = copy.deepcopy(model)
    with forgetting(model, 10):
        assert model[0].momentum == 0.4
        model[0] = nn.BatchNorm1d(3, momentum=0.4)  # as when it is thinned
    assert (model[0].momentum, before[0].momentum) == (0.01, 0.01)
