"""What a selector is told: every option with its default and its check, in groups; the only place for either."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import nn

from .. import checks
from ..costs import CostLedger
from ..errors import InputError
from ..fusing import Fusion, fusion_of
from ..network import Outputs, check_storage, of_trainer
from ..proxies import Another, Kind, ProxyKind, Pruned, Pruning, Task, completed
from ..scorers import get_scorer
from ..training import Distillation, ShrinkPerturb, TorchTrainer
from ..types import RngLike, Scorer, Trainer, alterable, as_rng, epochs_of
from .answers import check_needs

WarmStart = bool | ShrinkPerturb
STAGES = ("prune", "train_proxy", "query", "train_target", "sync", "perturb")  # the order is part of what a seed means


@dataclass(frozen=True, eq=False, kw_only=True)
class Query:
    """How candidates are scored and picked; see `PrunedProxySelector`.

    Attributes:
        scorer: name in `SCORERS`, or any `Scorer`.
        candidate_fraction: share of the candidates that a query draws at random and scores.
        fold_batchnorm: fold BatchNorm into the layer before it where only logits are read.
        features_dtype: "float32" or "float16", of the features kept for all candidates at once.
        features_path: a .npy file for them.
    """

    scorer: Scorer = "margin"  # type: ignore[assignment]  # told by name, read as a scorer
    candidate_fraction: float = 1.0
    fold_batchnorm: bool = True
    features_dtype: str = "float32"
    features_path: str | os.PathLike[str] | None = None

    CHECKS: ClassVar[dict[str, Callable[[str, Any], Any]]] = {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """How the target is made of the proxy and the dense network; see `PrunedProxySelector`.

    Attributes:
        cross: what fusing does to the other weights, see `fuse`.
        distillation: a `Distillation` by which the proxy teaches the target.
        target_trainer: trains the target; None: `trainer`.
        fine_tune_lr_scale: factor on `trainer`'s learning rates after fusing; see `Options.rate_of_target`.
    """

    cross: str | float | Fusion = "auto"
    distillation: Distillation | None = None
    target_trainer: Trainer | None = None
    fine_tune_lr_scale: float | str | None = "auto"

    CHECKS: ClassVar[dict[str, Callable[[str, Any], Any]]] = {}


@dataclass(frozen=True, eq=False)
class Options(Pruning, Query, Target):
    """All options of a selector, checked and frozen; see `PrunedProxySelector`.

    Attributes:
        trainer: trains proxies and asks networks; None is `TorchTrainer()`.
        warm_start: how a round's proxy goes on from the last one.
        sync_every: rounds between targets from which proxies are cut (V2); None: V1.
        proxy: a kind of proxy, or another network; None: `Pruned` as the options of `Pruning` say. A `Pruned` sets
            these, and is None from then on.
        random_state: seed of everything; what its seeds derive from, a number, from then on.
    """

    trainer: Trainer = None  # type: ignore[assignment]  # a TorchTrainer() by the time it is read
    warm_start: WarmStart = False
    sync_every: int | None = None
    proxy: ProxyKind | nn.Module | None = None
    random_state: RngLike = None

    CHECKS: ClassVar[dict[str, Callable[[str, Any], Any]]] = {}

    def __post_init__(self) -> None:
        if isinstance(self.proxy, Pruned):
            checks.settle(self, **_once(self, self.proxy), proxy=None)
        super().__post_init__()
        for group in (Query, Target, Options):
            checks.settle(self, **{name: check(name, getattr(self, name)) for name, check in group.CHECKS.items()})
        self._check_together()
        checks.settle(self, warm_start=check_warm(self.warm_start, self.trainer))
        check_storage(self.features_dtype, self.features_path)

    @property
    def kind(self) -> Kind:
        """The kind of proxy."""
        if self.proxy is None:
            return Pruned(**{field.name: getattr(self, field.name) for field in fields(Pruning)})
        assert not isinstance(self.proxy, nn.Module)
        return completed(self.proxy)

    def task(
        self, ledger: CostLedger, dense: nn.Module, data: Any, round: int, *, n: int = 0, trainer: Trainer | None = None
    ) -> Task:
        """Return what a kind of proxy is lent in a round; a `trainer` that differs in what is asked of it, perhaps."""
        return Task(dense, trainer or self.trainer, data, n, round, ledger, self.seed)

    def fusion(self, dense: nn.Module) -> Fusion:
        """Return the way back into the dense network."""
        return fusion_of(self.cross, trained=self.trained(dense))

    def rate_of_target(self, dense: nn.Module) -> float:
        """Return the factor on `trainer`'s learning rates for a target.

        By itself half: a high rate throws away what the proxy learned, a low one leaves no time to go beyond it.
        Whoever brings a trained network gives a rate for fine-tuning already, and half of that leaves too little.
        """
        if isinstance(self.fine_tune_lr_scale, str):
            return 1.0 if self.trained(dense) else 0.5
        return self.fine_tune_lr_scale or 1.0

    @property
    def entropy(self) -> int:
        """The number that all seeds derive from."""
        assert isinstance(self.random_state, int)
        return self.random_state

    def seed(self, stage: str, number: int = 0) -> int:
        """Return the seed of a stage: the same in every process and, unless numbered, in every round."""
        return int(np.random.SeedSequence([self.entropy, STAGES.index(stage), number]).generate_state(1)[0])

    def _check_together(self) -> None:
        """Raise `InputError` for options that contradict one another."""
        if self.sync_importance is not None and self.sync_every is None:
            raise InputError(
                f"sync_importance={self.sync_importance!r} says how V2 prunes again; give sync_every= as well"
            )
        self._check_kind()
        teaches = self.target_trainer or self.trainer
        _check_outputs(of_trainer(self.trainer), of_trainer(self.target_trainer))
        if self.progressive is not None:
            self._check_progressive(self.progressive.epochs)
        if self.distillation is not None and not alterable(teaches, "distillation"):
            raise InputError(
                f"distillation= was given, but {type(teaches).__name__} has no `distillation` to set; "
                "pass a TorchTrainer, or a target_trainer that distils by itself"
            )

    def _check_kind(self) -> None:
        """Raise `InputError` for options of pruning beside a kind of proxy that is never pruned."""
        kind = self.kind
        kind.check(self.trainer, self.sync_every)
        if self.proxy is None:
            return
        given = {"progressive": self.progressive, "sync_importance": self.sync_importance}
        given |= {} if kind.syncs else {"sync_every": self.sync_every}
        name = next((name for name, value in given.items() if value is not None), None)
        if name is not None:
            raise InputError(
                f"{name}= prunes the dense network, and proxy= is another network: give one of the two"
                if isinstance(self.proxy, Another)
                else f"{name}= prunes the dense network, and proxy={self.proxy!r} never does: give one of the two"
            )

    def _check_progressive(self, last: int) -> None:
        name, epochs = type(self.trainer).__name__, epochs_of(self.trainer)
        if not checks.takes(self.trainer.fit, "on_epoch"):
            raise InputError(
                f"progressive= thins the proxy while it is trained, and {name}.fit takes no on_epoch: give it an "
                "argument on_epoch=None, and if that is not None call on_epoch(epoch, optimizer) before every epoch, "
                "from 0 (where it returns True, forget weights kept from earlier epochs)"
            )
        if epochs is not None and epochs <= last:
            raise InputError(
                f"progressive= ends after {last} epochs, but {name} trains for {epochs}: the last width "
                f"would not be trained; pass ProgressivePruning(epochs=...) below {epochs}, or train for longer"
            )


NAMES = tuple(field.name for field in fields(Options))
"""Every option by name: a selector takes all of them; who leaves some out lists them."""


def told(given: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return those of the `given` arguments that are options, all of which must be there but those left out."""
    return {name: given[name] for name in NAMES if name not in without}


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


