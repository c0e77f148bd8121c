"""Uncertainty about independent labels, of which a sample may have several or none: one sigmoid for each (multi-label).

With p = sigmoid(z), |2p - 1| = 1 - 2 sigmoid(-|z|): written in sigmoid(-|z|), no formula subtracts nearly equal
numbers, so samples with sure labels keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import whole
from ..types import RngLike, Selection, Signals
from ._badge import by_gradients
from ._bald import bald
from ._given import given_features, given_logits, given_passes
from ._ranker import Ranker
from ._select import (
    check_k_of,
    in_blocks,
    read_independent_logits,
    read_independent_mc_logits,
    single,
)


def ml_min_margin(logits: Tensor) -> Tensor:
    """Return 1 - min_j |2 p_j - 1|: how undecided the least sure label is (BinMin; Brinker, 2006, for SVM values).

    Args:
        logits: float [n c], one for each independent label; half precision is computed in single.

    Returns:
        float [n] between 0 and 1; higher means label it sooner.

    Examples:
        >>> [round(score, 3) for score in ml_min_margin(torch.tensor([[9.0, 9.0, -9.0], [9.0, 0.0, -9.0]])).tolist()]
        [0.0, 1.0]
    """
    return ml_margin(logits, top=1)


def ml_margin(logits: Tensor, *, top: int | None = None) -> Tensor:
    """Return 1 - mean_j |2 p_j - 1|: how undecided labels are on average. In logits sure labels would drown the rest.

    Args:
        logits: float [n c], one for each independent label; half precision is computed in single.
        top: how many labels count, the least sure of each sample; None: all, among which many easy negatives dilute
            the mean. 1 is `ml_min_margin`.

    Returns:
        float [n] between 0 and 1; higher means label it sooner.

    Raises:
        InputError: `top` is no whole number from 1.
    """
    if top is not None:
        top = whole("top", top, least=1)

    def score(block: Tensor) -> Tensor:
        unsure = 2 * torch.sigmoid(-single(block).abs())  # [b c]
        if top is not None and top < unsure.shape[1]:
            unsure = unsure.topk(top, dim=1, sorted=False).values
        return unsure.mean(1)

    return in_blocks(score, given_logits("ml_margin", logits, least=1).detach())


def ml_entropy(logits: Tensor) -> Tensor:
    """Return the mean over labels of the entropy of each, in nats.

    Args:
        logits: float [n c], one for each independent label; half precision is computed in single.

    Returns:
        float [n] between 0 and log 2; higher means label it sooner.
    """

    def score(block: Tensor) -> Tensor:
        size = single(block).abs()  # [b c]; the entropy is that of -z
        return (torch.log1p(torch.exp(-size)) + size.clamp_max(1e5) * torch.sigmoid(-size)).mean(1)

    return in_blocks(score, given_logits("ml_entropy", logits, least=1).detach())


def ml_bald(mc_logits: Tensor) -> Tensor:
    """Return the mean over labels of what each would tell about the network, see `bald`; labels taken as independent.

    Args:
        mc_logits: float [t n c], t >= 2 passes; half precision is computed in single.

    Returns:
        float [n] between 0 and log 2; higher means label it sooner.
    """

    def score(block: Tensor) -> Tensor:
        passes = single(block)  # [t b c]
        two = torch.stack([torch.zeros_like(passes), passes], -1)  # [t b c 2], each label as two classes
        return bald(two.flatten(1, 2)).view(passes.shape[1:]).mean(1)

    return in_blocks(score, given_passes("ml_bald", mc_logits, width=1).detach(), dim=1)


def ml_badge(logits: Tensor, features: Tensor, k: int, *, rng: RngLike = None) -> Tensor:
    """Return `k` rows as `badge` does, by g = (p - [p > 0.5]) outer features, BCE's gradient for predicted labels.

    Args:
        logits: float [n c], one for each independent label.
        features: float [n d], the input of the last linear layer, on the device of the logits.
        k: how many, 1 to n.
        rng: draws one number between 0 and 1 for each row after the first; None takes fresh entropy.

    Returns:
        int64 [k] on the CPU, in the order picked.

    Raises:
        BudgetError: k is out of range.
        InputError: shapes that do not fit.
        NonFiniteError: NaN or infinity.
    """
    logits = given_logits("ml_badge", logits, least=1)
    features = given_features("ml_badge", features, rows=len(logits))
    return _ml_badge("ml_badge", Signals(torch.arange(len(logits)), logits, features), k, rng)


def _ml_badge(name: str, signals: Signals, k: int, rng: RngLike) -> Tensor:
    k = check_k_of(name, k, signals)
    return by_gradients(name, signals, read_independent_logits(name, signals), _residuals, k, rng)


def _residuals(logits: Tensor) -> Tensor:
    """Return p - [p > 0.5], [b c]."""
    left = torch.sigmoid(-logits.abs())
    return torch.where(logits > 0, -left, left)


@dataclass(frozen=True)
class MLMinMargin(Ranker):
    """Prefers samples with one label that is as good as undecided, whatever the others are; see `ml_min_margin`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    outputs: ClassVar[str] = "sigmoid"

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return ml_min_margin(read_independent_logits("MLMinMargin", signals))


@dataclass(frozen=True)
class MLMargin(Ranker):
    """Prefers samples whose labels are undecided on average; see `ml_margin`.

    Attributes:
        top: how many labels of each sample count, the least sure ones; None: all.
    """

    top: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    outputs: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        if self.top is not None:
            object.__setattr__(self, "top", whole("top", self.top, least=1))

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return ml_margin(read_independent_logits("MLMargin", signals), top=self.top)


@dataclass(frozen=True)
class MLEntropy(Ranker):
    """Prefers samples whose labels have the highest entropy on average; see `ml_entropy`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    outputs: ClassVar[str] = "sigmoid"

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return ml_entropy(read_independent_logits("MLEntropy", signals))


@dataclass(frozen=True)
class MLBALD(Ranker):
    """Prefers samples about whose labels dropout passes are each sure and disagree; see `ml_bald`."""

    needs: ClassVar[frozenset[str]] = frozenset({"mc_logits"})
    outputs: ClassVar[str] = "sigmoid"

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return ml_bald(read_independent_mc_logits("MLBALD", signals))


@dataclass(frozen=True)
class MLBadge:
    """Prefers samples whose labels would change the last layer most, each in another direction; see `ml_badge`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    outputs: ClassVar[str] = "sigmoid"

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in the order drawn with `rng`, without scores."""
        rows = _ml_badge("MLBadge", signals, k, rng)
        return Selection(signals.indices.cpu()[rows])
