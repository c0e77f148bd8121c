"""Which rows of a pool may be picked, which of them are asked about, and what decides between equals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import RngLike, as_rng

Int64s = np.ndarray[Any, np.dtype[np.int64]]


def candidate_rows(candidates: Any, n: int) -> Tensor:
    """Return the row numbers, int64 [m], that `candidates` names in a pool of `n` rows.

    Args:
        candidates: row numbers, a boolean mask [n], or None for all rows.
        n: rows of the pool.

    Raises:
        InputError: a mask of another length, numbers that are not whole, outside the pool or repeated.
    """
    if candidates is None:
        return torch.arange(n)
    needed = f"row numbers [m], or a mask of length {n:,}"
    found = checks.array("candidates", candidates, needed).cpu()
    if not found.numel():
        return torch.empty(0, dtype=torch.int64)
    if found.ndim != 1 or found.is_floating_point():
        raise InputError(f"candidates has shape {list(found.shape)} and dtype {found.dtype}; pass {needed}")
    rows = found.numpy()
    if rows.dtype.kind == "b":
        if len(rows) != n:
            raise InputError(
                f"candidates is a mask of length {len(rows):,}, but the pool has {n:,} rows; pass {needed}"
            )
        return torch.from_numpy(np.flatnonzero(rows))
    outside = rows[(rows < 0) | (rows >= n)]
    if len(outside):
        raise InputError(
            f"candidates holds row {outside[0]}, but the pool has rows 0 to {n - 1:,} ({len(outside):,} outside); pass "
            "rows of this pool"
        )
    rows, named = rows.astype(np.int64), np.zeros(n, dtype=bool)
    named[rows] = True  # a mark for each row of the pool takes a hundredth of the time of sorting the names of most
    if repeated := len(rows) - int(np.count_nonzero(named)):
        raise InputError(f"candidates holds {repeated:,} repeated rows; name each one once")
    return torch.from_numpy(rows)


def drawn(rows: Tensor, k: int, fraction: float, rng: np.random.Generator) -> Tensor:
    """Return a random share of candidates, int64 [m], at least k of them, in their order; at 1 nothing is drawn."""
    size = max(k, math.ceil(fraction * len(rows)))
    if size >= len(rows):
        return rows
    return rows[torch.from_numpy(np.sort(rng.choice(len(rows), size, replace=False)))]


def call_rng(random_state: RngLike, round: int, n: int) -> np.random.Generator:
    """Return the generator of one call for a pool of `n` rows: the same call draws the same.

    Another pool or round draws other numbers from the same number as seed.
    """
    if isinstance(random_state, int | np.integer):
        return np.random.default_rng([checks.whole("random_state", random_state, least=0), round, n])
    return as_rng(random_state, "random_state")
