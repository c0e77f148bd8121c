"""TypiClust: the most typical sample of each large cluster that has no label yet (Hacohen et al., 2022)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import squared_distances
from ._features import check_features, check_labelled_features, given_labelled, labelled_rows, read_features
from ._given import given_features
from ._neighbours import check_clusterer, check_neighbours, cluster, nearest
from ._select import check_k, check_k_of

_BLOCK = 1 << 12


def typiclust(
    features: Tensor,
    k: int,
    *,
    labelled: Any = None,
    labelled_features: Tensor | None = None,
    max_clusters: int = 500,
    n_neighbors: int = 20,
    clusterer: Any = None,
    neighbours: Any = None,
    rng: RngLike = None,
) -> Tensor:
    """Return `k` rows: in turn the most typical one of the cluster with the fewest labels, of those the largest.

    All points, labelled or not, are put into min(labelled + k, `max_clusters`) clusters. A sample is the more typical
    the smaller its mean distance to its `n_neighbors` nearest neighbours among all points.

    Args:
        features: float [n d].
        k: how many, 1 to the number of rows that are not labelled.
        labelled: rows of `features` that are labelled already.
        labelled_features: float [m d], labelled samples that are no rows of `features`.
        max_clusters: at most so many clusters.
        n_neighbors: of the typicality.
        clusterer: object with `fit_predict(X)`; None is k-means, in batches beyond 50 clusters.
        neighbours: object with `fit(X)` and `kneighbors(X, n_neighbors)`; None is scikit-learn's exact search.
        rng: seeds k-means and breaks ties; None takes a fresh seed and prefers the lower row.

    Returns:
        int64 [k] on the CPU, in the order picked.

    Raises:
        BudgetError: k is out of range.
        InputError: shapes or row numbers that do not fit.
        NonFiniteError: NaN or infinity in features.
    """
    features = given_features("typiclust", features)
    check_features("typiclust", features)
    known = labelled_rows("typiclust", labelled, len(features))
    k = check_k("typiclust", k, len(features) - len(known))
    method = TypiClust(max_clusters, n_neighbors, clusterer, neighbours)
    return _typiclust("typiclust", features, k, known, labelled_features, method, rng)


@dataclass(frozen=True)
class TypiClust:
    """Prefers typical samples of clusters without a label; made for the first few labels; see `typiclust`."""

    max_clusters: int = 500
    n_neighbors: int = 20
    clusterer: Any = None
    neighbours: Any = None
    needs: ClassVar[frozenset[str]] = frozenset({"features", "labelled_features"})

    def __post_init__(self) -> None:
        check_clusterer("TypiClust", self.clusterer)
        check_neighbours("TypiClust", self.neighbours)
        checks.settle(
            self,
            max_clusters=checks.whole("TypiClust: max_clusters", self.max_clusters, least=1),
            n_neighbors=checks.whole("TypiClust: n_neighbors", self.n_neighbors, least=1),
        )

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in the order picked, without scores."""
        k = check_k_of("TypiClust", k, signals)
        features = read_features("TypiClust", signals)
        check_features("TypiClust", features, signals.indices)
        known = torch.empty(0, dtype=torch.int64)
        rows = _typiclust("TypiClust", features, k, known, signals.labelled_features, self, rng)
        return Selection(signals.indices.cpu()[rows])


def _typiclust(
    name: str, features: Tensor, k: int, known: Tensor, given: Tensor | None, method: TypiClust, rng: RngLike
) -> Tensor:
    given = given_labelled(name, given, features)
    check_labelled_features(name, given)
    points = features.cpu() if given is None else torch.cat([features.cpu(), given.cpu()])
    open_ = torch.arange(len(points)) < len(features)
    open_[known] = False
    generator = as_rng(rng)
    count = min(len(points) - int(open_.sum()) + k, method.max_clusters, len(points))
    clusters = cluster(name, points, count, method.clusterer, generator)
    turns = _turns(clusters.numpy(), open_.numpy(), k)
    rows = (open_ & torch.isin(clusters, torch.tensor(turns))).nonzero()[:, 0]
    spread = _mean_distances(name, points, rows, min(method.n_neighbors, len(points) - 1), method.neighbours)
    ties = rows.numpy() if rng is None else generator.permutation(len(points))[rows.numpy()]
    waiting: dict[int, list[int]] = {}
    for at in np.lexsort((ties, spread.numpy()))[::-1]:  # the most typical ends up last
        waiting.setdefault(int(clusters[rows[at]]), []).append(int(rows[at]))
    return torch.tensor([waiting[turn].pop() for turn in turns])


def _turns(clusters: np.ndarray[Any, Any], open_: np.ndarray[Any, Any], k: int) -> list[int]:
    """Return from which cluster each of the `k` picks comes: fewest labels, then largest, then lowest number."""
    names, of, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    left = np.bincount(of[open_], minlength=len(names))
    queue = [(int(sizes[c] - left[c]), -int(sizes[c]), c) for c in range(len(names)) if left[c]]
    heapq.heapify(queue)
    turns = []
    for _ in range(k):
        labels, size, c = heapq.heappop(queue)
        turns.append(int(names[c]))
        left[c] -= 1
        if left[c]:
            heapq.heappush(queue, (labels + 1, size, c))
    return turns


def _mean_distances(name: str, points: Tensor, rows: Tensor, count: int, neighbours: Any) -> Tensor:
    """Return the mean distance of `rows` of `points` to the `count` other points that are nearest, float64 [b]."""
    if count < 1:
        return torch.zeros(len(rows), dtype=torch.float64)
    near = nearest(name, points, points[rows], count + 1, neighbours)  # [b count+1], most likely with itself
    means = []
    for row, others in zip(rows.split(_BLOCK), near.split(_BLOCK), strict=True):
        pairs = others.flatten()
        distances = squared_distances(points[row].repeat_interleave(count + 1, 0), points[pairs]).sqrt()
        distances = distances.view_as(others).masked_fill(others == row[:, None], float("inf"))
        means.append(distances.sort(1).values[:, :count].mean(1))
    return torch.cat(means)
