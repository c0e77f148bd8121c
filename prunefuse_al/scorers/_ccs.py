"""Coverage-centric core-set selection (Zheng et al., 2023): spread over all difficulties, without the hardest few."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, as_rng
from ._asked import scores_of
from ._balance import class_budgets
from ._given import given_column
from ._parts import MadeOfScorers, part_of
from ._select import check_finite, check_k, check_k_of, top_k


def ccs(
    difficulty: Tensor, k: SupportsIndex, *, mislabelled: float = 0.1, strata: int = 50, rng: RngLike = None
) -> Tensor:
    """Return k samples, drawn from equally wide strata of difficulty after the hardest are dropped.

    The floor(mislabelled * n) hardest go first, as likely mislabelled (fewer where k would not be left). What is left
    is cut into `strata` intervals of one width from its lowest to its highest difficulty, both included. They are
    visited from the least to the most populated, each giving the smaller of its size and an equal share of what is
    still to pick, drawn uniformly.

    Args:
        difficulty: finite float [n], higher is harder (for AUM, its negative).
        k: how many, 1 to n.
        mislabelled: share dropped, 0 <= share < 1.
        strata: how many intervals.
        rng: draws, and breaks ties in what is dropped.

    Returns:
        int64 [k], positions, hardest first.

    Raises:
        BudgetError: `k` is not between 1 and n.
        InputError: `mislabelled` or `strata` out of range, or difficulties that are no numbers [n].
        NonFiniteError: NaN or infinity.

    Examples:
        >>> ccs(torch.arange(10.0), 3, mislabelled=0.2, strata=3, rng=0).tolist()
        [5, 4, 1]
    """
    mislabelled, strata = check_mislabelled(mislabelled), _check_strata(strata)
    values = given_difficulty("ccs", difficulty)
    k, generator = check_k("ccs", k, len(values)), as_rng(rng)
    kept = without_hardest(values, k, mislabelled, generator)  # positions, [m]
    stratum = strata_of(values[kept], strata)  # [m]
    sizes = torch.bincount(stratum, minlength=strata)  # [strata]
    small = stratum.numpy().astype(np.min_scalar_type(strata))  # NumPy sorts small integers in linear time
    groups = torch.from_numpy(small.argsort(kind="stable")).split(sizes.tolist())
    drawn = [
        group[torch.from_numpy(generator.choice(len(group), share, replace=False, shuffle=False))]
        for group, share in zip(groups, class_budgets(sizes, k).tolist(), strict=True)
        if share
    ]
    picked = kept[torch.cat(drawn)]  # [k]
    return picked[values[picked].argsort(descending=True, stable=True)]


def without_hardest(values: Tensor, k: int, mislabelled: float, rng: RngLike) -> Tensor:
    """Return positions, ascending, without the floor(mislabelled * n) highest values, but at least k of them."""
    n = len(values)
    dropped = min(int(mislabelled * n), n - k)
    kept = torch.ones(n, dtype=torch.bool)
    if dropped:
        kept[top_k(values, dropped, rng=rng)] = False
    return kept.nonzero()[:, 0]


def strata_of(values: Tensor, strata: int) -> Tensor:
    """Return in which of `strata` equally wide intervals from min to max each value lies, int64 [n]; max in the last.

    Values that are all equal lie in the first.
    """
    scaled = values / 2**10  # exact, and then neither a difference nor its multiple overflows
    above, width = scaled - scaled.min(), scaled.max() - scaled.min()
    if width == 0:
        return torch.zeros(len(values), dtype=torch.int64)
    return (above * strata / width).long().clamp_max(strata - 1)


def difficulty_scorer(difficulty: str | PointScorer) -> PointScorer:
    """Return the point scorer that measures difficulty, by name or as it is."""
    scorer = part_of(difficulty)
    if not isinstance(scorer, PointScorer):
        raise InputError(f"difficulty={difficulty!r} gives no score for each sample; take 'aum', 'forgetting', 'el2n'")
    return scorer


def given_difficulty(name: str, difficulty: Tensor) -> Tensor:
    """Return difficulties as float64 [n] on the CPU, checked to be finite."""
    values = given_column(name, "difficulty", difficulty).cpu().double()
    check_finite(name, "difficulties", values, torch.arange(len(values)))
    return values


def read_difficulty(scorer: PointScorer, signals: Signals) -> Tensor:
    """Return the scores of `scorer`, float64 [n] on the CPU, checked to be finite."""
    return scores_of(scorer, signals).cpu().double()


def check_mislabelled(mislabelled: float) -> float:
    """Return the share, or raise `InputError` unless it is 0 <= share < 1."""
    what = "the share dropped as too hard, 0 <= share < 1"
    return checks.number("mislabelled", mislabelled, least=0, below=1, what=what)


def _check_strata(strata: int) -> int:
    return checks.whole("strata", strata, least=1, what="a whole number of intervals from 1")


@dataclass(frozen=True)
class CCS(MadeOfScorers):
    """Covers all difficulties evenly, leaving out the hardest as likely mislabelled; see `ccs`.

    Attributes:
        difficulty: name of a point scorer, or one; higher scores are harder.
        mislabelled: share dropped, 0 <= share < 1.
        strata: intervals of difficulty.
    """

    difficulty: str | PointScorer = "aum"
    mislabelled: float = 0.1
    strata: int = 50

    def __post_init__(self) -> None:
        checks.settle(self, mislabelled=check_mislabelled(self.mislabelled), strata=_check_strata(self.strata))
        difficulty_scorer(self.difficulty)

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """See `MadeOfScorers`."""
        return (difficulty_scorer(self.difficulty),)

    def without_dynamics(self) -> CCS:
        """Return the same with the margin as difficulty: AUM at one moment, for the predicted label."""
        return replace(self, difficulty="margin")

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k samples, hardest first, with their difficulties; `rng` draws them."""
        k = check_k_of("CCS", k, signals)
        values = read_difficulty(difficulty_scorer(self.difficulty), signals)  # [n]
        picked = ccs(values, k, mislabelled=self.mislabelled, strata=self.strata, rng=rng)
        return Selection(signals.indices.cpu()[picked], values[picked])
