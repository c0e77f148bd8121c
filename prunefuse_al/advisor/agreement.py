"""How far thin networks rank data as the dense network does: each is trained for a short while and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor, nn

from ..costs import CostLedger
from ..data import labels_of, subset
from ..errors import InputError
from ..scorers import get_scorer
from ..selector import PrunedProxySelector
from ..training import EarlyStopping
from ..types import PointScorer, Scorer, Selection, Trainer, altered, epochs_of


@dataclass(frozen=True)
class Agreement:
    """How one network's ranking of the held-out part agrees with the dense network's.

    Attributes:
        spearman: rank correlation of the scores, -1 to 1; NaN where one network scores all alike.
        overlap: share of the k samples that both would pick; picking at random gives k over the held-out rows.
    """

    spearman: float
    overlap: float


@dataclass(frozen=True)
class Trial:
    """A short training of every network on one half of a labelled sample, and their rankings of the other half.

    Attributes:
        agreement: by network's name; that of the first, the dense one, is with itself trained in another order, which
            is as much as a proxy can be expected to agree.
        k: samples picked of those held out.
        held_out: rows ranked.
        trained_on: rows trained on.
    """

    agreement: Mapping[str, Agreement]
    k: int
    held_out: int
    trained_on: int


def try_out(
    networks: Mapping[str, nn.Module],
    trainer: Trainer,
    data: Any,
    *,
    scorer: str | Scorer,
    share: float,
    epochs: int,
    seed: int,
    ledger: CostLedger,
) -> Trial:
    """Train every network on half of `data` and compare their rankings of the other half.

    Args:
        networks: by name, the dense one first; not changed.
        trainer: trains copies; one with `epochs` for no more than `epochs`.
        data: dataset with labels.
        scorer: gives the scores that are ranked.
        share: the share of the held-out rows that is picked, as the plan picks of its pool.
        epochs: of each training.
        seed: of the split and the trainings.
        ledger: gets the rows.
    """
    train, held = EarlyStopping(validation_fraction=0.5).split(len(data), labels_of(data), seed)
    k = min(max(1, round(share * len(held))), len(held))
    short = shortened(trainer, epochs)
    dense_name, *others = networks
    dense = networks[dense_name]

    def ranked(network: nn.Module, random_state: int) -> Selection:
        # Another network to choose with is trained and asked as it is, so that nothing is cut twice.
        own = PrunedProxySelector(dense, proxy=network, scorer=scorer, trainer=short, random_state=random_state)
        selection = own.fit(subset(data, train)).select(data, len(held), held)
        ledger.extend(replace(row, round=0, stage="trial") for row in own.costs.rows())
        return selection

    reference = ranked(dense, seed)
    found = {dense_name: compare(ranked(dense, seed + 1), reference, k)}
    found.update({name: compare(ranked(networks[name], seed), reference, k) for name in others})
    return Trial(found, k, len(held), len(train))


def compare(one: Selection, other: Selection, k: int) -> Agreement:
    """Return how two rankings of the same rows, best first and with scores, agree."""
    overlap = len(np.intersect1d(one.indices[:k], other.indices[:k])) / k
    left, right = _by_row(one), _by_row(other)
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Agreement(float("nan"), overlap)
    return Agreement(float(spearmanr(left, right).statistic), overlap)


def check_ranking(scorer: str | Scorer) -> Scorer:
    """Return the scorer, or raise `InputError` if it gives no scores that could be ranked."""
    found = get_scorer(scorer)
    if not isinstance(found, PointScorer):
        raise InputError(
            f"advise: {type(found).__name__} gives no score of a single sample, so rankings cannot be compared; "
            "pass a scorer that does, such as 'least_confidence', or no labelled sample"
        )
    return found


def shortened(trainer: Any, epochs: int) -> Any:
    """Return a copy of a trainer that trains for no more than `epochs`; one that does not say how long, as it is."""
    own = epochs_of(trainer)
    if own is None or own <= epochs:
        return trainer
    return altered(trainer, epochs=epochs)


def _by_row(selection: Selection) -> Any:
    assert isinstance(selection.scores, Tensor)  # of a point scorer
    return selection.scores[selection.indices.argsort()].double().numpy()
