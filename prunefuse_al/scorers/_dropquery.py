"""DropQuery: samples whose class changes when features are left out, one from each cluster (Gupte et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import working_dtype
from ._features import check_features, read_features
from ._given import given_features, given_logits
from ._neighbours import check_clusterer, cluster
from ._select import check_finite, check_k, check_k_of, read_field, read_logits, read_mc_logits

PASSES_BY = ("head", "network")
_NUMBERS = 1 << 20  # in masks that are drawn at once


def dropquery(
    logits: Tensor,
    features: Tensor,
    head: Tensor,
    k: int,
    *,
    passes: int = 3,
    dropout: float = 0.75,
    oversampling: float = 25,
    clusterer: Any = None,
    rng: RngLike = None,
) -> Tensor:
    """Return `k` rows, one from each cluster of those whose class changes under dropout of the features.

    Candidates are rows whose class changes in more than half of the passes; while they are fewer than
    `oversampling` k, one pass less will do, down to one. Their features, at length 1, are put into k clusters, and the
    nearest row to the centre of each is taken. Of fewer candidates than k all are taken, and others uniformly. A
    network that is sure of all has no candidates, and its picks are all drawn: `dropquery_flips` tells.

    The paper's classifier, trained beside a frozen network, has a BatchNorm before its linear layer, of whose outputs
    it makes clusters; here they are of the features themselves. What class changes is told from the pass without
    dropout, as the code has it. Where clusters come out empty, the code raises; here the rows farthest from their
    centres fill up.

    Args:
        logits: float [n c], c >= 2, without dropout.
        features: float [n d], the input of the last linear layer.
        head: float [c d+1], that layer's weights, then its bias.
        k: how many, 1 to n.
        passes: how many, each with features left out at random, others for each row.
        dropout: share of features left out.
        oversampling: how many candidates for each pick are wanted.
        clusterer: object with `fit_predict(X)`; None is k-means, in batches beyond 50 clusters.
        rng: draws what is left out, seeds k-means, and draws what fills up.

    Returns:
        int64 [k] on the CPU: those whose class changes most often first, of equals the lower row.

    Raises:
        BudgetError: k is out of range.
        InputError: an option or shapes that cannot be used.
        NonFiniteError: NaN or infinity.
    """
    method = DropQuery(passes, dropout, oversampling, "head", clusterer)
    logits = given_logits("dropquery", logits)
    features = given_features("dropquery", features, rows=len(logits))
    k = check_k("dropquery", k, len(logits))
    rows = torch.arange(len(logits))
    check_finite("dropquery", "logits", logits, rows)
    largest, generator = check_features("dropquery", features), as_rng(rng)
    flips = _flips("dropquery", method, logits, features, head, largest, generator)
    return _pick("dropquery", method, features, flips, k, generator)


def dropquery_flips(
    logits: Tensor,
    features: Tensor,
    head: Tensor,
    *,
    passes: int = 3,
    dropout: float = 0.75,
    rng: RngLike = None,
) -> Tensor:
    """Return in how many passes with features left out the class of each row is another, int64 [n]; see `dropquery`.

    Examples:
        >>> head = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
        >>> dropquery_flips(torch.tensor([[0.5, 9.0]]), torch.tensor([[0.0, 9.0]]), head, dropout=0).tolist()
        [0]
    """
    method = DropQuery(passes, dropout)
    logits = given_logits("dropquery_flips", logits)
    features = given_features("dropquery_flips", features, rows=len(logits))
    check_finite("dropquery_flips", "logits", logits, torch.arange(len(logits)))
    largest = check_features("dropquery_flips", features)
    return _flips("dropquery_flips", method, logits, features, head, largest, as_rng(rng))


def dropquery_init(features: Tensor, k: int, *, clusterer: Any = None, rng: RngLike = None) -> Tensor:
    """Return `k` rows, the nearest one to the centre of each of k clusters of features at length 1.

    It is what DropQuery labels first; it reads nothing of what is labelled, or of what a classifier says.

    Args:
        features: float [n d].
        k: how many, 1 to n.
        clusterer: object with `fit_predict(X)`; None is k-means, in batches beyond 50 clusters.
        rng: seeds k-means.

    Returns:
        int64 [k] on the CPU, ascending.

    Raises:
        BudgetError: k is out of range.
        InputError: an option or shapes that cannot be used.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> dropquery_init(torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0]]), 2, rng=0).tolist()
        [0, 2]
    """
    check_clusterer("dropquery_init", clusterer)
    features = given_features("dropquery_init", features)
    k = check_k("dropquery_init", k, len(features))
    check_features("dropquery_init", features)
    return _centres("dropquery_init", features, k, clusterer, as_rng(rng)).sort().values


def _pick(
    name: str, method: DropQuery, features: Tensor, flips: Tensor, k: int, generator: np.random.Generator
) -> Tensor:
    """Return k rows for checked input, int64 [k]."""
    candidates = _candidates(flips, method.passes, method.oversampling * k)
    if len(candidates) < k:
        rest = np.setdiff1d(np.arange(len(flips)), candidates.numpy())
        drawn = torch.from_numpy(generator.permutation(rest)[: k - len(candidates)])
        rows = torch.cat([candidates, drawn])
    else:
        some = features[candidates.to(features.device)]
        rows = candidates[_centres(name, some, k, method.clusterer, generator)]
    rows = rows.sort().values
    return rows[(-flips[rows]).argsort(stable=True)]


def _candidates(flips: Tensor, passes: int, wanted: float) -> Tensor:
    """Return the rows whose class changes in more than half of the passes, or in fewer until `wanted` are found."""
    threshold = passes // 2
    while threshold > 0 and int((flips > threshold).sum()) < wanted:
        threshold -= 1
    return (flips > threshold).nonzero()[:, 0]


def _flips(
    name: str,
    method: DropQuery,
    logits: Tensor,
    features: Tensor,
    head: Any,
    largest: float,
    generator: np.random.Generator,
) -> Tensor:
    """Return in how many passes through the head the class of each row is another, int64 [n] on the CPU."""
    layer = given_features(name, head, what="head")
    if layer.shape != (logits.shape[1], features.shape[1] + 1):
        raise InputError(
            f"{name}: head has shape {list(layer.shape)} for {logits.shape[1]} classes and {features.shape[1]} "
            f"features; pass its weights and then its bias, [{logits.shape[1]}, {features.shape[1] + 1}]"
        )
    check_finite(name, "head", layer, torch.arange(len(layer)))
    layer = layer.detach().double().to(features.device)
    unit = max(1.0, largest)  # features and bias over it, so that no product is beyond the range
    weights, bias = layer[:, :-1], layer[:, -1] / unit
    flips = []
    for rows, masks in _masks(method, len(features), features.shape[1], generator):
        given = features[rows].detach().double() / unit  # [b d]
        kept = torch.from_numpy(masks).to(features.device) * given[:, None] / (1 - method.dropout)  # [b t d]
        classes = (kept @ weights.T + bias).argmax(2)  # [b t]
        flips.append((classes != logits[rows].argmax(1)[:, None].to(classes.device)).sum(1).cpu())
    return torch.cat(flips)


def _masks(
    method: DropQuery, n: int, d: int, generator: np.random.Generator
) -> Iterator[tuple[slice, np.ndarray[Any, Any]]]:
    """Yield rows, and which of their features stay in each pass, bool [b t d]."""
    size = max(1, _NUMBERS // (method.passes * d))
    for start in range(0, n, size):
        rows = slice(start, min(n, start + size))
        yield rows, generator.random((rows.stop - start, method.passes, d)) >= method.dropout


def _centres(name: str, features: Tensor, k: int, clusterer: Any, generator: np.random.Generator) -> Tensor:
    """Return the row nearest to the centre of each of k clusters of features [n d] at length 1, int64 [k] on the CPU.

    Of equally near ones the lowest; where there are fewer clusters, the rows farthest from their centres fill up.
    """
    points = features.detach().double().cpu()
    points = torch.nn.functional.normalize(points / points.abs().amax(1, keepdim=True).clamp_min(1e-300), dim=1)
    clusters = cluster(name, points.to(working_dtype(features)), k, clusterer, generator)
    numbers, of = clusters.unique(return_inverse=True)
    sizes = torch.bincount(of).double()
    centres = torch.zeros(len(numbers), points.shape[1], dtype=torch.float64).index_add_(0, of, points) / sizes[:, None]
    # Whole billionths: of two rows, both are as far from the middle, and rounding should not choose.
    distances = (points - centres[of]).norm(dim=1).mul(1e9).round()  # [n]
    order = distances.argsort(stable=True)
    _, first = np.unique(of[order].numpy(), return_index=True)
    nearest = order[first][:k]
    left = distances.clone()
    left[nearest] = -1
    farthest = left.argsort(descending=True, stable=True)[: k - len(nearest)]
    return torch.cat([nearest, farthest])


@dataclass(frozen=True)
class DropQuery:
    """Prefers samples whose class changes when features are left out, one from each cluster; see `dropquery`.

    Attributes:
        passes: how many; with `passes_by="network"` the first of those collected.
        dropout: share of features left out.
        oversampling: how many candidates for each pick are wanted.
        passes_by: "head": features are left out before the last layer, others for each sample, as in the paper;
            "network": the signal "mc_logits" stands for that, of the network's own dropout, whose masks all samples of
            a pass share.
        clusterer: see `dropquery`.
    """

    passes: int = 3
    dropout: float = 0.75
    oversampling: float = 25
    passes_by: str = "head"
    clusterer: Any = None

    def __post_init__(self) -> None:
        check_clusterer("DropQuery", self.clusterer)
        checks.settle(
            self,
            passes=checks.whole("DropQuery: passes", self.passes, least=1),
            dropout=checks.number("DropQuery: dropout", self.dropout, least=0, below=1),
            oversampling=checks.number("DropQuery: oversampling", self.oversampling, above=0),
            passes_by=checks.one_of("DropQuery: passes_by", self.passes_by, PASSES_BY),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Logits and features, and the head or passes with dropout."""
        return frozenset({"logits", "features", "head" if self.passes_by == "head" else "mc_logits"})

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates, those whose class changes most often first, without scores."""
        name, generator = "DropQuery", as_rng(rng)
        k = check_k_of(name, k, signals)
        logits, features = read_logits(name, signals), read_features(name, signals)
        largest = check_features(name, features, signals.indices)
        if self.passes_by == "head":
            head = read_field(name, signals, "head")
            flips = _flips(name, self, logits, features, head, largest, generator)
        else:
            flips = self._network_flips(read_mc_logits(name, signals), logits)
        return Selection(signals.indices.cpu()[_pick(name, self, features, flips, k, generator)])

    def _network_flips(self, passes: Tensor, logits: Tensor) -> Tensor:
        """Return in how many of the first passes the class of each row is another, int64 [n]."""
        if len(passes) < self.passes:
            raise InputError(
                f"DropQuery: mc_logits of {len(passes)} passes, and passes={self.passes} are looked at: collect so "
                f"many, TorchTrainer(mc_samples={self.passes}), or take fewer"
            )
        return (passes[: self.passes].argmax(2) != logits.argmax(1)).sum(0).cpu()


@dataclass(frozen=True)
class DropQueryInit:
    """Takes the middle of each of k clusters; made for the first labels; see `dropquery_init`."""

    clusterer: Any = None
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def __post_init__(self) -> None:
        check_clusterer("DropQueryInit", self.clusterer)

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in order of rows, without scores."""
        name = "DropQueryInit"
        k = check_k_of(name, k, signals)
        features = read_features(name, signals)
        check_features(name, features, signals.indices)
        rows = _centres(name, features, k, self.clusterer, as_rng(rng))
        return Selection(signals.indices.cpu()[rows.sort().values])
