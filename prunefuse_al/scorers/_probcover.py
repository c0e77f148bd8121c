"""ProbCover: samples whose balls cover the most of what no ball covers yet (Yehuda et al., 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import Frame, Points, lower_bounds, lower_minima, squared_distances
from ._features import check_features, check_labelled_features, given_labelled, labelled_rows, read_features
from ._given import given_features, given_labels
from ._neighbours import check_clusterer, cluster
from ._select import check_k, check_k_of, read_logits

_BLOCK, _CHUNK = 1 << 12, 1 << 10
_PAIRS = 1 << 16
_TOUCH = 1e-9
"""Relative: what is closer to a ball's edge than this is on it, and so outside, however the distance was rounded."""


def probcover(
    features: Tensor,
    k: int,
    *,
    delta: float | None = None,
    classes: int = 10,
    purity: float = 0.95,
    clusterer: Any = None,
    labelled: Any = None,
    labelled_features: Tensor | None = None,
    rng: RngLike = None,
) -> Tensor:
    """Return `k` rows, each the one whose open ball of radius `delta` holds the most points that are in no ball yet.

    Features are scaled to length 1. Labelled samples have balls from the start; a sample always covers itself. When
    all is covered, the rest are ties.

    Args:
        features: float [n d]; the covering is computed on their device.
        k: how many, 1 to the number of rows that are not labelled.
        delta: radius; None takes `purity_radius` of k-means into `classes` clusters.
        classes: of k-means: as many as there are classes.
        purity: of the balls, see `purity_radius`.
        clusterer: object with `fit_predict(X)` instead of k-means.
        labelled: rows of `features` that are labelled already.
        labelled_features: float [m d], labelled samples that are no rows of `features`.
        rng: seeds k-means and breaks ties; None takes a fresh seed and prefers the lower row.

    Returns:
        int64 [k] on the CPU, in the order picked. Distances of all pairs are computed twice, in blocks; none is kept.

    Raises:
        BudgetError: k is out of range.
        InputError: an option, shapes or row numbers that cannot be used.
        NonFiniteError: NaN or infinity in features.
    """
    features = given_features("probcover", features)
    check_features("probcover", features)
    known = labelled_rows("probcover", labelled, len(features))
    k = check_k("probcover", k, len(features) - len(known))
    method = ProbCover(delta, checks.whole("ProbCover: classes", classes, least=1), purity, clusterer)
    return _probcover("probcover", features, k, known, labelled_features, method, method.classes or 1, rng)


def purity_radius(points: Tensor, clusters: Tensor, *, purity: float = 0.95) -> float:
    """Return the largest radius at which a share `purity` of the open balls around points hold one cluster only.

    Args:
        points: float [n d].
        clusters: int64 [n], on the same device.
        purity: between 0 and 1.

    Returns:
        The distance of some point to the nearest one of another cluster; infinity if there is one cluster only.

    Raises:
        InputError: shapes that do not fit, or a purity out of range.
        NonFiniteError: NaN or infinity.
    """
    points, purity = given_features("purity_radius", points, what="points"), _check_purity(purity)
    check_features("purity_radius", points, what="points")
    if not len(points):
        raise InputError("purity_radius: there are 0 points; pass at least one")
    clusters = given_labels("purity_radius", clusters, len(points)).to(points.device)
    return _purity_radius(points, clusters, purity)


def _purity_radius(points: Tensor, clusters: Tensor, purity: float) -> float:
    frame = Frame.around(points, float(points.abs().amax()), points.dtype)
    enemies = torch.full((len(points),), math.inf, dtype=torch.float64, device=points.device)  # [n] squared distance
    for label in clusters.unique():
        inside, outside = (clusters == label).nonzero()[:, 0], (clusters != label).nonzero()[:, 0]
        for rows in inside.split(_BLOCK):
            samples, minima = frame.samples(points[rows]), enemies[rows]
            for others in outside.split(_CHUNK):
                if len(others):
                    lower_minima(minima, samples, frame.centres(points[others]), frame)
            enemies[rows] = minima
    pure = math.ceil(purity * len(points) - 1e-9)
    return math.sqrt(float(enemies.sort(descending=True).values[pure - 1]))


