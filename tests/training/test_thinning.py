"""Thinning a network in the middle of its training: what the optimiser remembers goes along, nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import fakes
import pytest
import torch
from fakes import blobs, mlp, seeded
from torch import Tensor, nn

from prunefuse_al import ProgressivePruning, prune
from prunefuse_al.errors import InputError
from prunefuse_al.fusing.channel_map import ChannelMap
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning import rebuild
from prunefuse_al.training import EarlyStopping
from prunefuse_al.training.progressive import thin_in_place

X, Y = blobs(60)


def network() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            *(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)),
        )
    )


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> Tensor:
    for _ in range(count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
    return loss


def half(model: nn.Module) -> ChannelMap:
    return prune(model, X[:2], 0.5).channel_map


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
    "factored": lambda p: torch.optim.Adafactor(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_on_like_a_new_network_with_the_old_memory(name: str) -> None:
    """The slow way: a new thin module, a new optimiser, and every remembered tensor cut out by hand."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    held = steps(model, optimizer, 3)  # the graph of the old widths is still held while the next steps run
    cut = half(model)
    expected = rebuild(model, cut)
    other = OPTIMIZERS[name](expected.parameters())
    for (key, old), new in zip(model.named_parameters(), expected.parameters(), strict=True):
        indices = [torch.arange(n) if k is None else k for n, k in zip(old.shape, cut.tensors[key].kept, strict=True)]
        for label, value in optimizer.state[old].items():
            for dim, index in enumerate(indices):
                if value.ndim == len(indices) and value.shape[dim] == old.shape[dim] > 1:
                    value = value.index_select(dim, index)
            other.state[new][label] = copy.deepcopy(value)
    parameters = list(model.parameters())
    thin_in_place(model, optimizer, cut, cut.attributes)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert str(model) == str(expected)
    torch.testing.assert_close(steps(model, optimizer, 4), steps(expected, other, 4), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert float(held.detach()) > 0


def test_tied_weights_stay_tied_and_frozen_ones_frozen() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.one, self.two, self.head = (nn.Linear(*w) for w in ((6, 8), (8, 8), (8, 8), (8, 3)))
            self.two.weight = self.one.weight
            self.into.weight.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.two(self.one(self.into(x)).relu()).relu())
            return logits

    model: Any = seeded(Tied)
    optimizer = OPTIMIZERS["adam"]([p for p in model.parameters() if p.requires_grad])
    steps(model, optimizer, 2)
    cut = half(model)
    thin_in_place(model, optimizer, cut, cut.attributes)
    assert model.two.weight is model.one.weight
    assert model.one.weight.shape == cut.tensors["one.weight"].proxy_shape != (8, 8)
    assert not model.into.weight.requires_grad
    assert torch.isfinite(steps(model, optimizer, 2))


def test_what_cannot_be_cut_is_refused_and_nothing_changes() -> None:
    model = mlp(6, 16, 3)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    optimizer.step(closure)
    before = copy.deepcopy(model.state_dict())
    cut = half(model)
    with pytest.raises(InputError, match=r"LBFGS remembers 'al', a list.*train with SGD, Adam"):
        thin_in_place(model, optimizer, cut, cut.attributes)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    optimizer.state[model[0].weight] = {"history": torch.zeros(40)}
    with pytest.raises(InputError, match=r"'history' of shape \[40\], for a parameter of shape \[16, 6\]"):
        thin_in_place(model, optimizer, cut, cut.attributes)


