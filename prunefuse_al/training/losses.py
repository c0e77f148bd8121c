"""Losses with class weights and sample weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]


class Objective:
    """A loss over a batch: its own mean without weights, else the weighted mean of the loss of each row.

    Args:
        loss: "cross_entropy", or any function (logits, labels) -> scalar or [n]. A torch loss is copied, and with
            weights its copy is asked for `reduction="none"`.
        class_weights: float [c], or None.
        device: where the batches are.
    """

    def __init__(self, loss: str | Loss, class_weights: Tensor | None, device: torch.device) -> None:
        if isinstance(loss, str) and loss != "cross_entropy":
            raise InputError(
                f"loss={loss!r}; it must be 'cross_entropy' or a function (logits, labels) -> scalar or [n]"
            )
        own: Any = nn.CrossEntropyLoss() if isinstance(loss, str) else loss
        if isinstance(own, nn.Module):
            own = copy.deepcopy(own).to(device)
        elif not callable(own):
            raise InputError(f"loss={loss!r} cannot be called; it must be a function (logits, labels) -> scalar or [n]")
        self.whole: Loss = own
        self.each: Loss = own
        if hasattr(own, "reduction"):
            self.each = copy.deepcopy(own)
            self.each.reduction = "none"  # type: ignore[attr-defined]
        self.class_weights = None if class_weights is None else class_weights.to(device)
        self.ignored: int | None = getattr(own, "ignore_index", None)

    def __call__(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar, of logits [n c] for labels [n] and weights [n]."""
        weights = self.weights(y, w, logits)
        if weights is None:
            value = self._value(self.whole, logits, y)
            return value.mean() if value.ndim else value
        value = self._value(self.each, logits, y)
        if value.ndim == 0 and len(y) > 1:
            raise InputError(
                f"the loss returns one number for a batch of {len(y)}, so class or sample weights cannot enter it: "
                "return one value for each row, [n]"
            )
        return weighted_mean(value.reshape(len(y), -1).mean(dim=1), weights)

    @staticmethod
    def _value(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
        value: object = loss(logits, y)
        if not isinstance(value, Tensor):
            what = "a function or module that returns a tensor, a scalar or one value for each row, [n]"
            raise checks.refused(f"loss: what {checks.shown(loss)} returned", value, what)
        return value

    def check_kind(self, y: Tensor) -> None:
        """Raise `InputError` for one floating number per row where the loss wants the number of a class."""
        if isinstance(self.whole, nn.CrossEntropyLoss) and y.is_floating_point() and y.ndim == 1:
            kind = str(y.dtype).removeprefix("torch.")
            raise InputError(
                f"labels are {kind}, one number per row, and cross entropy wants numbers of classes: pass integers "
                "(y.astype(int)), or soft targets [n c]"
            )

    def weights(self, y: Tensor, w: Tensor | None, like: Tensor) -> Tensor | None:
        """Return the weight of each row, [n], or None where all count the same."""
        weights = None if w is None else w.to(like)
        if self.class_weights is None:
            return weights
        of_class = self.class_weights.to(like.dtype)[y.clamp_min(0)]
        return of_class if weights is None else weights * of_class


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of values [n] under weights [n]; 0 where all weights are 0."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def class_weight_tensor(class_weight: Any, labels: Tensor | None, n_classes: int) -> Tensor | None:
    """Return the weight of every class, float [c].

    Args:
        class_weight: None; "balanced" (rows / (classes present * rows of the class), as scikit-learn has it); a mapping
            from class to weight (1 for the others); or a sequence of one weight for each of the network's outputs.
        labels: int64 [n], needed for "balanced".
        n_classes: outputs of the network.

    Raises:
        InputError: an unknown form, an unknown class, or weights that are negative or not finite.
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        if class_weight != "balanced" or labels is None or labels.is_floating_point():
            raise InputError(f"class_weight={class_weight!r}; the one name is 'balanced', which needs integer labels")
        counts = torch.bincount(labels[labels >= 0], minlength=n_classes).double()
        return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp_min(1)), 1.0)
    weights = np.ones(n_classes)
    if isinstance(class_weight, Mapping):
        for label, weight in class_weight.items():
            if not 0 <= label < n_classes:
                raise InputError(f"class_weight names class {label!r}; the network has outputs 0..{n_classes - 1}")
            weights[int(label)] = weight
    else:
        weights = np.asarray(class_weight, dtype=np.float64)
    if weights.shape != (n_classes,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(
            f"class_weight={class_weight!r}; {n_classes} finite weights >= 0 are needed, one for each output"
        )
    return torch.as_tensor(weights)


def check_labels(labels: Any, n_outputs: int, ignored: int | None = None) -> None:
    """Raise `InputError` unless integer labels lie in 0..n_outputs-1; soft targets pass."""
    if labels is None:
        raise InputError("labels are needed for training and the data has none: pass (X, y), or a Dataset of (x, y)")
    labels = torch.as_tensor(labels)
    if labels.is_floating_point():
        if labels.ndim == 1 and (bad := int((~labels.isfinite()).sum())):
            raise InputError(f"{bad:,} of {len(labels):,} labels are NaN or infinite: train only on labelled rows")
        return
    if labels.ndim != 1 or len(labels) == 0:
        return
    if ignored is not None:
        labels = labels[labels != ignored]
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= n_outputs:
        raise InputError(
            f"labels {low}..{high} found, the network has {n_outputs} outputs (labels 0..{n_outputs - 1}): "
            "re-encode the labels, or widen the network's last layer"
        )


def hits_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return how many rows are classified right; NaN where the notion has no meaning."""
    if logits.ndim != 2 or y.ndim != 1 or y.is_floating_point():
        return torch.full((), float("nan"), device=logits.device)
    return (logits.argmax(dim=1) == y).sum()
