"""What is labelled, as it is given to a call: with labels, and of a kind that the trainer trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..data import as_dataset, has_labels, isolated_rng, labels_of, split_row, to_dataset
from ..errors import InputError
from ..network import of_trainer
from ..training import looks_independent
from ..types import Trainer


def labelled_dataset(call: str, X: Any, y: Any, sample_weight: Any) -> Any:
    """Return X and y as a dataset whose items have labels, or raise `InputError`; a tuple alone is (X, y[, w])."""
    if y is None and isinstance(X, tuple):  # as inputs without labels it would be of no use
        if len(X) == 3 and sample_weight is not None:
            raise InputError(f"{call}: the tuple of 3 holds weights, and sample_weight= gives them twice; leave one")
        data = to_dataset(X if sample_weight is None else (*X, sample_weight))
    else:
        data = as_dataset(X, y, sample_weight=sample_weight)
    if not has_labels(data):
        raise InputError(f"{call}: the data has no labels; pass y, or a Dataset whose items are (input, label)")
    return data


def refuse_unsaid(trainer: Trainer, data: Any) -> None:
    """Raise `InputError` for labels that look independent where nothing says what the trainer's networks give.

    Of data that is read item by item only the first label is looked at.
    """
    if of_trainer(trainer) is not None:
        return
    labels = labels_of(data, read=False)
    if labels is None:
        with isolated_rng(0):  # items may draw, as augmentation does
            first = np.asarray(split_row(data, 0)[1])
        labels = torch.as_tensor(first)[None] if first.dtype.kind in "fiub" else torch.empty(0)
    if looks_independent(labels):
        name = type(trainer).__name__
        raise InputError(
            f"labels [n, {labels.shape[1]}] are 0 and 1 with rows that do not sum to 1, and {name} does not say that "
            f"its networks give independent labels, so they would be scored as classes: give {name} an attribute "
            "outputs = 'sigmoid' (an argument of FunctionTrainer and TorchTrainer), or 'softmax' if that is meant"
        )


def refuse_alone(call: str, data: str, **beside: Any) -> None:
    """Raise `InputError` where labels or weights are given without the data they belong to, called `data`."""
    given = [name for name, value in beside.items() if value is not None]
    if given:
        raise InputError(
            f"{call}: {' and '.join(given)} came without {data}; pass {data} as well, or neither, for the data of the "
            "last fit as it was"
        )
