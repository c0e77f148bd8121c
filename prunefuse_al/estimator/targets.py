"""Labels of any kind as numbers of a network's outputs, or 0 and 1 for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from ..data import refuse_missing
from ..errors import InputError

_SHOWN = 5
ONE_OUTPUT = "; if a sigmoid of the one output is the probability of the second of two classes, pass " + (
    "trainer=TorchTrainer(loss=nn.BCEWithLogitsLoss())"
)


def read_labels(y: Any) -> np.ndarray[Any, Any]:
    """Return labels as an array [n] of numbers or strings, or [n c] of 0 and 1, several labels a row.

    Raises:
        ValueError: labels are missing, or not labels of classes (scikit-learn's messages).
    """
    y = y.toarray() if issparse(y) else y.cpu().numpy() if isinstance(y, Tensor) else y
    if several(y):
        given = np.asarray(y)
        if given.dtype.kind in "fiub" and np.isin(given, (0, 1)).all():
            return given.astype(np.int64)
    labels: np.ndarray[Any, Any] = column_or_1d(y, warn=True)
    refuse_missing(labels)
    check_classification_targets(labels)
    return labels


def several(y: Any) -> bool:
    """Tell whether there are two labels or more for each row."""
    shape = y.shape if hasattr(y, "shape") else np.asarray(y).shape
    return len(shape) == 2 and shape[1] > 1


def known_classes(labels: np.ndarray[Any, Any], classes: Any, outputs: int | None) -> np.ndarray[Any, Any]:
    """Return the label of each output of the network, [c].

    Args:
        labels: what has been seen, [n], or [n c] of 0 and 1.
        classes: all labels in the order of the outputs, or None to conclude it from the labels.
        outputs: outputs of the network, or None if it will be built for these classes.

    Raises:
        InputError: the number of classes does not fit, or cannot be known from these labels.
    """
    seen = np.unique(labels) if labels.ndim == 1 else np.arange(labels.shape[1])
    if labels.ndim == 2 and (outputs not in (None, len(seen)) or (classes is not None and len(classes) != len(seen))):
        other = f"the network has {outputs} outputs" if classes is None else f"classes= has {len(classes)} labels"
        raise InputError(f"y has {len(seen)} columns, one for each label, and {other}; they must agree")
    if classes is not None:
        given = np.asarray(classes)
        if given.ndim != 1 or len(np.unique(given)) < max(2, given.size):
            raise InputError(f"classes={classes!r} must be two different labels or more, one for each output")
        if outputs is not None and outputs != len(given):
            raise InputError(f"classes= has {len(given)} labels, the network has {outputs} outputs; they must agree")
        return given
    if outputs is None or len(seen) == outputs:
        if len(seen) < 2:
            raise InputError(
                f"y holds one class only ({seen[0]!r} in all {len(labels):,} rows), from which nothing can be learned; "
                "label samples of a second one, or pass classes= if others will come"
            )
        return seen
    if np.issubdtype(seen.dtype, np.integer) and seen[0] >= 0 and seen[-1] < outputs:
        return np.arange(outputs)
    raise InputError(
        f"y holds {len(seen)} classes ({_some(seen)}), the network has {outputs} outputs; pass classes=, all labels in "
        "the order of the outputs"
        + ("" if len(seen) < outputs else f", and a network with at least {len(seen)} outputs")
        + ONE_OUTPUT * (outputs == 1)
    )


def encode(labels: np.ndarray[Any, Any], classes: np.ndarray[Any, Any], call: str) -> Tensor:
    """Return the output that stands for each label, int64 [n]; of several labels a row, 0 or 1 for each output, [n c].

    Raises:
        InputError: a label is not among the classes.
    """
    if labels.ndim == 2:
        if labels.shape[1] != len(classes):
            raise InputError(f"{call}: y has {labels.shape[1]} columns, and there are {len(classes)} labels")
        return torch.from_numpy(labels)
    order = np.argsort(classes)
    places = np.searchsorted(classes, labels, sorter=order).clip(max=len(classes) - 1)
    codes = order[places]  # [n]
    unknown = classes[codes] != labels
    if np.any(unknown):
        raise InputError(
            f"{call}: {int(np.sum(unknown)):,} of {len(labels):,} labels are not among the {len(classes)} classes "
            f"({_some(classes)}): {_some(np.unique(labels[unknown]))}; pass classes= with all of them"
        )
    return torch.from_numpy(codes.astype(np.int64))


def _some(values: np.ndarray[Any, Any]) -> str:
    return ", ".join(map(str, values[:_SHOWN].tolist())) + (", ..." if len(values) > _SHOWN else "")
