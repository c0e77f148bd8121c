"""What the scorers that compare samples share: reading features and labelled rows, with checks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..types import Signals
from ._distances import largest_entry
from ._select import check_finite


def read_features(name: str, signals: Signals) -> Tensor:
    """Return `signals.features` [n d], checked: present, one row for each sample."""
    features = signals.features
    if features is None:
        raise InputError(f"{name} reads signals.features, but it is None; collect what scorer.needs names")
    if features.ndim != 2 or features.shape[0] != len(signals):
        raise InputError(
            f"{name}: features have shape {list(features.shape)} for {len(signals):,} samples; "
            "expected [samples, features]"
        )
    return features


def check_features(name: str, features: Tensor, indices: Tensor | None = None, what: str = "features") -> float:
    """Return the largest absolute entry of `features`, or raise unless they are a finite float [n d] with d >= 1.

    Args:
        name: of the scorer, for messages.
        features: rows; only looked at, block by block.
        indices: what to call the rows in messages, int64 [n]; None calls them by number.
        what: these rows, in words.

    Raises:
        InputError: no tensor, another shape, or integers.
        NonFiniteError: NaN or infinity, naming the samples.
    """
    if not isinstance(features, Tensor):
        raise InputError(f"{name}: {what} are a {type(features).__name__}; pass a tensor (torch.from_numpy)")
    if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
        raise InputError(
            f"{name}: {what} have shape {list(features.shape)} and dtype {features.dtype}; "
            "expected floats [samples, features] with one feature or more"
        )
    largest = largest_entry(features)
    if not math.isfinite(largest):
        check_finite(name, what, features, torch.arange(len(features)) if indices is None else indices)
    return largest


def check_labelled_features(name: str, labelled: Tensor | None, features: Tensor) -> float:
    """Return the largest absolute entry of the features of labelled samples [m d], checked to go with `features`."""
    if labelled is None:
        return 0.0
    largest = check_features(name, labelled, what="labelled features")
    if labelled.shape[1] != features.shape[1]:
        raise InputError(
            f"{name}: labelled features have {labelled.shape[1]} columns and features {features.shape[1]}; "
            "both must come from the same network"
        )
    return largest


def labelled_rows(name: str, labelled: Any, n: int) -> Tensor:
    """Return the rows that are labelled, int64 [m] ascending without repeats, of `n` rows; None means none."""
    if labelled is None:
        return torch.empty(0, dtype=torch.int64)
    rows = np.asarray(labelled.cpu() if isinstance(labelled, Tensor) else labelled)
    if rows.size == 0:
        return torch.empty(0, dtype=torch.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InputError(f"{name}: labelled has shape {rows.shape} and dtype {rows.dtype}; pass row numbers")
    if rows.min() < 0 or rows.max() >= n:
        bad = rows[(rows < 0) | (rows >= n)]
        raise InputError(f"{name}: labelled holds row {bad[0]}, but features has rows 0 to {n - 1:,}")
    return torch.from_numpy(np.unique(rows).astype(np.int64))
