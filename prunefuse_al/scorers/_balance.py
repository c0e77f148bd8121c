"""Classes on one footing: the same number of samples from each, or scores that are measured by those of the class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import BudgetError, InputError
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, as_rng
from ._asked import picks_of, scores_of
from ._combine import one_rng
from ._given import given_column, given_labels
from ._parts import MadeOfScorers, part_of
from ._select import check_finite, check_k_of, read_labels, rows_of, select_top


def class_budgets(sizes: Tensor, k: int, *, rng: RngLike = None) -> Tensor:
    """Return how many samples to take from each class so that the numbers are as equal as the classes allow.

    Classes are visited from the smallest to the largest; each gives all it has, or an equal part of what is still to
    be had from those left, rounded down (the rule by which CCS shares a budget among strata; Zheng et al., 2023).

    Args:
        sizes: int [c], samples in each class.
        k: samples in all, 0 to the sum of sizes.
        rng: order of classes of one size, the last of which get the remainder; None: by number.

    Returns:
        int64 [c], summing to k.

    Raises:
        BudgetError: k is out of range.
        InputError: sizes that are no counts.

    Examples:
        >>> class_budgets(torch.tensor([50, 2, 50]), 12)
        tensor([5, 2, 5])
    """
    found = checks.whole_numbers("class_budgets: sizes", sizes, "how many samples each class has, [c]")
    if found.ndim != 1 or bool((found < 0).any()):
        raise checks.refused("class_budgets: sizes", sizes, "how many samples each class has, [c], none below 0")
    counts, k = found.cpu().numpy(), checks.whole("class_budgets: k", k)
    if not 0 <= k <= counts.sum():
        raise BudgetError(f"class_budgets: k={k} but the classes hold {counts.sum():,} samples; ask for no more")
    ties = np.arange(len(counts)) if rng is None else as_rng(rng).permutation(len(counts))
    budgets, left = torch.zeros(len(counts), dtype=torch.int64), k
    for visited, place in enumerate(np.lexsort((ties, counts))):
        budgets[place] = min(int(counts[place]), left // (len(counts) - visited))
        left -= int(budgets[place])
    return budgets


class _ByLabel(MadeOfScorers):
    """What combinators of one scorer and labels read."""

    scorer: Any
    reads = frozenset({"labels"})

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """See `MadeOfScorers`."""
        return (self.scorer,)


@dataclass(frozen=True)
class ClassBalanced(_ByLabel):
    """Shares the picks equally among the classes, and lets a scorer pick within each; see `class_budgets`.

    On a pool the classes are those the network predicts. The picks go round the classes: the first of each, then the
    second of each, and so on.

    Args:
        scorer: a name or an object.

    Examples:
        >>> ClassBalanced("entropy")
        ClassBalanced(scorer=Entropy())
    """

    scorer: Any = "margin"

    def __post_init__(self) -> None:
        checks.settle(self, scorer=part_of(self.scorer))

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the picks of each class in turn, without scores."""
        k = check_k_of("ClassBalanced", k, signals)
        if isinstance(self.scorer, PointScorer):
            return self.select_scored(scores_of(self.scorer, signals), signals, k, rng=rng)

        def pick(rows: Tensor, budget: int, own: RngLike) -> Selection:
            return picks_of(self.scorer, rows_of(signals, rows), budget, own)

        return _by_class(signals, k, one_rng(rng), pick)

    def select_scored(self, scores: Tensor, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return what `select` does where the scores, float [n], are known already; only labels are read."""
        known = Signals(signals.indices, labels=signals.labels)

        def pick(rows: Tensor, budget: int, own: RngLike) -> Selection:
            return select_top("ClassBalanced", scores.cpu()[rows], rows_of(known, rows), budget, own)

        return _by_class(known, k, one_rng(rng), pick)


def _by_class(signals: Signals, k: int, rng: RngLike, pick: Callable[[Tensor, int, RngLike], Selection]) -> Selection:
    """Return the picks of each class in turn; `pick` is given rows, their budget and the generator."""
    labels = read_labels("ClassBalanced", signals)
    _, own, sizes = labels.unique(return_inverse=True, return_counts=True)  # [n], [c]
    budgets = class_budgets(sizes, k, rng=rng).tolist()
    members = own.argsort(stable=True).split(sizes.tolist())  # rows of each class, in order
    picks = [pick(rows, b, rng).indices for rows, b in zip(members, budgets, strict=True) if b]
    turns = torch.cat([torch.arange(len(picked)) for picked in picks])
    return Selection(torch.cat(picks)[turns.argsort(stable=True)])


def standardised_by_class(scores: Tensor, labels: Tensor) -> Tensor:
    """Return scores less their class's mean, over its standard deviation; 0 where a class has one score only.

    Args:
        scores: finite float [n].
        labels: int64 [n].

    Returns:
        float64 [n]; of each class the mean is 0 and the mean square 1.

    Raises:
        InputError: shapes that do not fit.
        NonFiniteError: NaN or infinity in scores.

    Examples:
        >>> standardised_by_class(torch.tensor([1.0, 3.0, 10.0, 30.0, 7.0]), torch.tensor([0, 0, 1, 1, 2])).tolist()
        [-1.0, 1.0, -1.0, 1.0, 0.0]
    """
    values = given_column("standardised_by_class", "scores", scores).cpu().double()
    check_finite("standardised_by_class", "scores", values, torch.arange(len(values)))
    classes = given_labels("standardised_by_class", labels, len(values)).cpu()
    found = torch.zeros(len(values), dtype=torch.float64)
    _, own, sizes = classes.unique(return_inverse=True, return_counts=True)  # [n], [c]
    for rows in own.argsort(stable=True).split(sizes.tolist()):
        some = values[rows]
        if some.max() > some.min():
            off = some - some.mean()
            off /= off.abs().max()  # so that no square over- or underflows
            found[rows] = off / off.square().mean().sqrt()
    return found


@dataclass(frozen=True)
class ClassStandardised(_ByLabel):
    """Ranks samples by how far their score lies above the mean of their class, in its standard deviations.

    So no class is left out because all its scores are low, as in the class-standardised variant of MoSo (Tan et al.,
    2024). On a pool the classes are those the network predicts.

    Args:
        scorer: a name or object of a scorer with `score`.

    Raises:
        InputError: the scorer has no `score`.

    Examples:
        >>> ClassStandardised("el2n")
        ClassStandardised(scorer=EL2N())
    """

    scorer: Any = "moso"

    def __post_init__(self) -> None:
        checks.settle(self, scorer=part_of(self.scorer))
        if not isinstance(self.scorer, PointScorer):
            raise InputError(
                f"ClassStandardised: {self.scorer!r} gives picks and no score for each sample, so there is nothing to "
                "standardise; take a scorer with `score`, such as moso"
            )

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k best, best first, with standardised scores; `rng` breaks ties (None: the lower row first)."""
        check_k_of("ClassStandardised", k, signals)
        return self.select_scored(scores_of(self.scorer, signals), signals, k, rng=rng)

    def select_scored(self, scores: Tensor, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return what `select` does where the scores, float [n], are known already; only labels are read."""
        scores = standardised_by_class(scores.detach().cpu(), read_labels("ClassStandardised", signals))
        return select_top("ClassStandardised", scores, signals, k, rng)
