"""Pruning ratios that depend on how much is labelled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError

PruningRatio = float | Callable[[int], float]
"""The share of channels removed, or a function of the number of labelled samples that gives it."""


@dataclass(frozen=True)
class FallingRatio:
    """Prune more while few samples are labelled, and less as they grow, in steps.

    Between the two numbers of labels the ratio falls in equal steps, one each time the labels have grown by the same
    factor. In a round where it changes, the proxy is cut anew out of the same dense network.

    Attributes:
        start: ratio up to `labels[0]` labelled samples.
        end: ratio from `labels[1]` on, 0 <= end < start < 1.
        labels: the two numbers, 1 <= labels[0] < labels[1].
        steps: how often it falls; few steps leave more rounds that can go on from the proxy before (`warm_start`).

    Raises:
        InputError: a value out of range.

    Example:
        >>> falling = FallingRatio(0.7, 0.4, labels=(1000, 8000))
        >>> [round(falling(n), 2) for n in (0, 1000, 1999, 2000, 4000, 8000, 50_000)]
        [0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4]
    """

    start: float
    end: float
    labels: tuple[int, int]
    steps: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        numbers = isinstance(self.start, int | float) and isinstance(self.end, int | float)
        if not numbers or not 0 <= self.end < self.start < 1:
            raise InputError(f"start={self.start!r}, end={self.end!r}; a falling ratio has 0 <= end < start < 1")
        if len(self.labels) != 2 or not all(isinstance(n, int) for n in self.labels):
            raise InputError(f"labels={self.labels!r}; pass two whole numbers of labelled samples")
        if not 1 <= self.labels[0] < self.labels[1]:
            raise InputError(f"labels={self.labels!r}; the first must be at least 1 and below the second")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps={self.steps!r}; pass how often the ratio falls, from 1")

    def __call__(self, n: int) -> float:
        """Return the ratio for n labelled samples."""
        first, last = self.labels
        if n >= last:
            return self.end
        progress = math.log(max(n, first) / first) / math.log(last / first)
        taken = min(self.steps - 1, math.floor(progress * self.steps + 1e-9))  # twice the labels must be a whole step
        return self.start - (self.start - self.end) * taken / self.steps


def ratio_of(given: PruningRatio, n: int) -> float:
    """Return the pruning ratio for n labelled samples.

    Raises:
        InputError: it is not 0 <= p < 1.
    """
    ratio = given(n) if callable(given) else given
    if not isinstance(ratio, int | float) or not 0 <= ratio < 1:
        source = f"pruning_ratio={given!r}" + (f" gave {ratio!r} for {n:,} labelled samples" if callable(given) else "")
        raise InputError(f"{source}; it is the share of channels removed, 0 <= p < 1")
    return ratio