def test_channels_last_weights_stay_so() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    )
    cut = prune(model, torch.zeros(2, 3, 5, 5), 0.5).channel_map
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)  # which reads memory as it lies
    model(torch.ones(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    thin_in_place(model, optimizer, cut, cut.attributes)
    weight = model.get_parameter("2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride() != torch.empty(weight.shape).stride()


def test_ratios_rise_to_the_one_that_was_asked_for() -> None:
    assert ProgressivePruning().ratios(0.6) == tuple(
        (epoch, pytest.approx(ratio)) for epoch, ratio in ((4, 0.12), (8, 0.24), (12, 0.36), (16, 0.48), (20, 0.6))
    )
    assert ProgressivePruning(epochs=3, steps=1).ratios(0.7) == ((3, 0.7),)
    cubic = [ratio for _, ratio in ProgressivePruning(epochs=4, steps=4, schedule="cubic").ratios(1 / 2)]
    assert cubic == [pytest.approx(0.5 * (1 - (1 - t) ** 3)) for t in (0.25, 0.5, 0.75, 1)]
    own = ProgressivePruning(epochs=2, steps=2, schedule=lambda progress: progress**2)
    assert own.ratios(0.8) == ((1, pytest.approx(0.2)), (2, 0.8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"epochs": 3, "steps": 4}, "steps=4; pass 1 to 3"),
        ({"steps": True}, "steps=True"),
        ({"schedule": "quadratic"}, "schedule='quadratic'.*linear, cubic"),
        ({"schedule": lambda progress: progress / 2}, "end at 1"),
        ({"schedule": lambda progress: 1 - progress}, "never fall"),
        ({"schedule": lambda progress: 4 * progress - 3}, r"0\.\.1"),
    ],
)
def test_schedules_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProgressivePruning(**options)


class Recorder:
    """Halves a network before one epoch, and notes what it was called with."""

    def __init__(self, model: nn.Module, at: int, until: int = 0) -> None:
        self.model, self.at, self.until, self.calls = model, at, max(at, until), []

    def __call__(self, epoch: int, optimizer: torch.optim.Optimizer) -> bool:
        self.calls.append((epoch, optimizer.param_groups[0]["lr"]))
        if epoch == self.at:
            cut = half(self.model)
            thin_in_place(self.model, optimizer, cut, cut.attributes)
        return epoch <= self.until


quick = partial(fakes.trainer, epochs=6)


def test_the_trainer_tells_before_every_epoch_and_its_schedule_goes_on() -> None:
    model = network()
    plain = quick().fit(network(), (X, Y), seed=0)
    recorder = Recorder(model, at=2)
    history = quick().fit(model, (X, Y), seed=0, on_epoch=recorder)
    assert recorder.calls == [(row["epoch"] - 1, row["lr"]) for row in plain.epochs]
    assert [row["lr"] for row in history.epochs] == [row["lr"] for row in plain.epochs]
    assert history.epochs[:2] == plain.epochs[:2]
    assert history.epochs[2] != plain.epochs[2]
    assert model.get_parameter("0.weight").shape == (8, 6)


def test_early_stopping_waits_for_the_last_widths_and_never_goes_back_to_wider_ones() -> None:
    class Spoils(Recorder):  # what it learnt before is lost, so the best epochs are the wide ones
        def __call__(self, epoch: int, optimizer: torch.optim.Optimizer) -> bool:
            if epoch == 3:
                with torch.no_grad():
                    self.model.get_parameter("6.weight").mul_(-50)
            return super().__call__(epoch, optimizer)

    model = network()
    rule = EarlyStopping(patience=1, min_delta=1e6)  # nothing is ever better than the first
    history = quick(epochs=9, early_stopping=rule).fit(model, (X, Y), seed=0, on_epoch=Spoils(model, at=3, until=3))
    assert model.get_parameter("0.weight").shape == (8, 6)
    assert (history.best_epoch, len(history.epochs), history.stopped_early) == (4, 5, True)
    plain = quick(epochs=9, early_stopping=rule).fit(network(), (X, Y), seed=0)
    assert len(plain.epochs) == 2


def test_a_run_that_diverges_after_thinning_keeps_its_last_good_thin_weights() -> None:
    class Breaks(Recorder):
        def __call__(self, epoch: int, optimizer: torch.optim.Optimizer) -> bool:
            changed = super().__call__(epoch, optimizer)
            if epoch == 3:
                optimizer.param_groups[0]["lr"] = 1e30
            return changed

    model = network()
    with pytest.raises(ValueError, match=r"epoch [45]"):
        quick(scheduler="constant").fit(model, (X, Y), seed=0, on_epoch=Breaks(model, at=1))
    assert model.get_parameter("0.weight").shape == (8, 6)
    assert all(p.isfinite().all() for p in named_tensors(model).values())


def test_several_processes_are_refused() -> None:
    class Two:
        num_processes, process_index, device = 2, 0, torch.device("cpu")

    with pytest.raises(InputError, match="while 2 processes train it"):
        quick(accelerator=Two()).fit(network(), (X, Y), seed=0, on_epoch=lambda *_: False)