@dataclass(frozen=True)
class ProbCover:
    """Prefers samples that cover many others; made for the first few labels; see `probcover`.

    Without `delta` and `classes` it reads logits, only to know how many classes there are.
    """

    delta: float | None = None
    classes: int | None = None
    purity: float = 0.95
    clusterer: Any = None

    def __post_init__(self) -> None:
        check_clusterer("ProbCover", self.clusterer)
        checks.settle(
            self,
            delta=checks.maybe(checks.number, "ProbCover: delta", self.delta, least=0),
            classes=checks.maybe(checks.whole, "ProbCover: classes", self.classes, least=1),
            purity=_check_purity(self.purity),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals it reads."""
        features = frozenset({"features", "labelled_features"})
        return features | {"logits"} if self.delta is None and self.classes is None else features

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in the order picked, without scores."""
        k = check_k_of("ProbCover", k, signals)
        features = read_features("ProbCover", signals)
        check_features("ProbCover", features, signals.indices)
        classes = read_logits("ProbCover", signals).shape[1] if "logits" in self.needs else self.classes or 1
        known = torch.empty(0, dtype=torch.int64)
        rows = _probcover("ProbCover", features, k, known, signals.labelled_features, self, classes, rng)
        return Selection(signals.indices.cpu()[rows])


def _probcover(
    name: str,
    features: Tensor,
    k: int,
    known: Tensor,
    given: Tensor | None,
    method: ProbCover,
    classes: int,
    rng: RngLike,
) -> Tensor:
    given = given_labelled(name, given, features)
    check_labelled_features(name, given)
    points = _normalised(features)
    if given is not None:
        points = torch.cat([points, _normalised(given.to(points.device))])
    generator, delta = as_rng(rng), method.delta
    if delta is None:
        clusters = cluster(name, points, min(classes, len(points)), method.clusterer, generator)
        delta = _purity_radius(points, clusters.to(points.device), method.purity)
    cover = _Cover(points, delta)
    open_ = torch.arange(len(points), device=points.device) < len(features)
    open_[known.to(points.device)] = False
    rank = torch.arange(len(points)) if rng is None else torch.from_numpy(generator.permutation(len(points)))
    return cover.greedy(open_, k, rank.to(points.device)).cpu()


def _check_purity(purity: float) -> float:
    return checks.number("purity", purity, above=0, most=1, what="a share above 0 and at most 1")


def _normalised(features: Tensor) -> Tensor:
    """Return rows of length 1, float64 [n d]; rows of zeros stay."""
    points = features.double()
    points = points / points.abs().amax(1, keepdim=True).clamp_min(1e-300)  # so that no square over- or underflows
    lengths: Tensor = points.square().sum(1, keepdim=True).sqrt().clamp_min(1e-300)
    return points / lengths


class _Cover:
    """Who is in whose ball, for points [n d]."""

    def __init__(self, points: Tensor, delta: float) -> None:
        frame = Frame.around(points, 1.0, points.dtype)
        self.samples, self.centres = frame.samples(points), frame.centres(points)
        self.edge = delta * delta * (1 - _TOUCH)
        # A bound is at most `width` below the distance, so what is less than that below the edge is undecided.
        self.width = 5 * frame.slack * float(self.centres.factors[:, -1].amax()) + 1e-30
        self.limit = self.edge * frame.scale * frame.scale

    def greedy(self, open_: Tensor, k: int, rank: Tensor) -> Tensor:
        """Return `k` of the open points, int64 [k]; what is not open covers from the start; `rank` breaks ties."""
        n, device = len(open_), open_.device
        free = torch.ones(n, dtype=torch.bool, device=device)  # [n] in no ball yet
        for rows in (~open_).nonzero()[:, 0].split(_CHUNK):
            free &= ~self._counted(torch.arange(n, device=device), rows).bool()
        rows, gain = open_.nonzero()[:, 0], torch.full((n,), -1, dtype=torch.int64, device=device)
        gain[rows] = self._counted(rows, free.nonzero()[:, 0])
        picked: list[int] = []
        while True:
            best = int((gain * n - rank).masked_fill(gain < 0, -n).argmax())
            picked.append(best)
            gain[best] = -1
            if len(picked) == k:
                return torch.tensor(picked)
            maybe = free.nonzero()[:, 0]
            new = maybe[self._counted(maybe, torch.tensor([best], device=device)).bool()]
            free[new] = False
            rows = (gain > 0).nonzero()[:, 0]
            gain[rows] -= self._counted(rows, new)

    def _counted(self, rows: Tensor, balls: Tensor) -> Tensor:
        """Return how many of the points `balls` each of the points `rows` is close to, int64 [b]."""
        counts = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for start in range(0, len(rows), _BLOCK):
            block = self.samples[rows[start : start + _BLOCK]]
            for others in balls.split(_CHUNK):
                if len(others):
                    counts[start : start + _BLOCK] += self._within(block, self.centres[others])
        return counts

    def _within(self, samples: Points, centres: Points) -> Tensor:
        """Return for each sample how many centres are closer than delta, or equal to it, int64 [b]."""
        low = lower_bounds(samples, centres)  # [b c]
        inside: Tensor = (low < self.limit * (1 - 2.0**-20) - self.width).sum(1)
        unsure = (low >= self.limit * (1 - 2.0**-20) - self.width) & (low <= self.limit * (1 + 2.0**-20) + 1e-30)
        for pairs in unsure.nonzero().split(_PAIRS):
            squared = squared_distances(samples.raw[pairs[:, 0]], centres.raw[pairs[:, 1]])
            inside.index_add_(0, pairs[:, 0], ((squared < self.edge) | (squared == 0)).long())
        return inside
