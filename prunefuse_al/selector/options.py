"""What a selector is told, and what it has made so far; both frozen."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from .. import checks
from ..data import as_dataset
from ..errors import InputError
from ..fusing import ChannelMap, check_cross
from ..network import Outputs, check_example, check_storage, of_trainer
from ..pruning import WITH_DATA, GlobalScope, check_importance, check_ratio, check_round_to, check_scope
from ..training import Distillation, ProgressivePruning, ShrinkPerturb, Snapshot
from ..types import RngLike, Scorer, Trainer, as_rng, epochs_of
from .ratios import PruningRatio, ratio_of
from .scoring import check_needs

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
        checks.settle(self, **{name: check(name, getattr(self, name)) for name, check in CHECKS.items()})
        if self.sync_importance is not None and self.sync_every is None:
            raise InputError(
                f"sync_importance={self.sync_importance!r} says how V2 prunes again; give sync_every= as well"
            )
        if self.recalibration_data is not None and not self.recalibrate:
            raise InputError("recalibration_data= was given with recalibrate=False; give one of the two")
        self._check_outputs(of_trainer(self.trainer), of_trainer(self.target_trainer))
        if self.progressive is not None:
            self._check_progressive(self.progressive)
        checks.settle(self, warm_start=check_warm(self.warm_start, self.trainer))
        check_storage(self.features_dtype, self.features_path)
        teaches = self.target_trainer or self.trainer
        if self.distillation is not None and not hasattr(teaches, "distillation"):
            raise InputError(
                f"distillation= was given, but {type(teaches).__name__} has no `distillation` to set; "
                "pass a TorchTrainer, or a target_trainer that distils by itself"
            )

    def _check_outputs(self, proxy: Outputs | None, target: Outputs | None) -> None:
        if proxy is not None and target is not None and proxy.kind != target.kind:
            raise InputError(
                f"trainer trains networks whose outputs are {proxy.name!r} and target_trainer= such with "
                f"{target.name!r}, which nobody could read alike: give both a loss of the same kind of labels"
            )

    def _check_progressive(self, progressive: ProgressivePruning) -> None:
        if self.sync_importance is not None:
            raise InputError(
                f"progressive= chooses channels by `importance` while a proxy is trained, and sync_importance="
                f"{self.sync_importance!r} says how to choose before that: give one of the two"
            )
        name, epochs = type(self.trainer).__name__, epochs_of(self.trainer)
        parameters = inspect.signature(self.trainer.fit).parameters.values()
        if not any(p.name == "on_epoch" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise InputError(
                f"progressive= thins the proxy while it is trained, and {name}.fit takes no on_epoch: give it an "
                "argument on_epoch=None, and if that is not None call on_epoch(epoch, optimizer) before every epoch, "
                "from 0 (where it returns True, forget weights kept from earlier epochs)"
            )
        if epochs is not None and epochs <= progressive.epochs:
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


def check_warm(warm: Any, trainer: Trainer) -> WarmStart:
    """Return how proxies are started, or raise `InputError` unless they can be, and be trained so by `trainer`."""
    if not isinstance(warm, ShrinkPerturb):
        if not isinstance(warm, bool | np.bool_):
            raise checks.refused("warm_start", warm, "True, False or ShrinkPerturb(...)")
        return bool(warm)
    if warm.epochs is not None and epochs_of(trainer) is None:
        raise InputError(
            f"{warm!r} sets the epochs of warm rounds, and {type(trainer).__name__} has no whole number `epochs` to "
            "set: give it one, or leave epochs= out of ShrinkPerturb"
        )
    return warm


def check_trainer(name: str, trainer: Any) -> Any:
    """Return a trainer, or raise `InputError` unless it has the methods of a `Trainer` and its own `check` passes."""
    what = "an object with `fit(model, data, *, teacher, seed)` and `infer(model, data, needs)`, such as TorchTrainer()"
    checks.methods(name, trainer, ("fit", "infer"), what)
    own = getattr(trainer, "check", None)
    if callable(own):
        own()
    return trainer


def _target_trainer(name: str, trainer: Any) -> Any:
    return None if trainer is None else check_trainer(name, trainer)


def entropy_of(random_state: RngLike) -> int:
    """Return the number all seeds derive from; None draws a fresh one."""
    if isinstance(random_state, int | np.integer):
        what = "None, a whole number from 0, or a generator of numpy or torch: seeds start at 0"
        return checks.whole("random_state", random_state, least=0, what=what)
    return int(as_rng(random_state, "random_state").integers(2**63))


def _ratio(name: str, given: Any) -> PruningRatio:
    """Look at a number; what a function gives is looked at when the labels are counted."""
    if callable(given) and not isinstance(given, type):
        found: PruningRatio = given
        return found
    return check_ratio(name, given)


def _importance(name: str, measure: Any) -> Any:
    if not (isinstance(measure, str) and measure in WITH_DATA):  # for which the selector has the labelled data
        check_importance(measure, name)
    return measure


def _sync_importance(name: str, measure: Any) -> Any:
    same = isinstance(measure, str) and measure == "same"
    return measure if measure is None or same else _importance(name, measure)


def _example(name: str, example_inputs: Any) -> Any:
    if example_inputs is not None:
        check_example(example_inputs)
    return example_inputs


def _dataset(name: str, data: Any) -> Any:
    return None if data is None else as_dataset(data)


def _scorer(name: str, scorer: Any) -> Scorer:
    check_needs(scorer)
    found: Scorer = scorer
    return found


def _cross(name: str, cross: Any) -> str | float:
    factor = check_cross(cross)
    return cross if isinstance(cross, str) else factor


def _path(name: str, path: Any) -> str | None:
    return checks.maybe(checks.path, name, path, "a .npy file in a folder that is there")


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "pruning_ratio": _ratio,
    "scorer": _scorer,
    "trainer": check_trainer,
    "importance": _importance,
    "sync_every": partial(checks.maybe, checks.whole, least=1, what="a number of rounds from 1 (V2)"),
    "sync_importance": _sync_importance,
    "cross": _cross,
    "distillation": partial(checks.maybe, checks.instance, kind=Distillation, what="Distillation(...)"),
    "example_inputs": _example,
    "target_trainer": _target_trainer,
    "fine_tune_lr_scale": partial(checks.maybe, checks.number, above=0, what="a finite factor above 0"),
    "recalibrate": checks.flag,
    "recalibration_data": _dataset,
    "fold_batchnorm": checks.flag,
    "scope": check_scope,
    "round_to": check_round_to,
    "progressive": partial(checks.maybe, checks.instance, kind=ProgressivePruning, what="ProgressivePruning(...)"),
    "candidate_fraction": partial(
        checks.number, above=0, most=1, what="the share of the candidates scored, 0 < share <= 1"
    ),
    "features_path": _path,
}
"""Option -> `check(name, value)`, which returns it as it is used; those of two options together stand in the class."""
