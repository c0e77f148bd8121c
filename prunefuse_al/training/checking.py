"""The options of `TorchTrainer`, each with its check; found wrong before anything is trained or paid for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from .. import checks
from ..errors import InputError
from ..network import STATED, check_accelerator, check_device, check_precision
from .callbacks import check_callbacks
from .distillation import Distillation
from .losses import check_loss
from .metrics import check_metrics
from .schedules import check_optimizer, check_scheduler
from .stopping import EarlyStopping

Check = Callable[[str, Any], Any]
COMPILE = frozenset(inspect.signature(torch.compile).parameters) - {"model", "disable"}


def checked(trainer: Any) -> dict[str, Any]:
    """Return the options of a `TorchTrainer` as they are used, numbers of NumPy as Python's.

    Raises:
        InputError: an option cannot be used.
    """
    options = {name: check(name, getattr(trainer, name)) for name, check in OPTIONS.items()}
    settings = ("lr", "momentum", "weight_decay")
    check_optimizer(trainer.optimizer, [name for name in settings if options[name] is not None])
    return options


def _loss(name: str, value: Any) -> Any:
    check_loss(value)
    return value


def _class_weight(name: str, value: Any) -> Any:
    """Look at the form alone: how many classes there are is known in `fit`."""
    what = "'balanced', a dict from class to weight, or one weight >= 0 for each output, or None"
    if value is None or (isinstance(value, str) and value == "balanced"):
        return value
    if isinstance(value, Mapping):
        for label, weight in value.items():
            checks.whole(f"{name}: class", label)
            checks.number(f"{name}[{label!r}]", weight, least=0)
        return value
    found = checks.array(name, value, what, floats=True)
    if found.ndim != 1 or not bool((found.isfinite() & (found >= 0)).all()):
        raise checks.refused(name, value, what)
    return found.cpu().numpy()


def _compile(name: str, value: Any) -> bool | str | dict[str, Any]:
    if not isinstance(value, Mapping):
        if not isinstance(value, bool) and not (isinstance(value, str) and value == "auto"):
            raise checks.refused(name, value, "'auto', True, False, or a dict of options of torch.compile")
        return value
    if unknown := [key for key in value if key not in COMPILE]:
        known = ", ".join(sorted(COMPILE))
        raise InputError(f"{name}={checks.shown(value)} has {unknown[0]!r}; pass options of torch.compile: {known}")
    return dict(value)


_whole = partial(checks.whole, least=1)
_rate = partial(checks.maybe, checks.number, least=0)
_transform = partial(checks.maybe, checks.function, what="a function of a batch of inputs")

OPTIONS: dict[str, Check] = {
    "epochs": _whole,
    "batch_size": _whole,
    "lr": _rate,
    "momentum": _rate,
    "weight_decay": _rate,
    "scheduler": check_scheduler,
    "loss": _loss,
    "class_weight": _class_weight,
    "transform": _transform,
    "eval_transform": _transform,
    "early_stopping": partial(checks.maybe, checks.instance, kind=EarlyStopping, what="EarlyStopping(...)"),
    "device": check_device,
    "precision": check_precision,
    "eval_precision": partial(checks.maybe, check_precision),
    "channels_last": checks.flag,
    "compile": _compile,
    "progress": checks.flag,
    "distillation": partial(checks.maybe, checks.instance, kind=Distillation, what="Distillation(...)"),
    "accelerator": check_accelerator,
    "lr_scale": partial(checks.number, above=0),
    "num_workers": partial(checks.whole, least=0),
    "grad_clip": partial(checks.maybe, checks.number, above=0, what="a largest norm above 0"),
    "eval_batch_size": partial(checks.maybe, checks.whole, least=1),
    "deterministic": checks.flag,
    "mc_samples": _whole,
    "outputs": partial(checks.one_of, choices=("auto", *STATED)),
    "collate": partial(checks.maybe, checks.function, what="a function of the list of a dataset's inputs"),
    "metrics": check_metrics,
    "callbacks": check_callbacks,
    "batchnorm": partial(checks.one_of, choices=("auto", "as_is")),
}
"""Parameter of `TorchTrainer` -> `check(name, value)`, which returns it as it is used; `optimizer` comes last."""
