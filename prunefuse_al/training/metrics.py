"""Metrics of a training: objects with `update`, `compute` and `reset`, as torchmetrics has them, or plain functions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..data import isolated_rng
from ..errors import InputError, PruneFuseError
from ..network import describe

METHODS = ("update", "compute", "reset")
RESERVED = frozenset({"epoch", "lr", "loss", "accuracy"})
"""What rows of a history hold anyway; so do ``val_...`` of them."""


def check_metrics(name: str, value: Any) -> dict[str, Any]:
    """Return metrics by name, none for None, or raise `InputError`."""
    what = "a function (logits, labels) -> float, or an object with the methods update, compute and reset"
    if value is None:
        return {}
    known = checks.instance(name, value, Mapping, f"a dict from a name to {what}, or None")
    for key, metric in known.items():
        if not isinstance(key, str) or not key or key in RESERVED or key.startswith("val_"):
            taken = ", ".join(sorted(RESERVED))
            raise InputError(f"{name}: the name {key!r}; pass a str other than {taken}, and not beginning with 'val_'")
        if isinstance(metric, type) or not (_in_parts(metric) or callable(metric)):
            raise checks.refused(f"{name}[{key!r}]", metric, what)
    return dict(known)


class Measured:
    """The metrics of one kind of data, epoch by epoch; the objects given stay as they are, copies take the batches in.

    Args:
        metrics: by name, checked.
        device: where logits and labels lie.
        seed: of random numbers that metrics draw.
    """

    def __init__(self, metrics: Mapping[str, Any], device: torch.device, seed: int) -> None:
        self.device, self.seed = device, seed
        self.functions = {name: metric for name, metric in metrics.items() if not _in_parts(metric)}
        self.objects = {name: self._own(metric) for name, metric in metrics.items() if _in_parts(metric)}
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self.functions or self.objects)

    def see(self, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch, as the loss is given it: logits [b ...] and labels [b ...]."""
        logits = logits.detach()
        for name, metric in self.objects.items():
            with self._explained(name, logits, labels):
                metric.update(logits, labels)
        if self.functions:
            self.seen.append((logits.cpu(), labels.cpu()))

    def values(self) -> dict[str, float]:
        """Return the value of each for all that was seen since the last call, and begin again.

        Raises:
            InputError: one failed, or gave something else than one number.
        """
        found: dict[str, float] = {}
        for name, metric in self.objects.items():
            with self._explained(name):
                value = metric.compute()
                metric.reset()
            found[name] = _number(name, value)
        seen, self.seen = self.seen, []
        if self.functions:
            logits, labels = (torch.cat(part) for part in zip(*seen, strict=True))
            for name, function in self.functions.items():
                with self._explained(name, logits, labels):
                    value = function(logits, labels)
                found[name] = _number(name, value)
        return found

    def _own(self, metric: Any) -> Any:
        own = copy.deepcopy(metric)
        if callable(getattr(own, "to", None)):
            own = own.to(self.device)
        if hasattr(own, "sync_on_compute"):  # of torchmetrics: what all processes saw is here already
            own.sync_on_compute = False
        own.reset()
        return own

    @contextmanager
    def _explained(self, name: str, *given: Tensor) -> Iterator[None]:
        """Turn a complaint of a metric into an `InputError` with what it was given; random numbers are its own."""
        try:
            with isolated_rng(self.seed, self.device), torch.no_grad():
                yield
        except (PruneFuseError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            about = f" on outputs {describe(given[0])} and labels {describe(given[1])}" if given else ""
            raise InputError(f"the metric {name!r} failed{about}: {error}. Pass one that takes them") from error


def _in_parts(metric: Any) -> bool:
    return all(callable(getattr(metric, method, None)) for method in METHODS)


def _number(name: str, value: Any) -> float:
    """Return one number, NaN too, as a float."""
    if isinstance(value, Tensor | np.ndarray) and len(value.reshape(-1)) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        what = "one number, such as the mean over classes (average='macro')"
        raise checks.refused(f"metrics[{name!r}]: what it returned", value, f"a metric that gives {what}")
    return float(value)
