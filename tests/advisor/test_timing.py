"""Timing against a clock that the test moves: what is in a step, when it ends, and who takes turns with whom."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import blobs, mlp
from torch import nn

from prunefuse_al import CostLedger, TorchTrainer
from prunefuse_al.advisor import timing
from prunefuse_al.advisor.timing import LEAST_CALLS, MOST_CALLS, Spread, seconds_per_row, time_networks
from prunefuse_al.data.datasets import as_dataset
from prunefuse_al.errors import InputError
from prunefuse_al.types import Signals

X, Y = blobs(40)


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(timing, "now", moved)
    monkeypatch.setattr(timing.time, "perf_counter", moved)
    return moved


def steps(clock: Clock, durations: list[float], rows: int = 8, wrap: Callable[[Any], Any] = lambda net: net) -> Any:
    """Return a training of one call per duration, each step taking that long."""

    def run(network: nn.Module) -> int:
        own = wrap(network).train()
        for number, seconds in enumerate(durations):
            own(torch.zeros(rows, 6))
            clock.time += seconds
            assert number <= MOST_CALLS + 1
        return len(durations)

    return run


def test_the_first_call_is_not_counted(clock: Clock) -> None:
    assert seconds_per_row(mlp(6, 3), steps(clock, [9.0, 0.01, 0.03]), training=True) == pytest.approx(0.04 / 16)


def test_a_single_call_counts_for_want_of_others(clock: Clock) -> None:
    assert seconds_per_row(mlp(6, 3), steps(clock, [4.0]), training=True) == pytest.approx(4.0 / 8)


def test_it_ends_after_enough_time_and_calls(clock: Clock) -> None:
    began = clock.time
    assert seconds_per_row(mlp(6, 3), steps(clock, [1.0] * 100), training=True) == pytest.approx(1.0 / 8)
    assert clock.time - began == 1 + LEAST_CALLS
    began = clock.time
    assert seconds_per_row(mlp(6, 3), steps(clock, [1e-6] * 100), training=True) == pytest.approx(1e-6 / 8)
    assert clock.time - began == pytest.approx((1 + MOST_CALLS) * 1e-6)


def test_training_and_inference_are_told_apart(clock: Clock) -> None:
    def run(network: nn.Module) -> None:
        for seconds in (1.0, 2.0, 3.0):
            with torch.no_grad():
                network.eval()(torch.zeros(4, 6))
            clock.time += 50
            network.train()(torch.zeros(2, 6))
            clock.time += seconds

    assert seconds_per_row(mlp(6, 3), run, training=True) == pytest.approx((2 + 50 + 3) / 4)


def test_a_trainer_may_work_on_a_copy_and_catch_exceptions(clock: Clock) -> None:
    def run(network: nn.Module) -> None:
        try:
            steps(clock, [1.0] * 100, wrap=copy.deepcopy)(network)
        except Exception:  # as a careless loop might
            clock.time += 1000

    network = mlp(6, 3)
    assert seconds_per_row(network, run, training=True) == pytest.approx(1.0 / 8)
    assert not network._forward_pre_hooks


def test_errors_of_a_training_are_its_own_and_the_hook_goes() -> None:
    network = mlp(6, 3)
    with pytest.raises(ZeroDivisionError):
        seconds_per_row(network, lambda _: 1 / 0, training=True)
    assert not network._forward_pre_hooks
    with pytest.raises(InputError, match="infer did not call the network"):
        seconds_per_row(network, lambda _: None, training=False)


class Recorder(TorchTrainer):
    """Notes whose turn it is."""

    def __init__(self, clock: Clock, widths: dict[int, float]) -> None:
        super().__init__(epochs=1, batch_size=8, progress=False, device="cpu")
        self.clock, self.widths, self.turns = clock, widths, []

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> Any:
        self.turns.append(model[0].out_features)
        return steps(self.clock, [self.widths[model[0].out_features]] * 4)(model)

    def infer(self, model: nn.Module, data: Any, needs: Any = ()) -> Signals:
        with torch.no_grad():
            for _ in range(4):
                model.eval()(X[:8])
                self.clock.time += 2 * self.widths[model[0].out_features]
        return Signals(torch.arange(8))


def test_networks_take_turns_forwards_and_backwards(clock: Clock) -> None:
    networks = {"dense": mlp(6, 8, 3), "thin": mlp(6, 4, 3), "thinner": mlp(6, 2, 3)}
    trainer, ledger = Recorder(clock, {8: 0.4, 4: 0.2, 2: 0.1}), CostLedger()
    found = time_networks(networks, trainer, as_dataset(X, Y), example=X[:2], repeats=3, ledger=ledger)
    assert trainer.turns == [8, 4, 2, 2, 4, 8, 8, 4, 2]
    assert found["thin"].train_share == Spread(*[pytest.approx(0.5)] * 3)
    assert found["thinner"].score_share.median == pytest.approx(0.25)
    assert found["dense"].train.median == pytest.approx(0.4 / 8)
    assert found["dense"].score.median == pytest.approx(0.8 / 8)
    assert found["dense"].train_share == Spread(*[pytest.approx(1.0)] * 3)
    (row,) = ledger.rows()
    assert (row.stage, row.round) == ("measure", 0)
    assert row.forward_macs > 0


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
