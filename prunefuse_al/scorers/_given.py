"""The door of every scorer and pure function: arrays become tensors, and what has another shape is refused by name.

Letters: n samples, c classes, d feature width, t passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError

_NUMBERS = "an array, a tensor or a list of numbers"


_COLUMNS = {1: "labels] with one label", 2: "classes] with two classes"}
_SINGLE = (
    ". A single output counts as two where the trainer says that a sigmoid of it is a probability: "
    "TorchTrainer(outputs='sigmoid')"
)


def given_logits(name: str, logits: Any, *, rows: int | None = None, what: str = "logits", least: int = 2) -> Tensor:
    """Return logits as floats [n c], c >= `least`: two classes, or one label of those that are independent.

    Args:
        name: of the scorer or function, for messages.
        logits: an array or tensor; whole numbers become floats.
        rows: how many samples there are, if that is known.
        what: these numbers, in words.
        least: columns there must be.

    Raises:
        InputError: they are no numbers, or of another shape.
    """
    found = _floats(name, what, logits)
    if found.ndim != 2 or found.shape[1] < least or rows not in (None, len(found)):
        lone = found.ndim == 2 and found.shape[1] == 1
        raise _wrong(name, what, found, rows, f"[samples, {_COLUMNS[least]} or more{_SINGLE if lone else ''}")
    return found


def given_passes(
    name: str, logits: Any, *, rows: int | None = None, least: int = 2, what: str = "mc_logits", width: int = 2
) -> Tensor:
    """Return what is known at several moments or in several passes as floats [t n c], t >= `least`, c >= `width`."""
    found = _floats(name, what, logits)
    if found.ndim != 3 or rows not in (None, found.shape[1]) or found.shape[0] < least or found.shape[2] < width:
        counts = {1: "one", 2: "two"}
        kind = "passes, samples, classes" if width > 1 else "passes, samples, features"
        each = f"{counts[least]} pass{'es' * (least > 1)} and {counts[width]} {'classes' if width > 1 else 'feature'}"
        raise _wrong(name, what, found, rows, f"[{kind}] with {each} or more")
    return found


def given_features(name: str, features: Any, *, rows: int | None = None, what: str = "features") -> Tensor:
    """Return features as floats [n d], d >= 1; see `given_logits`."""
    found = _floats(name, what, features)
    if found.ndim != 2 or found.shape[1] < 1 or rows not in (None, len(found)):
        raise _wrong(name, what, found, rows, "[samples, features] with one feature or more")
    return found


def given_column(name: str, what: str, values: Any, *, rows: int | None = None) -> Tensor:
    """Return one number for each sample, floats [n]; see `given_logits`."""
    found = _floats(name, what, values)
    if found.ndim != 1 or rows not in (None, len(found)):
        raise _wrong(name, what, found, rows, "[samples]")
    return found


def given_labels(name: str, labels: Any, rows: int, classes: int | None = None) -> Tensor:
    """Return the class of each of `rows` samples, int64 [n]; with `classes`, numbers of columns of the logits.

    Raises:
        InputError: they are floats or of another shape, or there is no such class.
    """
    found = checks.array(f"{name}: labels", labels, "one class number for each sample")
    if found.shape != (rows,) or found.is_floating_point():
        raise InputError(
            f"{name}: labels have shape {list(found.shape)} and dtype {found.dtype} for {rows:,} samples; "
            "expected one class number for each"
        )
    found = found.to(torch.int64)
    if classes is not None and rows and (int(found.min()) < 0 or int(found.max()) >= classes):
        raise InputError(
            f"{name}: labels {int(found.min())}..{int(found.max())} found, the logits have {classes} classes; "
            f"pass class numbers 0..{classes - 1}"
        )
    return found


def _floats(name: str, what: str, values: Any) -> Tensor:
    return checks.array(f"{name}: {what}", values, _NUMBERS, floats=True)


def _wrong(name: str, what: str, found: Tensor, rows: int | None, expected: str) -> InputError:
    beside = "" if rows is None else f" for {rows:,} samples"
    return InputError(f"{name}: {what} have shape {list(found.shape)}{beside}; expected {expected}")
