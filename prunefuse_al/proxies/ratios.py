"""Pruning ratios that depend on how much is labelled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import checks
from ..errors import InputError
from ..pruning import check_ratio

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
        start, end = check_ratio("start", self.start), check_ratio("end", self.end)
        if not end < start:
            raise InputError(f"start={start!r}, end={end!r}; pass two with 0 <= end < start < 1: the ratio falls")
        what = "two whole numbers of labelled samples"
        labels = tuple(checks.whole_numbers("labels", self.labels, what).flatten().tolist())
        if len(labels) != 2:
            raise checks.refused("labels", self.labels, what)
        if not 1 <= labels[0] < labels[1]:
            raise checks.refused("labels", self.labels, "two, of which the first is at least 1 and below the second")
        steps = checks.whole("steps", self.steps, least=1, what="how often the ratio falls, from 1")
        checks.settle(self, start=start, end=end, labels=labels, steps=steps)

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
    if not callable(given):
        return check_ratio("pruning_ratio", given)
    ratio = given(n)
    try:
        return check_ratio("pruning_ratio", ratio)
    except InputError as error:
        found = f"pruning_ratio={checks.shown(given)} gave {checks.shown(ratio)} for {n:,} labelled samples"
        raise InputError(f"{found}; {str(error).partition('; ')[2]}") from None
