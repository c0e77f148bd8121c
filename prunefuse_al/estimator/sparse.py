"""Sparse tables, such as words counted by a `CountVectorizer`: read row by row, never made dense as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.sparsefuncs import mean_variance_axis
from torch import Tensor

from ..data import Rows


class SparseRows(Rows):
    """A csr matrix [n d] as a dataset without labels; a batch becomes dense when it is read.

    Attributes:
        x: the matrix.
    """

    def __init__(self, x: Any) -> None:
        self.x = x

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        n, d = self.x.shape
        return n, d

    def take(self, rows: Tensor) -> tuple[Any, None, None]:
        """Return the rows, int64 [b], as a new dense tensor [b d], with neither labels nor weights."""
        return torch.from_numpy(self.x[rows.numpy()].toarray()), None, None

    def moments(self, weights: np.ndarray[Any, Any] | None = None) -> tuple[np.ndarray[Any, Any], ...]:
        """Return mean and standard deviation of each column, float64 [d]; rows count by `weights`, [n]."""
        mean, variance = mean_variance_axis(self.x.astype(np.float64), axis=0, weights=weights)
        return mean, np.sqrt(variance)
