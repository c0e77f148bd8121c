"""What a training step and a pass over data take on this machine, measured through the user's own trainer.

A network tells by a hook when it is called, so any trainer can be timed without knowing its loop: the time between two
calls is a step, whatever the trainer does in it. Once enough calls were seen the hook ends the training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..costs import CostLedger, batch_rows, now
from ..data import subset
from ..errors import InputError
from ..network import copied, fold_batchnorm
from ..training import LOGITS, Reader
from ..types import Trainer, statement

LEAST_SECONDS, LEAST_CALLS, MOST_CALLS = 0.05, 2, 50
"""A measurement lasts so long; the first call of each, which warms up, is not in it."""


class _Enough(BaseException):
    """Ends a training or a pass that was timed long enough; no `except Exception` of a trainer may swallow it."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some numbers."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Timing:
    """How fast one network is, over the repeats.

    Attributes:
        train: seconds per row of training, whole step.
        score: seconds per row of a pass for logits, BatchNorm folded where the selector would.
        train_share: `train` over the dense network's in the same repeat.
        score_share: `score` over the dense network's in the same repeat.
    """

    train: Spread
    score: Spread
    train_share: Spread
    score_share: Spread


class _Stopwatch:
    """Times the calls of a network in training, or those in inference."""

    def __init__(self, training: bool) -> None:
        self.training = training
        self.calls = self.rows = 0
        self.start = self.end = 0.0

    def hook(self) -> Callable[..., None]:
        """Return a forward pre-hook (`with_kwargs=True`) that reports here, also from a copy of the network."""

        def tick(module: nn.Module, args: Any, kwargs: Any) -> None:
            if (module.training and torch.is_grad_enabled()) != self.training:
                return
            # The device is waited for at the ends only: in between, steps may be queued as they are in real work.
            if self.calls > LEAST_CALLS and (
                self.calls > MOST_CALLS or time.perf_counter() - self.start >= LEAST_SECONDS
            ):
                self.end = now()
                raise _Enough
            if self.calls <= 1:
                self.start, self.rows = now(), 0
            self.calls, self.rows = self.calls + 1, self.rows + batch_rows(args, kwargs)

        tick._torchdynamo_disable = True  # type: ignore[attr-defined]  # or a compiled network re-compiles each call
        return tick


def seconds_per_row(network: nn.Module, run: Callable[[nn.Module], Any], *, training: bool) -> float:
    """Return how long a row takes while `run(network)` trains it, or passes data through it.

    Raises:
        InputError: `run` does not call the network.
    """
    watch = _Stopwatch(training)
    hook = network.register_forward_pre_hook(watch.hook(), with_kwargs=True, prepend=True)
    try:
        with suppress(_Enough):
            run(network)
            watch.end = now()
    finally:
        hook.remove()
    if not watch.rows:
        what = "fit did not call the network in train mode" if training else "infer did not call the network"
        raise InputError(f"advise: the trainer's {what}, so nothing can be timed")
    return (watch.end - watch.start) / watch.rows


@dataclass(frozen=True, eq=False)
class Work:
    """What a network is timed at.

    Attributes:
        trains: who trains which network on what data.
        asks: who asks which network about what data.
        example: what the network is called with, for folding BatchNorm.
    """

    trains: Reader
    asks: Reader
    example: Any


def time_networks(
    networks: Mapping[str, nn.Module],
    trainer: Trainer,
    data: Any,
    *,
    example: Any,
    repeats: int,
    ledger: CostLedger,
) -> dict[str, Timing]:
    """Return the timing of networks that one trainer trains and asks; see `time_work`.

    Args:
        networks: by name; copies are run. The first is the dense one that the others are compared with.
        trainer: trains them, and reads logits.
        data: dataset with labels; its rows are repeated as often as needed.
        example: what a network is called with, for folding BatchNorm.
        repeats: how often each is timed.
        ledger: gets one row, stage "measure".
    """
    readers = {name: Reader(trainer, network, data) for name, network in networks.items()}
    work = {name: Work(reader, reader, example) for name, reader in readers.items()}
    return time_work(work, repeats=repeats, ledger=ledger)


def time_work(work: Mapping[str, Work], *, repeats: int, ledger: CostLedger) -> dict[str, Timing]:
    """Return the timing of every network; they take turns, forwards and backwards, so that drift treats them alike.

    Args:
        work: by name. The first is the dense network that the others are compared with.
        repeats: how often each is timed.
        ledger: gets one row, stage "measure".
    """
    timed = {name: _Timed(each) for name, each in work.items()}
    dense, *_ = work
    with ledger.stage("measure", round=0, network="dense") as stage:
        stage.watch(*(each.training for each in timed.values()), *(each.scoring for each in timed.values()))
        for repeat in range(repeats):
            for name in list(timed)[:: -1 if repeat % 2 else 1]:
                timed[name].run()
    return {name: each.over(timed[dense]) for name, each in timed.items()}


class _Timed:
    """One network with its measurements: seconds per row, one number a repeat."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.training = copied(work.trains.network)
        scoring = work.asks.network
        self.scoring = fold_batchnorm(scoring, work.example) or copied(scoring)
        self.trained_on, self.asked_about = (_endless(reader) for reader in (work.trains, work.asks))
        self.train: list[float] = []
        self.score: list[float] = []

    def run(self) -> None:
        """Measure once more."""
        self.train.append(seconds_per_row(self.training, self._fit, training=True))
        self.score.append(seconds_per_row(self.scoring, self._infer, training=False))

    def over(self, dense: _Timed) -> Timing:
        """Return the timing beside the dense network's."""
        shares = [
            np.divide(own, whole).tolist() for own, whole in ((self.train, dense.train), (self.score, dense.score))
        ]
        return Timing(Spread.of(self.train), Spread.of(self.score), *map(Spread.of, shares))

    def _fit(self, network: nn.Module) -> None:
        self.work.trains.trainer.fit(network, self.trained_on, seed=0)

    def _infer(self, network: nn.Module) -> None:
        self.work.asks.trainer.infer(network, self.asked_about, LOGITS)


def _endless(reader: Reader) -> Any:
    """Return the rows of a reader's data, repeated as often as needed."""
    rows = torch.arange((MOST_CALLS + 2) * _batch_rows(reader.trainer)) % len(reader.data)
    return subset(reader.data, rows)


def _batch_rows(trainer: Any) -> int:
    """Return the most rows the trainer may ask for at once, as far as it says."""
    said = statement(trainer)
    sizes = (said.batch_size, said.eval_batch_size)
    return max([256, *(int(size) for size in sizes if isinstance(size, int | np.integer))])
