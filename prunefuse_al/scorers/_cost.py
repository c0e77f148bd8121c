"""Scores per labelling cost: what is learned for an hour of the annotator (Settles, Craven & Friedland, 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import PointScorer, Scorer, Signals
from ._asked import scores_of
from ._given import given_column
from ._parts import MadeOfScorers, part_of
from ._ranker import Ranker
from ._select import check_signals

_SHOWN = 1000  # costs that a repr spells out


def score_per_cost(scores: Tensor, costs: Tensor) -> Tensor:
    """Return scores / costs.

    Args:
        scores: finite float [n], none below 0: a negative score would prefer what costs more.
        costs: positive float [n], of one sample each, in any unit.

    Returns:
        float [n]; higher means label it sooner.

    Raises:
        InputError: a score below 0, costs that are not positive and finite, or shapes that do not fit.
    """
    scores = given_column("score_per_cost", "scores", scores)
    costs = given_column("score_per_cost", "costs", costs, rows=len(scores))
    if bad := int((~(costs.isfinite() & (costs > 0))).sum()):
        raise InputError(
            f"score_per_cost: costs of {bad:,} of {len(costs):,} samples are not positive and finite "
            f"(lowest {float(costs.min()):.3g}); pass a positive number for each"
        )
    negative = int((scores < 0).sum())
    if negative:
        raise InputError(
            f"{negative:,} of {len(scores):,} scores are below 0 (lowest {float(scores.min()):.3g}), and dividing them "
            "by a cost would prefer what costs more; take a scorer that starts at 0, such as entropy"
        )
    return scores / costs.to(scores)


@dataclass(frozen=True, eq=False, repr=False)
class CostAware(MadeOfScorers, Ranker):
    """Prefers samples whose score is high for what their label costs; see `score_per_cost`.

    Args:
        scorer: a name or object of a scorer with `score`.
        costs: positive numbers [N], one for each row of the pool that is asked for picks: sample i costs ``costs[i]``.

    Raises:
        InputError: the scorer has no `score`, or costs that are not positive finite numbers in one dimension.

    Examples:
        >>> CostAware("margin", [1, 1, 2.5])
        CostAware(Margin(), [1.0, 1.0, 2.5])
    """

    scorer: Any
    costs: Any

    def __post_init__(self) -> None:
        checks.settle(self, scorer=part_of(self.scorer))
        if not isinstance(self.scorer, PointScorer):
            raise InputError(
                f"CostAware: {self.scorer!r} gives picks and no score for each sample, so nothing can be divided by a "
                "cost; take a scorer with `score`, such as entropy"
            )
        given = checks.array("CostAware: costs", self.costs, "one positive number for each row of the pool")
        costs = np.array(given.cpu().numpy(), dtype=np.float64)
        bad = np.flatnonzero(~((costs > 0) & (costs < np.inf)).reshape(-1))
        if costs.ndim != 1 or len(bad):
            where = f"; entry {bad[0]} is {costs.reshape(-1)[bad[0]]:g}, {len(bad):,} are bad" if len(bad) else ""
            raise InputError(f"CostAware: costs of shape {costs.shape}{where}; pass one positive number for each row")
        costs.setflags(write=False)
        checks.settle(self, costs=costs)

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """See `MadeOfScorers`."""
        return (self.scorer,)

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        indices = check_signals("CostAware", signals).indices.cpu()
        outside = indices[(indices >= len(self.costs)) | (indices < 0)]
        if len(outside):
            raise InputError(
                f"CostAware: {len(self.costs):,} costs were given and there is a candidate {int(outside[0])} "
                f"({len(outside):,} of {len(indices):,} have no cost); pass one for each row of the pool"
            )
        return score_per_cost(scores_of(self.scorer, signals).cpu(), torch.from_numpy(self.costs[indices.numpy()]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CostAware) and self.scorer == other.scorer and np.array_equal(self.costs, other.costs)

    def __hash__(self) -> int:
        return hash((self.scorer, self.costs.tobytes()))

    def __repr__(self) -> str:
        """Return what evaluates to an equal object, up to 1,000 costs."""
        n = len(self.costs)
        return f"CostAware({self.scorer!r}, {self.costs.tolist() if n <= _SHOWN else f'<{n:,} costs>'})"
