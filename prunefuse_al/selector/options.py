"""What a selector is told, and what it has made so far; both frozen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..channel_map import ChannelMap, check_cross
from ..errors import InputError
from ..storage import check_storage
from ..training.distillation import Distillation
from ..types import RngLike, Scorer, Trainer, as_rng

STAGES = ("prune", "train_proxy", "query", "train_target", "sync")  # the order is part of what a seed means


@dataclass(frozen=True, eq=False)
class Options:
    """The options of a selector, checked; see `PrunedProxySelector`. `entropy` is what its seeds derive from."""

    pruning_ratio: float
    scorer: Scorer
    trainer: Trainer
    importance: Any
    sync_every: int | None
    cross: str | float
    distillation: Distillation | None
    example_inputs: Any
    warm_start: bool
    target_trainer: Trainer | None
    fine_tune_lr_scale: float | None
    recalibrate: bool
    fold_batchnorm: bool
    keep: Any
    scope: str
    round_to: int | None
    features_dtype: str
    features_path: str | os.PathLike[str] | None
    entropy: int

    def __post_init__(self) -> None:
        if not isinstance(self.pruning_ratio, int | float) or not 0 <= self.pruning_ratio < 1:
            raise InputError(f"pruning_ratio={self.pruning_ratio!r}; it is the share of channels removed, 0 <= p < 1")
        if self.sync_every is not None and (not isinstance(self.sync_every, int) or self.sync_every < 1):
            raise InputError(f"sync_every={self.sync_every!r}; pass None (V1) or a number of rounds from 1")
        if self.fine_tune_lr_scale is not None and not 0 < self.fine_tune_lr_scale < float("inf"):
            raise InputError(f"fine_tune_lr_scale={self.fine_tune_lr_scale!r}; pass a factor above 0, or None")
        check_cross(self.cross)
        check_storage(self.features_dtype, self.features_path)

    def seed(self, stage: str, number: int = 0) -> int:
        """Return the seed of a stage: the same in every process and, unless numbered, in every round."""
        return int(np.random.SeedSequence([self.entropy, STAGES.index(stage), number]).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class State:
    """What a fit replaces, at once and only when it succeeds.

    Attributes:
        dense: the network the proxy was cut from, with the weights it had then.
        start: the proxy before training, None until the first fit.
        channel_map: where its entries sit in `dense`; None when it is another network (Selection via Proxy).
        report: what `prune` says about it.
        trained: the proxy after training.
        round: successful fits.
    """

    dense: nn.Module
    start: nn.Module | None = None
    channel_map: ChannelMap | None = None
    report: Any = None
    trained: nn.Module | None = None
    round: int = 0


def entropy_of(random_state: RngLike) -> int:
    """Return the number all seeds derive from; None draws a fresh one."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        if random_state < 0:
            raise InputError(f"random_state={random_state}; seeds start at 0")
        return int(random_state)
    return int(as_rng(random_state).integers(2**63))
