"""Schedules give the stated rate in every epoch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fakes import seeded, trainer, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from prunefuse_al.training.schedules import SCHEDULES, Cosine, Steps, make_optimizer, make_schedule


def rates(name: str, epochs: int, lr: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule, found = make_schedule(name, optimizer, epochs), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_papers_schedule_epoch_by_epoch() -> None:
    assert rates("cifar", 181) == pytest.approx([0.01] + [0.1] * 90 + [0.01] * 45 + [0.001] * 45)
    assert rates("imagenet", 100) == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30 + [0.0001] * 10)


@given(st.integers(1, 400))
def test_shorter_and_longer_trainings_keep_the_proportions(epochs: int) -> None:
    counts = [[Steps().factor(e, epochs) for e in range(epochs)].count(f) for f in (1.0, 0.01)]
    assert counts[0] == pytest.approx(epochs * 90 / 181, abs=1)
    assert counts[1] == pytest.approx(epochs * 45 / 181, abs=1)


@given(st.integers(1, 100), st.integers(0, 20))
def test_a_cosine_rises_once_and_falls_after(epochs: int, warmup: int) -> None:
    factors = [Cosine(warmup).factor(e, epochs) for e in range(epochs)]
    top = factors.index(max(factors))
    assert max(factors) == 1.0
    assert top == min(warmup, epochs - 1)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert min(factors) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_name_gives_positive_rates(name: str) -> None:
    assert all(rate > 0 for rate in rates(name, 7))


def test_named_optimisers_have_the_stated_defaults() -> None:
    params = [torch.nn.Parameter(torch.zeros(1))]
    sgd = make_optimizer("sgd", params, 0.5, lr=None, momentum=None, weight_decay=None).param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.025, 0.9, 5e-4)
    adamw = make_optimizer("adamw", params, 1.0, lr=0.01).param_groups[0]
    assert (adamw["lr"], adamw["weight_decay"]) == (0.01, 0.01)
    groups = [{"params": params, "lr": 1.0}]
    made = make_optimizer(lambda p: torch.optim.SGD(groups, lr=0.1), params, 0.2)
    assert made.param_groups[0]["lr"] == 0.2


FACTORIES = {
    "class that names the epochs": (CosineAnnealingLR, CosineAnnealingLR),
    "class that does not": (ReduceLROnPlateau, ReduceLROnPlateau),
    "partial": (partial(StepLR, step_size=2), StepLR),
    "function of the optimiser": (lambda optimizer: StepLR(optimizer, 2), StepLR),
    "function of both": (lambda optimizer, epochs: StepLR(optimizer, epochs), StepLR),
    "function with an option": (lambda optimizer, gamma=0.5: StepLR(optimizer, 2, gamma), StepLR),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_schedule_factory_is_given_what_it_asks_for(name: str) -> None:
    factory, kind = FACTORIES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made = make_schedule(factory, optimizer, 7)
    assert isinstance(made, kind)
    assert getattr(made, "T_max", 7) == 7
    assert getattr(made, "step_size", 2) == (7 if name == "function of both" else 2)


# ---- optimisers by name ----

DEFAULTS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.01}),
}
LAID_OUT = {
    "row by row": lambda: torch.ones(6, 4, 3, 3),
    "channels last": lambda: torch.ones(6, 4, 3, 3).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.ones(4, 6).T,
    "part of a larger one": lambda: torch.ones(6, 9)[:, :4],
    "one number": lambda: torch.ones(()),
    "double": lambda: torch.ones(6, dtype=torch.float64),
    "complex": lambda: torch.ones(6, dtype=torch.complex64),
}


@pytest.mark.parametrize("layout", LAID_OUT)
@pytest.mark.parametrize("name", DEFAULTS)
def test_a_named_optimiser_steps_as_torchs_own_does_by_itself(name: str, layout: str) -> None:
    kind, defaults = DEFAULTS[name]
    ours, theirs = ([nn.Parameter(LAID_OUT[layout]()), nn.Parameter(torch.ones(5))] for _ in range(2))
    made, plain = make_optimizer(name, ours, 1.0), kind(theirs, foreach=False, fused=False, **defaults)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            gradient = torch.randn(one.shape, generator=generator, dtype=one.dtype)
            one.grad, other.grad = torch.empty_like(one).copy_(gradient), torch.empty_like(one).copy_(gradient)
        made.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_named_optimiser_steps_in_one_call_where_it_can() -> None:
    dense, gaps = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(6, 9)[:, :4])
    assert [make_optimizer(name, [dense], 1.0).param_groups[0]["fused"] for name in DEFAULTS] == [True] * 3
    assert make_optimizer("sgd", [dense, gaps], 1.0).param_groups[0]["fused"] is None


def test_sparse_gradients_are_stepped_parameter_by_parameter() -> None:
    found = {}
    for sparse in (False, True):
        network = seeded(lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)))
        network[0].sparse = sparse
        words = torch.randint(9, (20, 3), generator=torch.Generator().manual_seed(0))
        t = trainer(2, weight_decay=0.0, momentum=0.0)
        t.fit(network, (words, torch.arange(20) % 3), seed=0)
        found[sparse] = weights(network)
    torch.testing.assert_close(found[True], found[False])
