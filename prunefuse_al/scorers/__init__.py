"""Scorers choose which candidates to label next; `SCORERS` names them all.

Each method is a pure function of tensors and a small frozen class over it that reads a `Signals`. A scorer of your
own is any object with `needs` and `select` (see `prunefuse_al.types.Scorer`); `prunefuse_al.testing.check_scorer`
tells whether it keeps the contract.
"""

from __future__ import annotations

import difflib
from collections.abc import Set

from .. import checks
from ..errors import InputError
from ..types import Scorer
from ._adapruner import AdaPruner as AdaPruner
from ._adapruner import mask_gradient as mask_gradient
from ._badge import Badge as Badge
from ._badge import badge as badge
from ._balance import ClassBalanced as ClassBalanced
from ._balance import ClassStandardised as ClassStandardised
from ._balance import class_budgets as class_budgets
from ._balance import standardised_by_class as standardised_by_class
from ._bald import BALD as BALD
from ._bald import bald as bald
from ._batchbald import BatchBALD as BatchBALD
from ._batchbald import batchbald as batchbald
from ._cal import CAL as CAL
from ._cal import cal as cal
from ._cardinality import MMC as MMC
from ._cardinality import LabelCardinality as LabelCardinality
from ._cardinality import MLAdaptive as MLAdaptive
from ._cardinality import label_cardinality as label_cardinality
from ._cardinality import ml_adaptive as ml_adaptive
from ._cardinality import mmc as mmc
from ._ccs import CCS as CCS
from ._ccs import ccs as ccs
from ._combine import Mixture as Mixture
from ._combine import TwoStage as TwoStage
from ._cost import CostAware as CostAware
from ._cost import score_per_cost as score_per_cost
from ._d2 import D2 as D2
from ._d2 import d2 as d2
from ._dropquery import DropQuery as DropQuery
from ._dropquery import DropQueryInit as DropQueryInit
from ._dropquery import dropquery as dropquery
from ._dropquery import dropquery_flips as dropquery_flips
from ._dropquery import dropquery_init as dropquery_init
from ._dynamics import AUM as AUM
from ._dynamics import EL2N as EL2N
from ._dynamics import Forgetting as Forgetting
from ._dynamics import GraNd as GraNd
from ._dynamics import MoSo as MoSo
from ._dynamics import aum as aum
from ._dynamics import el2n as el2n
from ._dynamics import forgetting as forgetting
from ._dynamics import grand as grand
from ._dynamics import moso as moso
from ._influence import Influence as Influence
from ._influence import Removal as Removal
from ._influence import influence as influence
from ._influence import influence_vectors as influence_vectors
from ._influence import largest_removal as largest_removal
from ._influence import smallest_removal as smallest_removal
from ._k_center import KCenter as KCenter
from ._k_center import k_center as k_center
from ._loss_band import LossBand as LossBand
from ._loss_band import loss_band as loss_band
from ._moderate import Moderate as Moderate
from ._moderate import moderate as moderate
from ._multilabel import MLBALD as MLBALD
from ._multilabel import MLBadge as MLBadge
from ._multilabel import MLEntropy as MLEntropy
from ._multilabel import MLMargin as MLMargin
from ._multilabel import MLMinMargin as MLMinMargin
from ._multilabel import ml_badge as ml_badge
from ._multilabel import ml_bald as ml_bald
from ._multilabel import ml_entropy as ml_entropy
from ._multilabel import ml_margin as ml_margin
from ._multilabel import ml_min_margin as ml_min_margin
from ._probcover import ProbCover as ProbCover
from ._probcover import probcover as probcover
from ._probcover import purity_radius as purity_radius
from ._random import Random as Random
from ._typiclust import TypiClust as TypiClust
from ._typiclust import typiclust as typiclust
from ._uncertainty import Entropy as Entropy
from ._uncertainty import LeastConfidence as LeastConfidence
from ._uncertainty import Margin as Margin
from ._uncertainty import entropy as entropy
from ._uncertainty import least_confidence as least_confidence
from ._uncertainty import margin as margin
from ._vessal import VeSSAL as VeSSAL
from ._vessal import VeSSALStream as VeSSALStream
from ._vessal import vessal as vessal

# What other rooms of the package use of this one.
# isort: split
from ._adapruner import MASK as MASK
from ._adapruner import masks_in as masks_in
from ._asked import checked_picks as checked_picks
from ._asked import picks_of as picks_of
from ._asked import scores_of as scores_of
from ._combine import Composed as Composed
from ._dynamics import EARLY as EARLY
from ._dynamics import Answers as Answers
from ._dynamics import answers as answers
from ._dynamics import dynamics_of as dynamics_of
from ._dynamics import gradient_norms as gradient_norms
from ._dynamics import gradient_products as gradient_products
from ._dynamics import gradient_sum as gradient_sum
from ._loss_band import losses as losses
from ._select import check_k as check_k
from ._select import refuse_other_outputs as refuse_other_outputs
from ._select import select_top as select_top

