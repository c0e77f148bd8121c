"""Optimisers and learning-rate schedules by name; every name also takes a factory of your own.

An optimiser factory is called with the list of trainable parameters. A schedule factory is called with
`(optimizer, epochs)`, or with the optimiser alone if that is all it asks for, and returns a torch scheduler, which is
stepped once after every epoch (`ReduceLROnPlateau` gets the validation loss, or without a held-out split the training
loss). `CosineAnnealingLR` of torch is one, and so are `ReduceLROnPlateau` and `partial(StepLR, step_size=10)`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from .. import checks
from ..errors import InputError
from . import fused

EPOCHS = {"epochs", "T_max", "total_iters", "num_epochs", "n_epochs"}  # what schedulers call the number of epochs
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
ScheduleFactory = Callable[[torch.optim.Optimizer, int], LRScheduler | ReduceLROnPlateau]


@dataclass(frozen=True)
class Cosine:
    """A half cosine from the full rate to `final` times it, after `warmup` epochs of linear rise.

    Raises:
        InputError: `warmup` or `final` below 0.
    """

    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        warmup, final = checks.whole("warmup", self.warmup, least=0), checks.number("final", self.final, least=0)
        checks.settle(self, warmup=warmup, final=final)

    def __call__(self, optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
        """Return the schedule for `epochs` epochs."""
        return LambdaLR(optimizer, lambda epoch: self.factor(epoch, epochs))

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the multiple of the full rate in epoch `epoch` (from 0)."""
        warmup = min(self.warmup, epochs - 1)
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        progress = min(1.0, (epoch - warmup) / max(1, epochs - warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Steps:
    """Phases of constant rate, stretched in proportion to the epochs that are trained.

    Attributes:
        phases: (epochs, multiple of the full rate) of each phase. The default is the schedule of the paper (and of
            Selection via Proxy) for CIFAR: 1 + 90 + 45 + 45 = 181 epochs at 0.01, 0.1, 0.01, 0.001 for a rate of 0.1.

    Raises:
        InputError: no phases, or a length or a factor below 0.
    """

    phases: tuple[tuple[float, float], ...] = ((1, 0.1), (90, 1.0), (45, 0.1), (45, 0.01))

    def __post_init__(self) -> None:
        what = "pairs (epochs, multiple of the full rate), none below 0"
        found = checks.array("phases", self.phases, what, floats=True)
        pairs = found.ndim == 2 and found.shape[1] == 2 and len(found) > 0
        if not pairs or not bool((found.isfinite() & (found >= 0)).all()):
            raise checks.refused("phases", self.phases, what)
        if not float(found[:, 0].sum()):
            raise checks.refused("phases", self.phases, "phases of which one at least has epochs")

    def __call__(self, optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
        """Return the schedule for `epochs` epochs."""
        return LambdaLR(optimizer, lambda epoch: self.factor(epoch, epochs))

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the multiple of the full rate in epoch `epoch` (from 0)."""
        total, end = sum(length for length, _ in self.phases), 0.0
        for length, factor in self.phases:
            end += length
            # Python rounds halves to even; a warm-up shorter than half an epoch vanishes.
            if epoch < round(end * epochs / total):
                return factor
        return self.phases[-1][1]


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    def __call__(self, optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
        """Return the schedule for `epochs` epochs."""
        return LambdaLR(optimizer, lambda epoch: 1.0)


SCHEDULES: dict[str, ScheduleFactory] = {
    "constant": Constant(),
    "cosine": Cosine(),
    "warmup_cosine": Cosine(warmup=1),
    "cifar": Steps(),
    "imagenet": Steps(phases=((30, 1.0), (30, 0.1), (30, 0.01), (10, 0.001))),
}
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}),
    "adam": (torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0.0}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.01}),
}


def check_optimizer(optimizer: Any, given: Iterable[str]) -> None:
    """Raise `InputError` unless an optimiser is a known name or a factory; `given` are settings, for a name alone."""
    if callable(optimizer):
        if beside := ", ".join(given):
            raise InputError(f"{beside} was given beside an optimizer factory: set it inside the factory")
        return
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        what = f"one of {', '.join(OPTIMIZERS)}, or a factory: what is called with the list of parameters"
        raise checks.refused("optimizer", optimizer, what)
    known = OPTIMIZERS[optimizer][1]
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"optimizer={optimizer!r} has no {', '.join(unknown)}; it takes {', '.join(known)}")


def check_scheduler(name: str, scheduler: Any) -> Any:
    """Return a schedule, or raise `InputError` unless it is a known name or a factory."""
    if not callable(scheduler) and (not isinstance(scheduler, str) or scheduler not in SCHEDULES):
        what = f"one of {', '.join(SCHEDULES)}, or a factory: what is called with (optimizer, epochs)"
        raise checks.refused(name, scheduler, what)
    return scheduler


def make_optimizer(
    optimizer: str | OptimizerFactory, params: list[nn.Parameter], lr_scale: float, **settings: float | None
) -> torch.optim.Optimizer:
    """Return the optimiser of `params`, by name with `settings` (None: its default) or by a factory.

    Raises:
        InputError: an unknown name, settings given beside a factory, which knows its own, or a factory that gives
            something else than an optimiser.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    check_optimizer(optimizer, given)
    made: torch.optim.Optimizer
    if callable(optimizer):
        made = checks.methods(
            f"optimizer: what {checks.shown(optimizer)} returned",
            optimizer(params),
            ("step", "zero_grad"),
            "a factory that returns a torch.optim.Optimizer of the parameters it is called with",
        )
    else:
        kind, defaults = OPTIMIZERS[optimizer]
        made = kind(params, **{**defaults, **given, "fused": fused.fusible(params)})
    for group in made.param_groups:
        group["lr"] = group["lr"] * lr_scale
    return made


def make_schedule(
    scheduler: str | ScheduleFactory, optimizer: torch.optim.Optimizer, epochs: int
) -> LRScheduler | ReduceLROnPlateau:
    """Return the schedule of `optimizer`, by name or by a factory; see the top of this file for how it is called.

    Raises:
        InputError: an unknown name, or a factory that gives something else than a schedule.
    """
    check_scheduler("scheduler", scheduler)
    if callable(scheduler):
        factory: Callable[..., LRScheduler | ReduceLROnPlateau] = scheduler
        made: LRScheduler | ReduceLROnPlateau = checks.methods(
            f"scheduler: what {checks.shown(scheduler)} returned",
            factory(optimizer, epochs) if _asks_for_epochs(factory) else factory(optimizer),
            ("step",),
            "a factory that returns a schedule of torch.optim.lr_scheduler ('constant' leaves the rate as it is)",
        )
        return made
    return SCHEDULES[scheduler](optimizer, epochs)


def _asks_for_epochs(factory: Callable[..., Any]) -> bool:
    """Tell whether the second argument of a factory is the number of epochs; a class must say so by its name."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # built in C
        return True
    given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(given) < 2:
        return any(p.kind == p.VAR_POSITIONAL for p in parameters)
    return given[1].name in EPOCHS or (given[1].default is inspect.Parameter.empty and not isinstance(factory, type))
