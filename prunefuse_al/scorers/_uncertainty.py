"""Uncertainty of one prediction: least confidence, margin, entropy (Lewis & Gale 1994; Scheffer 2001; Shannon 1948).

With e = exp(logits - max) and r the sum of e without its largest entry (which is 1), the class probabilities are
e / (1 + r). Written in r, no formula below subtracts nearly equal numbers, so confident samples keep their order
where ``1 - max(softmax)`` rounds them all to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..types import RngLike, Selection, Signals
from ._select import check_k, in_blocks, read_logits, select_top, single


def _relative(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return z = logits - max [n c], exp(z) with 0 at the likeliest class [n c], and the sum r of the latter [n]."""
    logits = single(logits)
    best = logits.argmax(1, keepdim=True)  # [n 1]
    z = (logits - logits.gather(1, best)).clamp_min(-1e5)  # [n c], finite: 0 * -inf would be NaN
    others = z.exp().scatter(1, best, 0.0)  # [n c]
    return z, others, others.sum(1)


def least_confidence(logits: Tensor) -> Tensor:
    """Return 1 - max_c q_c with q = softmax(logits); the score of SVP (Coleman et al., 2020).

    Args:
        logits: float [n c], c >= 2; half precision is computed in single.

    Returns:
        float [n] between 0 and 1 - 1/c; higher means label it sooner.
    """
    return in_blocks(_least_confidence, logits)


def _least_confidence(logits: Tensor) -> Tensor:
    _, _, r = _relative(logits)
    return r / (1 + r)


def margin(logits: Tensor) -> Tensor:
    """Return 1 - (q_(1) - q_(2)), with q_(1), q_(2) the two largest class probabilities.

    Args:
        logits: float [n c], c >= 2; half precision is computed in single.

    Returns:
        float [n] between 0 and 1; higher (a smaller margin) means label it sooner.
    """
    return in_blocks(_margin, logits)


def _margin(logits: Tensor) -> Tensor:
    _, others, r = _relative(logits)
    return (r + others.amax(1)) / (1 + r)


def entropy(logits: Tensor) -> Tensor:
    """Return -sum_c q_c log q_c in nats, computed from the log-softmax.

    Args:
        logits: float [n c], c >= 2; half precision is computed in single.

    Returns:
        float [n] between 0 and log c; higher means label it sooner.
    """
    return in_blocks(_entropy, logits)


def _entropy(logits: Tensor) -> Tensor:
    z, others, r = _relative(logits)
    return torch.log1p(r) - (others * z).sum(1) / (1 + r)


@dataclass(frozen=True)
class LeastConfidence:
    """Prefers samples whose likeliest class is least likely; see `least_confidence`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return least_confidence(read_logits("LeastConfidence", signals))

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k best, best first; `rng` breaks ties (None: the lower row first)."""
        check_k("LeastConfidence", k, len(signals))
        return select_top("LeastConfidence", self.score(signals), signals, k, rng)


@dataclass(frozen=True)
class Margin:
    """Prefers samples whose two likeliest classes are closest; see `margin`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return margin(read_logits("Margin", signals))

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k best, best first; `rng` breaks ties (None: the lower row first)."""
        check_k("Margin", k, len(signals))
        return select_top("Margin", self.score(signals), signals, k, rng)


@dataclass(frozen=True)
class Entropy:
    """Prefers samples whose class probabilities are most spread; see `entropy`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return entropy(read_logits("Entropy", signals))

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k best, best first; `rng` breaks ties (None: the lower row first)."""
        check_k("Entropy", k, len(signals))
        return select_top("Entropy", self.score(signals), signals, k, rng)