__all__ = [
    "AUM",
    "AdaPruner",
    "BALD",
    "Badge",
    "BatchBALD",
    "CAL",
    "CCS",
    "ClassBalanced",
    "ClassStandardised",
    "CostAware",
    "D2",
    "DropQuery",
    "DropQueryInit",
    "EL2N",
    "Entropy",
    "Forgetting",
    "GraNd",
    "Influence",
    "KCenter",
    "LabelCardinality",
    "LeastConfidence",
    "LossBand",
    "MLAdaptive",
    "MLBALD",
    "MLBadge",
    "MLEntropy",
    "MLMargin",
    "MLMinMargin",
    "MMC",
    "Margin",
    "Mixture",
    "MoSo",
    "Moderate",
    "ProbCover",
    "Random",
    "Removal",
    "SCORERS",
    "TwoStage",
    "TypiClust",
    "VeSSAL",
    "VeSSALStream",
    "aum",
    "badge",
    "bald",
    "batchbald",
    "cal",
    "ccs",
    "class_budgets",
    "d2",
    "dropquery",
    "dropquery_flips",
    "dropquery_init",
    "el2n",
    "entropy",
    "forgetting",
    "get_scorer",
    "grand",
    "influence",
    "influence_vectors",
    "k_center",
    "label_cardinality",
    "largest_removal",
    "least_confidence",
    "loss_band",
    "margin",
    "mask_gradient",
    "ml_adaptive",
    "ml_badge",
    "ml_bald",
    "ml_entropy",
    "ml_margin",
    "ml_min_margin",
    "mmc",
    "moderate",
    "moso",
    "probcover",
    "purity_radius",
    "score_per_cost",
    "smallest_removal",
    "standardised_by_class",
    "typiclust",
    "vessal",
]

SCORERS: dict[str, type[Scorer]] = {
    "random": Random,
    "least_confidence": LeastConfidence,
    "margin": Margin,
    "entropy": Entropy,
    "bald": BALD,
    "batchbald": BatchBALD,
    "class_balanced": ClassBalanced,
    "class_standardised": ClassStandardised,
    "mixture": Mixture,
    "two_stage": TwoStage,
    "k_center": KCenter,
    "badge": Badge,
    "vessal": VeSSAL,
    "typiclust": TypiClust,
    "probcover": ProbCover,
    "cal": CAL,
    "dropquery": DropQuery,
    "dropquery_init": DropQueryInit,
    "forgetting": Forgetting,
    "aum": AUM,
    "el2n": EL2N,
    "grand": GraNd,
    "moso": MoSo,
    "moderate": Moderate,
    "ccs": CCS,
    "d2": D2,
    "influence": Influence,
    "loss_band": LossBand,
    "adapruner": AdaPruner,
    "ml_min_margin": MLMinMargin,
    "ml_margin": MLMargin,
    "ml_entropy": MLEntropy,
    "ml_bald": MLBALD,
    "ml_badge": MLBadge,
    "mmc": MMC,
    "label_cardinality": LabelCardinality,
    "ml_adaptive": MLAdaptive,
}


def get_scorer(scorer: str | Scorer) -> Scorer:
    """Return the scorer of that name, or the object itself when it already is one.

    Args:
        scorer: a key of `SCORERS`, or any object with `needs` and `select`.

    Raises:
        InputError: unknown name (with the nearest known one), one that needs more than a name, or no scorer.

    Examples:
        >>> get_scorer("entropy")
        Entropy()
    """
    if isinstance(scorer, str):
        if scorer in SCORERS:
            return SCORERS[scorer]()
        if scorer == "cost_aware":
            raise InputError(f"{scorer!r} cannot go by name alone: say what labels cost, CostAware('entropy', costs)")
        near = difflib.get_close_matches(scorer, SCORERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown scorer {scorer!r}; {hint}known: {', '.join(sorted(SCORERS))}")
    usable = not isinstance(scorer, type) and callable(getattr(scorer, "select", None)) and hasattr(scorer, "needs")
    if not usable:
        fix = f"an instance: {scorer.__name__}()" if isinstance(scorer, type) else "a name or an object with both"
        found = f"scorer={checks.shown(scorer)} has no usable `needs` and `select(signals, k, *, rng=None)`"
        raise InputError(f"{found}; pass {fix}")
    needs = scorer.needs
    if not isinstance(needs, Set) or not all(isinstance(name, str) for name in needs):
        raise InputError(
            f"scorer={checks.shown(scorer)} has needs={checks.shown(needs)}; give it a frozenset of the names of the "
            'Signals fields it reads, such as frozenset({"logits"})'
        )
    return scorer
