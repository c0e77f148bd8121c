"""What a selector is told, and what it has made so far; both frozen."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from ..channel_map import ChannelMap, check_cross
from ..data import as_dataset
from ..errors import InputError
from ..outputs import Outputs, of_trainer
from ..pruning import GlobalScope
from ..storage import check_storage
from ..training.distillation import Distillation
from ..training.progressive import ProgressivePruning
from ..training.recording import Snapshot
from ..training.warm import ShrinkPerturb
from ..types import RngLike, Scorer, Trainer, as_rng
from .ratios import PruningRatio, ratio_of

WarmStart = bool | ShrinkPerturb
STAGES = ("prune", "train_proxy", "query", "train_target", "sync", "perturb")  # the order is part of what a seed means


@dataclass(frozen=True, eq=False)
class Options:
    """The options of a selector, checked; see `PrunedProxySelector`. `entropy` is what its seeds derive from."""

    pruning_ratio: PruningRatio
    scorer: Scorer
    trainer: Trainer
    importance: Any
    sync_every: int | None
    sync_importance: Any
    cross: str | float
    distillation: Distillation | None
    example_inputs: Any
    warm_start: WarmStart
    target_trainer: Trainer | None
    fine_tune_lr_scale: float | None
    recalibrate: bool
    recalibration_data: Any
    fold_batchnorm: bool
    keep: Any
    scope: str | GlobalScope
    round_to: int | None
    progressive: ProgressivePruning | None
    candidate_fraction: float
    features_dtype: str
    features_path: str | os.PathLike[str] | None
    entropy: int

    def __post_init__(self) -> None:
        if not callable(self.pruning_ratio):
            ratio_of(self.pruning_ratio, 0)
        share = self.candidate_fraction
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InputError(f"candidate_fraction={share!r}; it is the share of the candidates scored, 0 < share <= 1")
        every = self.sync_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise InputError(f"sync_every={every!r}; pass None (V1) or a number of rounds from 1")
        if self.sync_importance is not None and self.sync_every is None:
            raise InputError(
                f"sync_importance={self.sync_importance!r} says how V2 prunes again; give sync_every= as well"
            )
        if self.recalibration_data is not None:
            if not self.recalibrate:
                raise InputError("recalibration_data= was given with recalibrate=False; give one of the two")
            object.__setattr__(self, "recalibration_data", as_dataset(self.recalibration_data))  # refused at the door
        if self.fine_tune_lr_scale is not None and not 0 < self.fine_tune_lr_scale < float("inf"):
            raise InputError(f"fine_tune_lr_scale={self.fine_tune_lr_scale!r}; pass a factor above 0, or None")
        self._check_outputs(of_trainer(self.trainer), of_trainer(self.target_trainer))
        if self.progressive is not None:
            self._check_progressive(self.progressive)
        check_warm(self.warm_start, self.trainer)
        check_cross(self.cross)
        check_storage(self.features_dtype, self.features_path)

    def _check_outputs(self, proxy: Outputs | None, target: Outputs | None) -> None:
        if proxy is not None and target is not None and proxy.kind != target.kind:
            raise InputError(
                f"trainer trains networks whose outputs are {proxy.name!r} and target_trainer= such with "
                f"{target.name!r}, which nobody could read alike: give both a loss of the same kind of labels"
            )

    def _check_progressive(self, progressive: ProgressivePruning) -> None:
        if not isinstance(progressive, ProgressivePruning):
            raise InputError(f"progressive={progressive!r}; pass ProgressivePruning(...) or None")
        if self.sync_importance is not None:
            raise InputError(
                f"progressive= chooses channels by `importance` while a proxy is trained, and sync_importance="
                f"{self.sync_importance!r} says how to choose before that: give one of the two"
            )
        name, epochs = type(self.trainer).__name__, getattr(self.trainer, "epochs", None)
        parameters = inspect.signature(self.trainer.fit).parameters.values()
        if not any(p.name == "on_epoch" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise InputError(
                f"progressive= thins the proxy while it is trained, and {name}.fit takes no on_epoch: give it an "
                "argument on_epoch=None, and if that is not None call on_epoch(epoch, optimizer) before every epoch, "
                "from 0 (where it returns True, forget weights kept from earlier epochs)"
            )
        if isinstance(epochs, int) and epochs <= progressive.epochs:
            raise InputError(
                f"progressive= ends after {progressive.epochs} epochs, but {name} trains for {epochs}: the last width "
                f"would not be trained; pass ProgressivePruning(epochs=...) below {epochs}, or train for longer"
            )

    @property
    def gradual(self) -> bool:
        """Whether proxies are thinned while they are trained: at ratio 0 there is nothing to thin."""
        return self.progressive is not None and self.pruning_ratio != 0

    @property
    def ratio(self) -> float:
        """The pruning ratio of a round, of options that `at` returned."""
        assert not callable(self.pruning_ratio)
        return self.pruning_ratio

    def at(self, n: int) -> Options:
        """Return the options for n labelled samples, with the pruning ratio as a number."""
        if not callable(self.pruning_ratio):
            return self
        return replace(self, pruning_ratio=ratio_of(self.pruning_ratio, n))

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
        synced: the target trained at the end of this round, from which the next round's proxy is cut (V2).
        begun: what the last training began with: the network, untrained in this round, the seed, and the trainer.
        snapshots: states of the proxy along its training, where a scorer has asked for them.
    """

    dense: nn.Module
    start: nn.Module | None = None
    channel_map: ChannelMap | None = None
    report: Any = None
    trained: nn.Module | None = None
    round: int = 0
    synced: nn.Module | None = None
    begun: tuple[nn.Module, int, Trainer] | None = None
    snapshots: tuple[Snapshot, ...] = ()


def check_warm(warm: Any, trainer: Trainer) -> None:
    """Raise `InputError` unless proxies can be started as `warm` says and trained by `trainer`."""
    if not isinstance(warm, ShrinkPerturb):
        if warm not in (True, False):
            raise InputError(f"warm_start={warm!r}; pass True, False or ShrinkPerturb(...)")
    elif warm.epochs is not None and not isinstance(getattr(trainer, "epochs", None), int):
        raise InputError(
            f"{warm!r} sets the epochs of warm rounds, and {type(trainer).__name__} has no whole number `epochs` to "
            "set: give it one, or leave epochs= out of ShrinkPerturb"
        )


def entropy_of(random_state: RngLike) -> int:
    """Return the number all seeds derive from; None draws a fresh one."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        if random_state < 0:
            raise InputError(f"random_state={random_state}; seeds start at 0")
        return int(random_state)
    return int(as_rng(random_state).integers(2**63))
