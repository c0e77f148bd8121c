"""Scorers choose which candidates to label next; `SCORERS` names them all.

Each method is a pure function of tensors and a small frozen class over it that reads a `Signals`. A scorer of your
own is any object with `needs` and `select` (see `prunefuse_al.types.Scorer`); `prunefuse_al.testing.check_scorer`
tells whether it keeps the contract.
"""

from __future__ import annotations

import difflib

from ..errors import InputError
from ..types import Scorer
from ._balance import ClassBalanced as ClassBalanced
from ._balance import class_budgets as class_budgets
from ._bald import BALD as BALD
from ._bald import bald as bald
from ._batchbald import BatchBALD as BatchBALD
from ._batchbald import batchbald as batchbald
from ._combine import Mixture as Mixture
from ._combine import TwoStage as TwoStage
from ._cost import CostAware as CostAware
from ._cost import score_per_cost as score_per_cost
from ._random import Random as Random
from ._uncertainty import Entropy as Entropy
from ._uncertainty import LeastConfidence as LeastConfidence
from ._uncertainty import Margin as Margin
from ._uncertainty import entropy as entropy
from ._uncertainty import least_confidence as least_confidence
from ._uncertainty import margin as margin

SCORERS: dict[str, type[Scorer]] = {
    "random": Random,
    "least_confidence": LeastConfidence,
    "margin": Margin,
    "entropy": Entropy,
    "bald": BALD,
    "batchbald": BatchBALD,
    "class_balanced": ClassBalanced,
    "mixture": Mixture,
}


def get_scorer(scorer: str | Scorer) -> Scorer:
    """Return the scorer of that name, or the object itself when it already is one.

    Args:
        scorer: a key of `SCORERS`, or any object with `needs` and `select`.

    Raises:
        InputError: unknown name (with the nearest known one), or an object that is no scorer.

    Examples:
        >>> get_scorer("entropy")
        Entropy()
    """
    if isinstance(scorer, str):
        if scorer in SCORERS:
            return SCORERS[scorer]()
        near = difflib.get_close_matches(scorer, SCORERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown scorer {scorer!r}; {hint}known: {', '.join(sorted(SCORERS))}")
    if isinstance(scorer, Scorer) and not isinstance(scorer, type):
        return scorer
    fix = f"pass an instance: {scorer.__name__}()" if isinstance(scorer, type) else "pass a name or an object with both"
    raise InputError(f"scorer={scorer!r} has no usable `needs` and `select(signals, k, *, rng=None)`; {fix}")
