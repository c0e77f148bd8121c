"""Scorers made of scorers: one after the other, side by side, the same number from each class, per labelling cost.

What a combinator hands on is a scorer, by name or as an object. `compose` is how the stages of one are run by whoever
can rank rows: on signals at hand, or by a selector, which then reads for each stage only what that stage looks at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..types import RngLike, Scorer, Selection, Signals, as_rng
from ._asked import picks_of
from ._parts import MadeOfScorers, part_of
from ._select import check_k_of, rows_of

Pick = Callable[[Scorer, Tensor, int, RngLike], Selection]
"""(scorer, indices int64 [m], k, rng) -> what it picks of them."""


@runtime_checkable
class Composed(Scorer, Protocol):
    """A scorer whose stages rank different candidates."""

    def compose(self, pick: Pick, indices: Tensor, k: int, rng: RngLike) -> Selection:
        """Return k of `indices`, int64 [n], with `pick` doing the ranking of each stage."""
        ...


def one_rng(rng: RngLike) -> RngLike:
    """Return one generator for all parts, so that they do not repeat each other's draws; None stays None."""
    return None if rng is None else as_rng(rng)


def _pick_from(signals: Signals, scorer: Scorer, indices: Tensor, k: int, rng: RngLike) -> Selection:
    seen = signals if len(indices) == len(signals) else rows_of(signals, among(signals.indices, indices))
    return picks_of(scorer, seen, k, rng)


def among(indices: Tensor, some: Tensor) -> Tensor:
    """Return the mask [n] of those `indices` that are in `some`; on the CPU by NumPy, which is ten times as fast."""
    if indices.device.type == "cpu":
        return torch.from_numpy(np.isin(indices.numpy(), some.cpu().numpy()))
    return torch.isin(indices, some.to(indices.device))


@dataclass(frozen=True)
class TwoStage(MadeOfScorers):
    """A cheap scorer leaves `keep` times k candidates, of which a second, usually a diverse one, picks k.

    Used by a selector, the second scorer's signals are read for these candidates only: features of a million samples
    are never held for a batch of a hundred.

    Args:
        first: the cheap scorer, a name or an object.
        second: the one that decides; its order is the order of the picks.
        keep: candidates left to the second for each pick, >= 1; all of them where there are fewer.

    Raises:
        InputError: `keep` below 1, or an unknown scorer.

    Examples:
        >>> TwoStage("margin", "random", keep=5)
        TwoStage(first=Margin(), second=Random(), keep=5)
    """

    first: Any = "margin"
    second: Any = "k_center"
    keep: float = 10

    def __post_init__(self) -> None:
        what = "how many candidates stay for each pick, 1 or more"
        keep = checks.number("TwoStage: keep", self.keep, least=1, what=what)
        checks.settle(self, first=part_of(self.first), second=part_of(self.second), keep=keep)

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """See `MadeOfScorers`."""
        return (self.first, self.second)

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the second scorer's picks among the first's; `rng` is used by the first, then by the second."""
        k = check_k_of("TwoStage", k, signals)
        return self.compose(partial(_pick_from, signals), signals.indices, k, rng)

    def compose(self, pick: Pick, indices: Tensor, k: int, rng: RngLike) -> Selection:
        """See `Composed`."""
        rng, left = one_rng(rng), min(len(indices), math.ceil(self.keep * k))
        kept = pick(self.first, indices, left, rng).indices
        return pick(self.second, indices[among(indices, kept)], k, rng)


@dataclass(frozen=True)
class Mixture(MadeOfScorers):
    """A share of the picks is one scorer's, the rest another's from what is left: random ones, unless told otherwise.

    A random part keeps a batch from being all outliers, and what is labelled from drifting away from the pool.

    Args:
        first: the scorer that picks first, a name or an object.
        second: who picks the rest.
        share: of the picks that are the first's, 0 to 1; ``share * k`` is rounded to the nearest, halves up.

    Raises:
        InputError: `share` outside 0 to 1, or an unknown scorer.

    Examples:
        >>> Mixture("entropy", share=0.8)
        Mixture(first=Entropy(), second=Random(), share=0.8)
    """

    first: Any = "margin"
    second: Any = "random"
    share: float = 0.5

    def __post_init__(self) -> None:
        what = "the part of the picks that `first` makes, 0 to 1"
        share = checks.number("Mixture: share", self.share, least=0, most=1, what=what)
        checks.settle(self, first=part_of(self.first), second=part_of(self.second), share=share)

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """See `MadeOfScorers`."""
        return (self.first, self.second)

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the first scorer's picks, then the second's, without scores: theirs are on different scales."""
        k = check_k_of("Mixture", k, signals)
        return self.compose(partial(_pick_from, signals), signals.indices, k, rng)

    def compose(self, pick: Pick, indices: Tensor, k: int, rng: RngLike) -> Selection:
        """See `Composed`."""
        rng, count = one_rng(rng), math.floor(self.share * k + 0.5)
        picked = indices[:0].cpu()
        if count:
            picked = pick(self.first, indices, count, rng).indices
        if count < k:
            rest = indices[~among(indices, picked)]
            picked = torch.cat([picked, pick(self.second, rest, k - count, rng).indices])
        return Selection(picked)
