"""Larger batches for a proxy, whose activations take less memory: where steps wait for calls, rows are free."""

from __future__ import annotations

import math
from collections.abc import Callable

from .. import checks
from ..types import altered
from .trainer import TorchTrainer

RATES: dict[str, Callable[[float], float]] = {
    "same": lambda times: 1.0,
    "sqrt": math.sqrt,
    "linear": lambda times: times,
}


def larger_batches(trainer: TorchTrainer, times: float, *, rates: str = "linear") -> TorchTrainer:
    """Return a trainer that takes fewer steps of more rows each, at rates that follow; the one given stays as it is.

    Half of the channels leave a proxy with half of the activations, so `times` of 2 takes the dense network's memory.
    It is another training, and how good its network is should be looked at: fewer steps have to do.

    Args:
        trainer: for batches of the dense network.
        times: how many times as many rows, 1 or more.
        rates: how learning rates grow: "linear" with the rows (Goyal et al. 2017), by their square root, "sqrt", or
            not at all, "same".

    Raises:
        InputError: `times` below 1, an unknown name, or no `TorchTrainer`.

    Example:
        >>> proxy_trainer = larger_batches(TorchTrainer(batch_size=64), 2)
        >>> proxy_trainer.batch_size, proxy_trainer.lr_scale
        (128, 2.0)
    """
    trainer = checks.instance("trainer", trainer, TorchTrainer, "a TorchTrainer(...)")
    times = float(checks.number("times", times, least=1))
    factor = RATES[checks.one_of("rates", rates, RATES)](times)
    trainer.check()
    return altered(trainer, batch_size=round(trainer.batch_size * times), lr_scale=trainer.lr_scale * factor)  # type: ignore[no-any-return]
