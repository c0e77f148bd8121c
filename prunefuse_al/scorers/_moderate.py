"""Moderate core-set (Xia et al., 2023): samples at a middling distance from the centre of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from ..types import RngLike, Selection, Signals
from ._features import check_features, read_features
from ._given import given_features, given_labels
from ._select import check_k, check_k_of, read_labels

Floats = np.ndarray[Any, Any]
_ROWS = 512  # converted to double precision at once, few enough to stay in the cache
_TURNED = 256  # rows made columns at once, likewise
_CONVERTED = 2**14  # rows of half precision made single at once
_HELD = 2**23  # numbers laid out as columns at once


def moderate(features: Tensor, labels: Tensor, k: SupportsIndex) -> Tensor:
    """Return the k samples in the middle of the order of distances to the own class's median.

    The centre of a class is the element-wise median of its features. All n distances are put in one order, over
    classes, and the ranks from (n - k) / 2, rounded down, on are taken.

    Args:
        features: float [n d], finite; computed in double precision.
        labels: int [n], given or predicted.
        k: how many, 1 to n.

    Returns:
        int64 [k], positions, those nearest to the middle rank first; ties go to the lower position.

    Raises:
        BudgetError: `k` is not between 1 and n.
        InputError: shapes that do not fit.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> moderate(torch.tensor([[0.0], [9.0], [1.0], [3.0], [2.0]]), torch.zeros(5, dtype=torch.int64), 3).tolist()
        [3, 2, 0]
    """
    features = given_features("moderate", features)
    k = check_k("moderate", k, len(features))
    labels = given_labels("moderate", labels, len(features))
    check_features("moderate", features)
    return _moderate(features, labels, k)


def _moderate(features: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the picks for checked input."""
    order = distances_to_medians(features, labels).argsort(stable=True)  # [n]
    n = len(order)
    from_middle = (2 * torch.arange(n) - (n - 1)).abs()  # of each rank, twice over
    return order[from_middle.argsort(stable=True)[:k]]


def distances_to_medians(features: Tensor, labels: Tensor) -> Tensor:
    """Return the Euclidean distance of each row to the element-wise median of its class, float64 [n] on the CPU.

    Beside O(n), the rows of one class at a time are held, and some of its columns.
    """
    labels, features = labels.detach().cpu(), features.detach().cpu()
    found = torch.empty(len(features), dtype=torch.float64)
    order = labels.argsort(stable=True)
    sizes = torch.unique_consecutive(labels[order], return_counts=True)[1].tolist()
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    largest, d = max(sizes), features.shape[1]
    width = min(d, max(1, _HELD // largest))
    # Room for one class, used again by the next: asking the system for memory takes longer than to fill it.
    gathered = torch.empty(largest if len(sizes) > 1 or features.dtype != dtype else 0, d, dtype=dtype)
    columns = torch.empty(width * largest, dtype=dtype)
    for rows in order.split(sizes):
        members = features if len(gathered) == 0 else gathered[: len(rows)]  # [m d]
        if features.dtype != dtype:
            for start in range(0, len(rows), _CONVERTED):
                some = rows[start : start + _CONVERTED]
                members[start : start + len(some)] = features[some]
        elif len(gathered):
            torch.index_select(features, 0, rows, out=members)
        centre = np.concatenate([_medians(part, columns) for part in members.split(width, 1)])
        found[rows] = torch.from_numpy(_distances(members.numpy(), centre))
    return found


def _medians(rows: Tensor, room: Tensor) -> Floats:
    """Return the median of each column of [m w], m >= 1, float64 [w]; of an even number, the middle of two.

    NumPy selects fast along memory, one place at a time; torch does not. So columns are laid out in `room`.
    """
    columns = room[: rows.numel()].view(-1, len(rows))  # [w m]
    start = 0
    for some in rows.split(_TURNED):
        columns[:, start : start + len(some)] = some.T
        start += len(some)
    values, half = columns.numpy(), len(rows) // 2
    values.partition(half, axis=1)
    upper = values[:, half].astype(np.float64)
    lower = upper if len(rows) % 2 else values[:, :half].max(1).astype(np.float64)
    middle: Floats = lower / 2 + upper / 2  # halved first: the sum of extreme values may overflow
    return middle


def _distances(rows: Floats, centre: Floats) -> Floats:
    """Return the Euclidean distances of rows [m d] to a centre [d], float64 [m]."""
    squares = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        off = rows[start : start + _ROWS] - centre  # [b d], in double precision
        np.einsum("bd,bd->b", off, off, out=squares[start : start + _ROWS])
    distances: Floats = np.sqrt(squares)
    return distances


@dataclass(frozen=True)
class Moderate:
    """Prefers samples neither typical nor odd for their class; see `moderate`. Draws nothing: `rng` is not used."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "labels"})

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k samples nearest to the middle rank, without scores; ties go to the lower row."""
        k = check_k_of("Moderate", k, signals)
        features, labels = read_features("Moderate", signals), read_labels("Moderate", signals)
        check_features("Moderate", features, signals.indices)
        return Selection(signals.indices.cpu()[_moderate(features, labels, k)])
