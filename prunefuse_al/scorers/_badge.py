"""BADGE: diverse and uncertain at once, by k-means++ on the gradients of the last layer (Ash et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import frame_scale, row_sums, working_dtype
from ._features import check_features, read_features
from ._given import given_features, given_logits
from ._select import check_k_of, read_logits
from ._uncertainty import _relative

_NUMBERS = 1 << 18
"""Numbers that are made of a block of rows at once, in double precision."""
Residuals = Callable[[Tensor], Tensor]


def badge(logits: Tensor, features: Tensor, k: int, *, rng: RngLike = None) -> Tensor:
    """Return `k` rows by k-means++ on g = (q - onehot(argmax q)) outer features, with q = softmax(logits).

    The first is the row with the largest gradient; each further one is drawn with a probability proportional to the
    squared distance of its gradient to the nearest one picked, and uniformly once all those distances are 0. The
    gradients [n c*d] are never built: their distances follow from those of the two factors.

    Args:
        logits: float [n c], c >= 2.
        features: float [n d], the input of the last linear layer, on the device of the logits.
        k: how many, 1 to n.
        rng: draws one number between 0 and 1 for each row after the first; None takes fresh entropy.

    Returns:
        int64 [k] on the CPU, in the order picked. Needs one matrix like the logits and some 20 n numbers beside its
        inputs.

    Raises:
        BudgetError: k is out of range.
        InputError: shapes that do not fit.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> badge(torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0], [1.0], [3.0]]), 1)
        tensor([2])
    """
    logits = given_logits("badge", logits)
    features = given_features("badge", features, rows=len(logits))
    return _badge("badge", Signals(torch.arange(len(logits)), logits, features), k, rng)


@dataclass(frozen=True)
class Badge:
    """Prefers samples whose labels would change the last layer most, each in another direction; see `badge`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in the order drawn with `rng`, without scores."""
        picked = _badge("Badge", signals, k, rng)
        return Selection(signals.indices.cpu()[picked])


def _badge(name: str, signals: Signals, k: int, rng: RngLike) -> Tensor:
    k = check_k_of(name, k, signals)
    return by_gradients(name, signals, read_logits(name, signals), _residuals, k, rng)


def by_gradients(name: str, signals: Signals, logits: Tensor, residuals: Residuals, k: int, rng: RngLike) -> Tensor:
    """Return `k` rows, int64 [k], by k-means++ on the gradients residuals(logits) outer features.

    Args:
        name: whose complaints these are.
        signals: with features.
        logits: their logits [n c], checked.
        residuals: the loss's gradient in a block of logits, [b c], for the label the network predicts.
        k: how many, checked.
        rng: see `badge`.
    """
    features = read_features(name, signals)
    largest = check_features(name, features, signals.indices)
    if logits.device != features.device:
        raise InputError(f"{name}: logits are on {logits.device} and features on {features.device}; move one of them")
    gradients, generator = _Gradients(logits, features, largest, residuals), as_rng(rng)
    picked = [int(gradients.norms.argmax())]
    weights = torch.full_like(gradients.norms, float("inf"))  # [n] squared distance to the nearest picked
    while len(picked) < k:
        gradients.lower(weights, picked[-1])
        weights[picked[-1]] = 0
        picked.append(_draw(weights, picked, generator.random()))
    return torch.tensor(picked)


def _draw(weights: Tensor, picked: list[int], uniform: float) -> int:
    """Return the row at which the running sum of the weights passes `uniform` of their total."""
    sums = weights.cumsum(0)
    if not sums[-1] > 0:  # nothing is left but copies of what is picked
        weights = torch.ones_like(weights)
        weights[picked] = 0
        sums = weights.cumsum(0)
    row = int(torch.searchsorted(sums, uniform * sums[-1], right=True))
    if row < len(sums):
        return row
    return int(weights.nonzero()[-1])  # rounding put the target at the total


class _Gradients:
    """Rows g_i = p_i outer h_i, held by their factors: p [n c] and, times a power of two, h [n d]."""

    def __init__(self, logits: Tensor, features: Tensor, largest: float, residuals: Residuals) -> None:
        work = torch.promote_types(working_dtype(logits), working_dtype(features))
        self.features, self.scale = features.to(work), frame_scale(largest, work)
        self.residuals = torch.empty(logits.shape, dtype=work, device=logits.device)
        self.norms = torch.empty(len(logits), dtype=torch.float64, device=logits.device)  # [n] |g|^2
        self._rows = max(1, _NUMBERS // max(logits.shape[1], features.shape[1]))
        for block in torch.arange(len(logits), device=logits.device).split(self._rows):
            p = self.residuals[block] = residuals(logits[block].to(work))
            self.norms[block] = row_sums(p.double().square()) * row_sums(self._scaled(block).square())
        self.slack = 8 * (features.shape[1] + logits.shape[1] + 8) * torch.finfo(work).eps

    def _scaled(self, rows: Tensor) -> Tensor:
        return self.features[rows].double() * self.scale

    def lower(self, weights: Tensor, row: int) -> None:
        """Lower each of `weights` [n] to the squared distance of that gradient to the one of `row`, in place."""
        dots = (self.residuals @ self.residuals[row]).double()  # [n]
        dots *= self.features @ (self.features[row] * self.scale * self.scale)
        total = self.norms + self.norms[row]
        distance = (total - 2 * dots).clamp_min_(0)
        # Where almost all cancels, rounding would tell copies of one gradient apart.
        near = ((distance <= self.slack * total) & (weights > 0)).nonzero()[:, 0]
        for some in near.split(self._rows):
            distance[some] = self._squared_distances(some, row)
        torch.minimum(weights, distance, out=weights)

    def _squared_distances(self, rows: Tensor, row: int) -> Tensor:
        """Return |g_i - g_j|^2 as |dp outer h_i + p_j outer dh|^2, in which nothing large cancels."""
        p, h = self.residuals[row].double(), self._scaled(torch.tensor([row], device=rows.device))[0]
        mine = self._scaled(rows)
        dp, dh = self.residuals[rows].double() - p, mine - h
        squares = row_sums(dp.square()) * row_sums(mine.square()) + row_sums(p.square()[None]) * row_sums(dh.square())
        return (squares + 2 * row_sums(dp * p) * row_sums(mine * dh)).clamp_min_(0)


def _residuals(logits: Tensor) -> Tensor:
    """Return softmax(logits) - onehot(argmax) [b c]; the likeliest class has minus the sum of the others."""
    _, others, r = _relative(logits)
    best = logits.argmax(1, keepdim=True)
    return (others / (1 + r)[:, None]).scatter_(1, best, (-r / (1 + r))[:, None])
