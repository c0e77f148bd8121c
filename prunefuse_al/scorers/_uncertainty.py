"""Uncertainty of one prediction: least confidence, margin, entropy (Lewis & Gale 1994; Scheffer 2001; Shannon 1948).

With e = exp(logits - max) and r the sum of e without its largest entry (which is 1), the class probabilities are
e / (1 + r). Written in r, no formula below subtracts nearly equal numbers, so confident samples keep their order
where ``1 - max(softmax)`` rounds them all to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..types import Signals
from ._given import given_logits
from ._ranker import Ranker
from ._select import FEW, in_blocks, read_logits, single, unless_finite

Formula = Callable[[Tensor, int, Tensor, Tensor], Tensor]


def _relative(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return z = logits - max [n c], exp(z) with 0 at the likeliest class [n c], and the sum r of the latter [n]."""
    logits = single(logits)
    best = logits.argmax(1, keepdim=True)  # [n 1]
    z = (logits - logits.gather(1, best)).clamp_min(-1e5)  # [n c], finite: 0 * -inf would be NaN
    others = z.exp().scatter(1, best, 0.0)  # [n c]
    return z, others, others.sum(1)


def _split(logits: Tensor, dim: int, z: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Fill in `_relative`'s z, and exp(z) with 0 for every likeliest class; return how many of these are, and r.

    Classes lie along `dim`; `z` and `others` have the shape of the logits, and z may be the logits. Written in few
    passes, which is all that it costs: no class is sought by its number.
    """
    torch.sub(logits, logits.amax(dim, keepdim=True), out=z)
    total = torch.exp(z, out=others).sum(dim)
    rest = others.frac_().sum(dim)  # what is below 1 stays
    ties = (total - rest).round_()
    return ties, rest + (ties - 1)


def _by_rows(formula: Formula, logits: Tensor, check: Callable[[Tensor], None]) -> Tensor:
    """Return `formula(block, dim, *space)` [n] of blocks of rows of logits [n c], each checked, classes along `dim`.

    Two tensors of a block's shape are there to be written to, the same for all blocks: asking the system for memory
    takes longer than to compute.
    """
    logits = logits.detach()
    dtype, few = single(logits[:0]).dtype, logits.device.type == "cpu" and logits.shape[1] < FEW
    room: list[Tensor] = []

    def score(rows: Tensor) -> Tensor:
        check(rows)
        block = rows.T if few else rows
        if not room:  # the first block is the largest
            room.extend(torch.empty(2, rows.numel(), dtype=dtype, device=rows.device))
        z, others = (part[: rows.numel()].view(block.shape) for part in room)
        if few and rows.dtype == dtype:
            np.copyto(z.numpy(), rows.numpy().T)  # torch takes twice as long to turn a block over
            block = z
        elif few or rows.dtype != dtype:
            block = z.copy_(block)
        return formula(block, 0 if few else 1, z, others)

    return in_blocks(score, logits)


def _unchecked(_: Tensor) -> None:
    """Pure functions leave it to their callers what logits may be."""


def _score(name: str, formula: Formula, signals: Signals) -> Tensor:
    """Return the scores of checked signals, float [n]; logits are looked at while they are in the cache anyway."""
    logits = read_logits(name, signals, finite=False)
    return _by_rows(formula, logits, unless_finite(name, "logits", logits, signals.indices))


def least_confidence(logits: Tensor) -> Tensor:
    """Return 1 - max_c q_c with q = softmax(logits); the score of SVP (Coleman et al., 2020).

    Args:
        logits: float [n c], c >= 2; half precision is computed in single.

    Returns:
        float [n] between 0 and 1 - 1/c; higher means label it sooner.

    Raises:
        InputError: they are no numbers, or of another shape.
    """
    return _by_rows(_least_confidence, given_logits("least_confidence", logits), _unchecked)


def _least_confidence(logits: Tensor, dim: int, z: Tensor, others: Tensor) -> Tensor:
    _, r = _split(logits, dim, z, others)
    return r / (1 + r)


def margin(logits: Tensor) -> Tensor:
    """Return 1 - (q_(1) - q_(2)), with q_(1), q_(2) the two largest class probabilities.

    Args:
        logits: float [n c], c >= 2; half precision is computed in single.

    Returns:
        float [n] between 0 and 1; higher (a smaller margin) means label it sooner.

    Raises:
        InputError: they are no numbers, or of another shape.
    """
    return _by_rows(_margin, given_logits("margin", logits), _unchecked)


def _margin(logits: Tensor, dim: int, z: Tensor, others: Tensor) -> Tensor:
    ties, r = _split(logits, dim, z, others)
    second = torch.where(ties > 1, 1.0, others.amax(dim))
    return (r + second) / (1 + r)


def entropy(logits: Tensor) -> Tensor:
    """Return -sum_c q_c log q_c in nats, computed from the log-softmax.

    Args:
        logits: float [n c], c >= 2; half precision is computed in single.

    Returns:
        float [n] between 0 and log c; higher means label it sooner.

    Raises:
        InputError: they are no numbers, or of another shape.
    """
    return _by_rows(_entropy, given_logits("entropy", logits), _unchecked)


def _entropy(logits: Tensor, dim: int, z: Tensor, others: Tensor) -> Tensor:
    _, r = _split(logits, dim, z, others)
    weighted = others.mul_(z.clamp_min_(-1e5))  # 0 * -inf would be NaN
    return torch.log1p(r) - weighted.sum(dim) / (1 + r)


@dataclass(frozen=True)
class LeastConfidence(Ranker):
    """Prefers samples whose likeliest class is least likely; see `least_confidence`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return _score("LeastConfidence", _least_confidence, signals)


@dataclass(frozen=True)
class Margin(Ranker):
    """Prefers samples whose two likeliest classes are closest; see `margin`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return _score("Margin", _margin, signals)


@dataclass(frozen=True)
class Entropy(Ranker):
    """Prefers samples whose class probabilities are most spread; see `entropy`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return _score("Entropy", _entropy, signals)
