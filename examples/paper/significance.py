"""Whether arms differ: paired differences, penalty matrices, area under the budget curve; functions of arrays alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.integrate import trapezoid

LEVEL = 0.05  # of every test; intervals are of 1 - LEVEL
Accuracies = Mapping[str, Mapping[int, Sequence[float]]]  # arm -> seed -> accuracy by budget


@dataclass(frozen=True)
class Difference:
    """A mean difference paired by seed, with its 95 % interval of Student's t.

    Attributes:
        mean: of the differences.
        half: half the width of the interval; NaN for one seed.
        n: seeds.
    """

    mean: float
    half: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.n > 1 and abs(self.mean) > self.half

    @property
    def p(self) -> float:
        """The p value of the two-sided paired t-test; NaN for one seed."""
        if self.n < 2:
            return float("nan")
        if self.half == 0:  # all differences alike
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.half * quantile(self.n), self.n - 1))


def quantile(n: int) -> float:
    """Return how many standard errors of `n` numbers their 95 % interval reaches."""
    return float(stats.t.ppf(1 - LEVEL / 2, n - 1))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of `ours` - `theirs`, one of each per seed."""
    d = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if len(d) < 2:
        return Difference(float(d.mean()) if len(d) else float("nan"), float("nan"), len(d))
    half = quantile(len(d)) * d.std(ddof=1) / np.sqrt(len(d))
    return Difference(float(d.mean()), float(half), len(d))


def interval(values: Sequence[float]) -> Difference:
    """Return the mean of some numbers, one per seed, with its interval."""
    return paired(values, np.zeros(len(values)).tolist())


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for how many there are (Holm, 1979); NaN stays NaN and does not count."""
    values = np.asarray(p, dtype=float)
    asked = np.flatnonzero(~np.isnan(values))
    order = asked[np.argsort(values[asked], kind="stable")]
    corrected = values.copy()
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return corrected.tolist()


def area(labels: Sequence[float], accuracy: Sequence[float]) -> float:
    """Return the area under accuracy over labels, over the range of labels: the mean accuracy along the way."""
    return float(trapezoid(accuracy, labels) / (labels[-1] - labels[0]))


def compared(values: Mapping[str, Mapping[int, float]], reference: str) -> dict[str, tuple[Difference, float]]:
    """Return of each arm its difference to a reference, paired by seed, and its p value, corrected for all of them.

    Args:
        values: arm -> seed -> value.
        reference: name of the arm that the others are compared with; nothing is where it is not among them.
    """
    base = values.get(reference, {})
    found = {}
    for arm, own in values.items():
        seeds = [seed for seed in own if seed in base]
        if arm != reference and seeds:
            found[arm] = paired([own[seed] for seed in seeds], [base[seed] for seed in seeds])
    corrected = holm([d.p for d in found.values()])
    return {arm: (d, p) for (arm, d), p in zip(found.items(), corrected, strict=True)}


def penalties(found: Accuracies) -> np.ndarray:
    """Return how often each arm beats each other one, float [arms arms] (Ash et al., 2020, figure 4).

    At every budget the accuracies of the seeds that two arms share go through a two-sided paired t-test at 0.05. Where
    the arm of the row is significantly ahead of that of the column, the entry grows by one over the number of budgets:
    it is 1 if it is so at all of them. NaN where two arms have fewer than two seeds in common.
    """
    arms = list(found)
    matrix = np.zeros((len(arms), len(arms)))
    for i, one in enumerate(arms):
        for j, other in enumerate(arms):
            seeds = [seed for seed in found[one] if seed in found[other]]
            ours, theirs = (np.array([found[arm][seed] for seed in seeds], dtype=float) for arm in (one, other))
            if len(seeds) < 2:
                matrix[i, j] = np.nan
            elif i != j:
                budgets = [paired(a, b) for a, b in zip(ours.T, theirs.T, strict=True)]
                matrix[i, j] = np.mean([d.significant and d.mean > 0 for d in budgets])
    return matrix


def mean_penalty(matrix: np.ndarray) -> list[float]:
    """Return how often each arm is beaten, the mean over the other arms; lower is better, NaN for one on its own."""
    others = matrix.astype(float).copy()
    np.fill_diagonal(others, np.nan)
    counted = (~np.isnan(others)).sum(0)
    return np.divide(np.nansum(others, 0), counted, out=np.full(len(others), np.nan), where=counted > 0).tolist()
