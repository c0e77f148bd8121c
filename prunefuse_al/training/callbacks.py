"""Who is told how a training goes: `Callback`, for curves, logs and the like; none of it changes the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from .. import checks
from ..data import isolated_rng
from ..errors import InputError
from .plan import TrainingHistory

METHODS = ("begin", "end_epoch", "end")


class Callback(Protocol):
    """Is told how trainings go; one object may see many, one after the other, such as those of all rounds.

    A training is the same to the last bit with and without it: random numbers that it draws are its own, rows are
    copies, and one that changes the network's weights ends the training. So does whatever it raises, as any other
    error does. Where several processes train together, the first one's is told. It is pickled and copied with its
    trainer, so what it opens belongs into `begin`, and is closed in `end`.
    """

    def begin(self, model: nn.Module, epochs: int) -> None:
        """Hear that `model` will be trained for `epochs` epochs; all has been checked by then, nothing is trained."""
        ...

    def end_epoch(self, model: nn.Module, row: Mapping[str, float]) -> None:
        """Hear of an epoch by its row of the history, see `TrainingHistory.epochs`; `model` may be read."""
        ...

    def end(self, history: TrainingHistory | None) -> None:
        """Hear that the training is over, once for each `begin` that returned; None: it failed."""
        ...


def check_callbacks(name: str, value: Any) -> tuple[Callback, ...]:
    """Return callbacks as a tuple, none for None, or raise `InputError`."""
    what = f"a list of objects with the methods {', '.join(METHODS)}, see training.Callback"
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise checks.refused(name, value, f"{what}, or None")
    return tuple(checks.methods(f"{name}[{i}]", each, METHODS, what) for i, each in enumerate(value))


class Told:
    """The callbacks of one training.

    Args:
        model: the network.
        unchanged: whether its weights are as they were when an epoch ended.
        device: where it is trained.
        seed: of random numbers that callbacks draw.
    """

    def __init__(self, model: nn.Module, unchanged: Callable[[], bool], device: torch.device, seed: int) -> None:
        self.model, self.unchanged, self.device, self.seed = model, unchanged, device, seed
        self.callbacks: list[Callback] = []
        self.history: TrainingHistory | None = None  # until the training has ended well

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """Tell all of an epoch."""
        for callback in self.callbacks:
            self.tell(callback, "end_epoch", self.model, dict(row))

    def tell(self, callback: Callback, method: str, *about: Any) -> None:
        """Call a method of a callback with random numbers of its own.

        Raises:
            InputError: it changed the weights.
        """
        with isolated_rng(self.seed, self.device):
            getattr(callback, method)(*about)
        if not self.unchanged():
            raise InputError(
                f"callbacks: {type(callback).__name__}.{method} changed the weights of the network that it was told "
                "of: let it read them, or work on a copy.deepcopy of the network"
            )

    def _end(self, callback: Callback) -> None:
        history, self.history = self.history, None  # for the others, if this one fails
        if history is None:  # then the weights may be any, and are put back
            with isolated_rng(self.seed, self.device):
                callback.end(None)
            return
        self.tell(callback, "end", history)
        self.history = history


@contextmanager
def telling(callbacks: Sequence[Callback], told: Told, epochs: int) -> Iterator[Told]:
    """Tell callbacks that a training begins, and at the end of the block how it went, the last one first."""
    with ExitStack() as ends:
        for callback in callbacks:
            told.tell(callback, "begin", told.model, epochs)
            ends.callback(partial(told._end, callback))
            told.callbacks.append(callback)
        yield told
