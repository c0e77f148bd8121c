"""Nearest neighbours of every row, by scikit-learn or by whatever is handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ..errors import InputError

Neighbours = Callable[[np.ndarray[Any, Any], int], tuple[Any, Any]]
"""A search (features [n d], k) -> (distances [n k], rows [n k]) that leaves out each row itself, nearest first."""


def knn(features: Tensor, k: int, *, neighbours: Neighbours | None = None) -> tuple[Tensor, Tensor]:
    """Return the k nearest other rows of every row, nearest first.

    Args:
        features: float [n d], finite; half precision is searched in single.
        k: how many; n - 1 where there are fewer.
        neighbours: a search (features [n d], k) -> (distances [n k], rows [n k]) used instead of scikit-learn's exact
            one, for example an index of faiss; it leaves out each row itself.

    Returns:
        Euclidean distances, float64 [n k], and rows, int64 [n k].

    Raises:
        InputError: `neighbours` returned arrays of another shape.

    Examples:
        >>> knn(torch.tensor([[0.0], [1.0], [3.0]]), 1)[1].tolist()
        [[1], [0], [1]]
    """
    n = len(features)
    k = min(k, n - 1)
    if k < 1:
        return torch.empty(n, 0, dtype=torch.float64), torch.empty(n, 0, dtype=torch.int64)
    given = features.detach().cpu()
    array = (given if given.dtype == torch.float64 else given.float()).numpy()
    found = (exact_neighbours if neighbours is None else neighbours)(array, k)
    distances, rows = (np.asarray(part) for part in found)
    if distances.shape != (n, k) or rows.shape != (n, k):
        raise InputError(
            f"neighbours= returned distances {list(distances.shape)} and rows {list(rows.shape)} for {n:,} rows; "
            f"expected [{n}, {k}] of both, without the row itself"
        )
    if rows.min() < 0 or rows.max() >= n:
        raise InputError(f"neighbours= returned rows {rows.min()} to {rows.max()}; expected 0 to {n - 1:,}")
    return torch.from_numpy(distances.astype(np.float64)), torch.from_numpy(rows.astype(np.int64))


def exact_neighbours(features: np.ndarray[Any, Any], k: int) -> tuple[Any, Any]:
    """Return distances and rows of the k nearest other rows by scikit-learn's brute-force search."""
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors()  # type: ignore[no-any-return]
