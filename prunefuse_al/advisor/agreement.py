"""How far proxies rank data as the dense network does: each is trained for a short while and asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from ..costs import CostLedger
from ..data import labels_of, subset
from ..errors import InputError
from ..network import SIGMOID, VALUES, of_trainer, predicted_classes
from ..scorers import get_scorer
from ..selector import PrunedProxySelector
from ..training import LOGITS, EarlyStopping, class_numbers
from ..types import PointScorer, Scorer, Selection, Trainer, altered, epochs_of
from .making import Made, Started


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
        accuracy: by network's name, the share of the held-out rows that it is right about; empty where labels are no
            numbers of classes.
    """

    agreement: Mapping[str, Agreement]
    k: int
    held_out: int
    trained_on: int
    accuracy: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Tried:
    """A network trained for the trial: its ranking of the held-out rows, and how many of them it is right about."""

    ranking: Selection
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Sample:
    """The labelled sample of a trial, in two halves.

    Attributes:
        data: dataset with labels.
        train: rows that are trained on, int64.
        held: rows that are ranked, int64.
        classes: the number of each row's class, int64 [n]; None where labels are none.
    """

    data: Any
    train: Any
    held: Any
    classes: Tensor | None

    @classmethod
    def of(cls, data: Any, trainer: Trainer, seed: int) -> Sample:
        """Return a dataset with labels, split by a seed."""
        labels = labels_of(data)
        train, held = EarlyStopping(validation_fraction=0.5).split(len(data), labels, seed)
        return cls(data, train, held, classes_of(labels, trainer))


def classes_of(labels: Tensor | None, trainer: Trainer) -> Tensor | None:
    """Return the number of each row's class, int64 [n]; None where labels are none, or a trainer's outputs values."""
    outputs = of_trainer(trainer)
    if labels is None or (outputs is not None and outputs.kind == VALUES):
        return None
    return class_numbers(labels, independent=outputs is not None and outputs.kind == SIGMOID)


def try_out(
    candidates: Sequence[Made],
    dense: nn.Module,
    trainer: Trainer,
    sample: Sample,
    *,
    scorer: str | Scorer,
    share: float,
    epochs: int,
    seed: int,
    ledger: CostLedger,
) -> Trial:
    """Train every network on half of a sample and compare their rankings of the other half.

    Args:
        candidates: the dense one first; not changed.
        dense: the dense network.
        trainer: trains copies; one with `epochs` for no more than `epochs`.
        sample: see `Sample`.
        scorer: gives the scores that are ranked.
        share: the share of the held-out rows that is picked, as the plan picks of its pool.
        epochs: of each training.
        seed: of the trainings.
        ledger: gets the rows.
    """
    k = min(max(1, round(share * len(sample.held))), len(sample.held))
    own = epochs_of(trainer)
    most = epochs if own is None else min(own, epochs)

    def tried(made: Made, random_state: int) -> _Tried:
        short = shortened(trainer, made.candidate.trial_epochs(most))
        kind = Started(made.candidate.proxy, made.start)
        own = PrunedProxySelector(dense, proxy=kind, scorer=scorer, trainer=short, random_state=random_state)
        ranking = own.fit(subset(sample.data, sample.train)).select(sample.data, len(sample.held), sample.held)
        found = _Tried(ranking, _accuracy(own, sample))
        ledger.extend(replace(row, round=0, stage="trial") for row in own.costs.rows())
        return found

    first, *others = candidates
    reference, again = tried(first, seed), tried(first, seed + 1)
    found = {first.candidate.name: reference, **{made.candidate.name: tried(made, seed) for made in others}}
    rankings = {name: each.ranking for name, each in found.items()} | {first.candidate.name: again.ranking}
    return Trial(
        {name: compare(ranking, reference.ranking, k) for name, ranking in rankings.items()},
        k,
        len(sample.held),
        len(sample.train),
        {name: each.accuracy for name, each in found.items() if each.accuracy is not None},
    )


def _accuracy(selector: PrunedProxySelector, sample: Sample) -> float | None:
    """Return the share of the held-out rows that a trained proxy is right about."""
    if sample.classes is None:
        return None
    said = predicted_classes(selector.signals(subset(sample.data, sample.held), LOGITS)).cpu()
    return float((said == sample.classes[torch.as_tensor(sample.held)]).double().mean())


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
