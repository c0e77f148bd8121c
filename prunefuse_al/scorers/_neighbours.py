"""Nearest neighbours and clusters from scikit-learn, or from any object that is called the same way.

To search with faiss, pass as `neighbours` an object like this one, which is given float32 or float64 arrays:

    class Faiss:
        def fit(self, X):
            self.index = faiss.IndexFlatL2(X.shape[1])  # or an approximate one
            self.index.add(X.astype("float32"))
            return self

        def kneighbors(self, X, n_neighbors):
            squared, rows = self.index.search(X.astype("float32"), n_neighbors)
            return squared**0.5, rows
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from .. import checks
from ..data import alone
from ..errors import InputError
from ._distances import working_dtype

SEARCH = "an object with `fit(X)` and `kneighbors(X, n_neighbors)`, such as sklearn.neighbors.NearestNeighbors()"
CLUSTERER = "an object with `fit_predict(X)`, such as sklearn.cluster.KMeans()"
FEW_CLUSTERS = 50
"""Up to so many clusters k-means goes over all points at once, beyond it over small batches (as TypiClust does)."""


def check_neighbours(name: str, neighbours: Any) -> None:
    """Raise `InputError` unless `neighbours` is None or can be searched with, see `nearest`."""
    checks.maybe(checks.methods, f"{name}: neighbours", neighbours, ("fit", "kneighbors"), SEARCH)


def check_clusterer(name: str, clusterer: Any) -> None:
    """Raise `InputError` unless `clusterer` is None or can cluster, see `cluster`."""
    checks.maybe(checks.methods, f"{name}: clusterer", clusterer, ("fit_predict",), CLUSTERER)


def nearest(name: str, known: Tensor, asked: Tensor, count: int, neighbours: Any = None) -> Tensor:
    """Return for each row of `asked` [b d] which `count` rows of `known` [m d] are nearest, int64 [b count].

    Args:
        name: of the scorer, for messages.
        known: where to search.
        asked: what to search for.
        count: 1 to m.
        neighbours: see `search_in`.

    Raises:
        InputError: see `search_in`.
    """
    return search_in(name, known, neighbours)(asked, count)


def search_in(name: str, known: Tensor, neighbours: Any = None) -> Callable[[Tensor, int], Tensor]:
    """Return what tells of each row of a tensor [b d] which so many rows of `known` [m d] are nearest, int64 [b count].

    Args:
        name: of the scorer, for messages.
        known: where to search.
        neighbours: an object with `fit(X)` and `kneighbors(X, n_neighbors)`, which is copied; None is scikit-learn's
            exact search.

    Raises:
        InputError: `neighbours` has another form, or gives something else than rows of `known`.
    """
    check_neighbours(name, neighbours)
    search = NearestNeighbors(algorithm="brute") if neighbours is None else copy.deepcopy(neighbours)
    search.fit(as_array(known))
    return partial(_nearest, name, known, search)


def _nearest(name: str, known: Tensor, search: Any, asked: Tensor, count: int) -> Tensor:
    _, rows = search.kneighbors(as_array(asked), n_neighbors=count)
    rows = np.asarray(rows)
    if rows.shape != (len(asked), count) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(known):
        raise InputError(
            f"{name}: kneighbors of {type(search).__name__} gave {rows.dtype} {list(rows.shape)} from {rows.min()} to "
            f"{rows.max()}; expected row numbers [{len(asked)}, {count}] from 0 to {len(known) - 1}: let it give these"
        )
    return torch.from_numpy(rows.astype(np.int64))


def cluster(name: str, points: Tensor, count: int, clusterer: Any, rng: np.random.Generator) -> Tensor:
    """Return the cluster of each point [n d], int64 [n].

    Args:
        name: of the scorer, for messages.
        points: what to cluster.
        count: of clusters; fewer come out where there are fewer distinct points.
        clusterer: an object with `fit_predict(X)`, which is copied, and gets `n_clusters` where it has that; None is
            k-means, seeded by `rng`.
        rng: draws the seed.

    Raises:
        InputError: `clusterer` has another form or does not give one integer for each point.
    """
    check_clusterer(name, clusterer)
    if clusterer is None:
        seed = int(rng.integers(2**31))
        method: Any = KMeans(count, n_init=1, random_state=seed)
        if count > FEW_CLUSTERS:
            method = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed)
    else:
        method = copy.deepcopy(clusterer)
        if hasattr(method, "n_clusters"):
            method.n_clusters = count
    with alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: no harm here
        labels = np.asarray(method.fit_predict(as_array(points)))
    if labels.shape != (len(points),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{name}: fit_predict of {type(method).__name__} gave {labels.dtype} {list(labels.shape)}; "
            f"expected integers [{len(points)}]: let it give these"
        )
    return torch.from_numpy(labels.astype(np.int64))


def knn(features: Tensor, k: int, *, neighbours: Any = None) -> tuple[Tensor, Tensor]:
    """Return the k nearest other rows of every row, nearest first.

    Args:
        features: float [n d], finite; half precision is searched in single.
        k: how many; n - 1 where there are fewer.
        neighbours: see `nearest`.

    Returns:
        Euclidean distances, float64 [n k], and rows, int64 [n k].

    Raises:
        InputError: see `nearest`.

    Examples:
        >>> knn(torch.tensor([[0.0], [1.0], [3.0]]), 1)[1].tolist()
        [[1], [0], [1]]
    """
    n = len(features)
    k = min(k, n - 1)
    if k < 1:
        return torch.empty(n, 0, dtype=torch.float64), torch.empty(n, 0, dtype=torch.int64)
    rows = nearest("knn", features, features, k + 1, neighbours)
    own = rows == torch.arange(n)[:, None]
    own[:, -1] |= ~own.any(1)  # among many duplicates a row may not find itself
    rows = rows[~own].view(n, k)
    points = features.detach().cpu().double()
    distances = torch.stack([(points - points[column]).norm(dim=1) for column in rows.T], 1)
    return distances, rows


def as_array(points: Tensor) -> np.ndarray[Any, Any]:
    """Return points as a NumPy array in single or double precision, which all of scikit-learn takes."""
    array: np.ndarray[Any, Any] = points.detach().to("cpu", working_dtype(points)).numpy()
    return array
