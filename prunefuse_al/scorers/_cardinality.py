"""Scorers of independent labels that also go by how many labels the labelled samples have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..checks import number
from ..errors import InputError
from ..types import Signals
from ._given import given_features, given_logits
from ._ranker import Ranker
from ._select import check_finite, one_against_rest, read_independent_logits

_ROOM = 1e-30  # the least separation, so that its inverse is finite


def label_cardinality(logits: Tensor, labelled_labels: Tensor) -> Tensor:
    """Return |sum_j [p_j > 0.5] - mean count of labels among the labelled| (Li & Guo, 2013).

    Takes few different values, so ties decide much.

    Args:
        logits: float [n c], one for each independent label.
        labelled_labels: 0 or 1, [m c], m >= 1.

    Returns:
        float64 [n]; higher means label it sooner.

    Examples:
        >>> label_cardinality(torch.tensor([[2.0, 1.0], [-3.0, 1.0]]), torch.tensor([[0, 1], [1, 0]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    logits = given_logits("label_cardinality", logits, least=1)
    counts = _known("label_cardinality", labelled_labels, logits).sum(1)  # [m]
    return ((logits > 0).sum(1).double() - counts.mean().to(logits.device)).abs()


def ml_adaptive(logits: Tensor, labelled_labels: Tensor, *, weight: float = 0.5) -> Tensor:
    """Return u^b e^(1-b): how close the labels that were found are to those that were not, and `label_cardinality`.

    u is 1 over the gap between the lowest logit above 0 and the highest one not above it (Li & Guo, 2013); where all
    are on one side, over the distance of the nearest to 0. Their choice of b by retraining for every pick is left out.

    Args:
        logits: float [n c], one for each independent label.
        labelled_labels: 0 or 1, [m c], m >= 1.
        weight: b, 0 to 1.

    Returns:
        float64 [n]; higher means label it sooner.

    Raises:
        InputError: `weight` is out of range.
    """
    weight = number("weight", weight, least=0, most=1)
    z = given_logits("ml_adaptive", logits, least=1).double()
    above = torch.where(z > 0, z, torch.inf).amin(1)  # [n]
    below = torch.where(z > 0, -torch.inf, z).amax(1)
    gap = above.where(above.isfinite(), 0.0) - below.where(below.isfinite(), 0.0)
    return gap.clamp_min(_ROOM) ** -weight * label_cardinality(z, labelled_labels) ** (1 - weight)


def mmc(logits: Tensor, labelled_logits: Tensor, labelled_labels: Tensor) -> Tensor:
    """Return sum_j (1 - y_j (2 p_j - 1)) / 2 with y_j = 1 for the M likeliest labels, else -1 (Yang et al., 2009).

    How many labels a sample has, M, is predicted by a logistic regression from its sorted probabilities, each over
    their sum, fitted to the labelled samples. Here 2p - 1 stands for the value of a support vector machine.

    Args:
        logits: float [n c], one for each independent label.
        labelled_logits: float [m c] of the labelled samples, m >= 1.
        labelled_labels: 0 or 1, [m c].

    Returns:
        float64 [n], between 0 and c; higher means label it sooner.
    """
    z = given_logits("mmc", logits, least=1).detach().double().cpu()
    known = _known("mmc", labelled_labels, z).cpu()
    seen = (
        given_logits("mmc", labelled_logits, rows=len(known), what="labelled_logits", least=1).detach().double().cpu()
    )
    order = z.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)  # [n c]
    found = rank < _counts(z, seen, known)[:, None]
    return torch.where(found, torch.sigmoid(-z), torch.sigmoid(z)).sum(1)


def _known(name: str, labelled_labels: Any, logits: Tensor) -> Tensor:
    """Return labels of labelled samples as float64 [m c], checked to have the columns of the logits, and m >= 1."""
    known = given_features(name, labelled_labels, what="labelled_labels").double()
    if known.shape[1] != logits.shape[1] or not len(known):
        raise InputError(
            f"{name}: labelled_labels have shape {list(known.shape)} and there are {logits.shape[1]} labels; pass 0 or "
            "1 for each, [labelled samples, labels], of one sample or more"
        )
    return known


def _counts(logits: Tensor, labelled_logits: Tensor, labelled_labels: Tensor) -> Tensor:
    """Return how many labels each sample has, int64 [n], as the labelled ones tell."""
    known = labelled_labels.sum(1).round().long()  # [m]
    if (known == known[0]).all():
        return known[:1].expand(len(logits))
    model = LogisticRegression(max_iter=1000).fit(_shares(labelled_logits), known.numpy())
    return torch.from_numpy(model.predict(_shares(logits)))


def _shares(logits: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return each row's probabilities, largest first, over their sum, [n c]."""
    p = torch.sigmoid(logits).sort(1, descending=True).values
    shares: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (p / p.sum(1, keepdim=True).clamp_min(_ROOM)).numpy()
    return shares


def _read_labelled(name: str, signals: Signals, logits: Tensor) -> Tensor:
    """Return `signals.labelled_labels` [m c], checked: present, one labelled sample or more; a class is one label."""
    labels = signals.labelled_labels
    if labels is None:
        raise InputError(f"{name} reads signals.labelled_labels, but it is None; collect what scorer.needs names")
    if signals.outputs == "softmax" and labels.shape[1:].numel() == 1 and len(labels):  # numbers of classes
        numbers = labels.reshape(len(labels)).long()
        if int(numbers.min()) >= 0 and int(numbers.max()) < logits.shape[1]:
            labels = F.one_hot(numbers, logits.shape[1])
    if labels.ndim != 2 or labels.shape[1] != logits.shape[1] or len(labels) == 0:
        raise InputError(
            f"{name}: labelled_labels have shape {list(labels.shape)} and there are {logits.shape[1]} labels; at least "
            "one labelled sample is needed, [labelled samples, labels] of 0 and 1"
        )
    check_finite(name, "labelled_labels", labels, torch.arange(len(labels)))
    return labels


def _read_labelled_logits(name: str, signals: Signals, labels: Tensor) -> Tensor:
    logits = signals.labelled_logits
    if logits is None:
        raise InputError(f"{name} reads signals.labelled_logits, but it is None; collect what scorer.needs names")
    if logits.shape != labels.shape:
        raise InputError(
            f"{name}: labelled_logits have shape {list(logits.shape)} and labelled_labels {list(labels.shape)}; they "
            "must be of the same samples and labels"
        )
    check_finite(name, "labelled logits", logits, torch.arange(len(logits)))
    return one_against_rest(logits) if signals.outputs == "softmax" else logits


@dataclass(frozen=True)
class LabelCardinality(Ranker):
    """Prefers samples that seem to have more or fewer labels than the labelled ones; see `label_cardinality`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labelled_labels"})
    outputs: ClassVar[str] = "sigmoid"

    def score(self, signals: Signals) -> Tensor:
        """Return float64 [n]; higher means label it sooner."""
        logits = read_independent_logits("LabelCardinality", signals)
        return label_cardinality(logits, _read_labelled("LabelCardinality", signals, logits))


@dataclass(frozen=True)
class MLAdaptive(Ranker):
    """Prefers samples whose labels are hard to tell apart and of an odd number; see `ml_adaptive`.

    Attributes:
        weight: of the first against the second, 0 to 1.
    """

    weight: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labelled_labels"})
    outputs: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", number("weight", self.weight, least=0, most=1))

    def score(self, signals: Signals) -> Tensor:
        """Return float64 [n]; higher means label it sooner."""
        logits = read_independent_logits("MLAdaptive", signals)
        return ml_adaptive(logits, _read_labelled("MLAdaptive", signals, logits), weight=self.weight)


@dataclass(frozen=True)
class MMC(Ranker):
    """Prefers samples whose loss would fall most, had they as many labels as predicted, the likeliest; see `mmc`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labelled_logits", "labelled_labels"})
    outputs: ClassVar[str] = "sigmoid"

    def score(self, signals: Signals) -> Tensor:
        """Return float64 [n]; higher means label it sooner."""
        logits = read_independent_logits("MMC", signals)
        labels = _read_labelled("MMC", signals, logits)
        return mmc(logits, _read_labelled_logits("MMC", signals, labels), labels)
