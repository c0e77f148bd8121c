"""What the scorers that compare samples share: reading features and labelled rows, with checks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import Signals
from ._distances import largest_entry
from ._given import given_features
from ._select import check_finite, read_field


def read_features(name: str, signals: Signals) -> Tensor:
    """Return `signals.features` [n d], checked: present, one row for each sample."""
    return given_features(name, read_field(name, signals, "features"), rows=len(signals))


def check_features(name: str, features: Tensor, indices: Tensor | None = None, what: str = "features") -> float:
    """Return the largest absolute entry of `features` [n d], or raise unless all are finite.

    Args:
        name: of the scorer, for messages.
        features: rows; only looked at, block by block.
        indices: what to call the rows in messages, int64 [n]; None calls them by number.
        what: these rows, in words.

    Raises:
        NonFiniteError: NaN or infinity, naming the samples.
    """
    largest = largest_entry(features)
    if not math.isfinite(largest):
        check_finite(name, what, features, torch.arange(len(features)) if indices is None else indices)
    return largest


def given_labelled(name: str, labelled: Any, features: Tensor) -> Tensor | None:
    """Return the features of labelled samples as floats [m d], d as `features` has it; None for None."""
    if labelled is None:
        return None
    found = given_features(name, labelled, what="labelled features")
    if found.shape[1] != features.shape[1]:
        raise InputError(
            f"{name}: labelled features have {found.shape[1]} columns and features {features.shape[1]}; "
            "pass both from the same network"
        )
    return found


def check_labelled_features(name: str, labelled: Tensor | None) -> float:
    """Return the largest absolute entry of the features of labelled samples [m d], 0 for None; see `check_features`."""
    return 0.0 if labelled is None else check_features(name, labelled, what="labelled features")


def labelled_rows(name: str, labelled: Any, n: int) -> Tensor:
    """Return the rows that are labelled, int64 [m] ascending without repeats, of `n` rows; None means none."""
    if labelled is None:
        return torch.empty(0, dtype=torch.int64)
    rows = checks.whole_numbers(f"{name}: labelled", labelled, "row numbers [m] of features")
    bad = rows[(rows < 0) | (rows >= n)]
    if rows.ndim != 1 or len(bad):
        found = f"holds row {int(bad[0])}" if rows.ndim == 1 else f"has shape {list(rows.shape)}"
        raise InputError(f"{name}: labelled {found}, but features has rows 0 to {n - 1:,}; pass row numbers [m]")
    known: Tensor = rows.cpu().unique()
    return known