def entropy_of(random_state: RngLike) -> int:
    """Return the number all seeds derive from; None draws a fresh one."""
    if isinstance(random_state, int | np.integer):
        what = "None, a whole number from 0, or a generator of numpy or torch: seeds start at 0"
        return checks.whole("random_state", random_state, least=0, what=what)
    return int(as_rng(random_state, "random_state").integers(2**63))


def _once(options: Options, kind: Pruned) -> dict[str, Any]:
    """Return the options that a `Pruned` sets, or raise `InputError` where one of them was given beside it."""
    for field in fields(Pruning):
        own, given = getattr(kind, field.name), getattr(options, field.name)
        if given is not own and given is not field.default:
            raise InputError(
                f"{field.name}= was given both to the selector and to proxy=Pruned(...); give it to Pruned alone"
            )
    return {field.name: getattr(kind, field.name) for field in fields(Pruning)}


def _check_outputs(proxy: Outputs | None, target: Outputs | None) -> None:
    if proxy is not None and target is not None and proxy.kind != target.kind:
        raise InputError(
            f"trainer trains networks whose outputs are {proxy.name!r} and target_trainer= such with "
            f"{target.name!r}, which nobody could read alike: give both a loss of the same kind of labels"
        )


def _scorer(name: str, scorer: Any) -> Scorer:
    found = get_scorer(scorer)
    check_needs(found)
    return found


def _cross(name: str, cross: Any) -> Any:
    fusion_of(cross)
    return cross if isinstance(cross, str) or callable(cross) else float(cross)


def _rate(name: str, factor: Any) -> float | str | None:
    if factor is None or (isinstance(factor, str) and factor == "auto"):
        return factor
    return checks.number(name, factor, above=0, what="a finite factor above 0, 'auto' or None")


def _path(name: str, path: Any) -> str | None:
    return checks.maybe(checks.path, name, path, "a .npy file in a folder that is there")


def _kind(name: str, proxy: Any) -> ProxyKind | None:
    if proxy is None:
        return None
    if isinstance(proxy, nn.Module) or not hasattr(proxy, "put_back"):
        return Another(proxy)
    what = "None, a network, or a kind of proxy: Pruned(...), Another(...), Dense() of prunefuse_al.proxies"
    if isinstance(proxy, type):
        raise checks.refused(name, proxy, what)
    checks.methods(name, proxy, ("cut", "prepare", "stale", "begin", "put_back"), what)
    found: ProxyKind = proxy
    return found


def _entropy(name: str, random_state: Any) -> int:
    return entropy_of(random_state)


Query.CHECKS |= {
    "scorer": _scorer,
    "candidate_fraction": partial(
        checks.number, above=0, most=1, what="the share of the candidates scored, 0 < share <= 1"
    ),
    "fold_batchnorm": checks.flag,
    "features_path": _path,
}
Target.CHECKS |= {
    "cross": _cross,
    "distillation": partial(checks.maybe, checks.instance, kind=Distillation, what="Distillation(...)"),
    "target_trainer": lambda name, trainer: None if trainer is None else check_trainer(name, trainer),
    "fine_tune_lr_scale": _rate,
}
Options.CHECKS |= {
    "trainer": lambda name, trainer: TorchTrainer() if trainer is None else check_trainer(name, trainer),
    "sync_every": partial(checks.maybe, checks.whole, least=1, what="a number of rounds from 1 (V2)"),
    "proxy": _kind,
    "random_state": _entropy,
}
CHECKS = Pruning.CHECKS | Query.CHECKS | Target.CHECKS | Options.CHECKS
"""Option -> `check(name, value)`, which returns it as it is used; what concerns two options stands in the classes."""
