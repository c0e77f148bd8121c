"""`Pruning`: what can be said of how proxies are cut, with every default and check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import nn

from .. import checks
from ..data import as_dataset
from ..errors import InputError
from ..network import check_example, looks_trained
from ..pruning import (
    WITH_DATA,
    GlobalScope,
    check_importance,
    check_parts,
    check_ratio,
    check_round_to,
    check_scope,
    repair,
)
from ..training import ProgressivePruning
from .ratios import PruningRatio


@dataclass(frozen=True, eq=False)
class Pruning:
    """How proxies are cut out of the dense network; see `PrunedProxySelector` for what each option means.

    Attributes:
        pruning_ratio: fraction of channels removed, 0 <= p < 1, or a function of the number of labelled samples.
        importance: which channels stay, see `prune`; "taylor", "hessian" and "gates" read labelled rows,
            "activation" on those of `unlabelled`, or what stands in for it. "auto" is "activation" where the network
            was trained before (and its proxy may be repaired), else "l2".
        sync_importance: the same where V2 cuts a trained target; None goes by `importance`, "same" keeps the channels.
        keep: what is never thinned, see `prune`.
        parts: "all", or "interiors" to keep residual streams whole, see `prune`.
        scope: "local", "global" or a `GlobalScope`, see `prune`.
        round_to: see `prune`.
        progressive: a `ProgressivePruning`, or None to prune at once.
        example_inputs: what the dense network takes, two rows; None takes them from data.
        recalibrate: estimate BatchNorm statistics again where they are wrong.
        recalibration_data: unlabelled data for that; None: the labelled data.
        pretrained: whether the dense network was trained before; "auto" goes by `looks_trained`. A proxy of one that
            was is repaired (see `repair`), which does what `recalibrate` does too.
        unlabelled: unlabelled data to repair on, and for importance="activation"; None: `recalibration_data`, else
            what there is to train on.
        repair: False to leave a pretrained network's proxy as it was cut; or keyword arguments of `repair`, such as
            ``{"distil": 4}``. Trainings of a repaired proxy begin with its head, see `with_first_head`.
    """

    pruning_ratio: PruningRatio = 0.5
    _: KW_ONLY
    importance: Any = "auto"
    sync_importance: Any = None
    keep: Any = ()
    parts: str = "all"
    scope: str | GlobalScope = "local"
    round_to: int | None = None
    progressive: ProgressivePruning | None = None
    example_inputs: Any = None
    recalibrate: bool = True
    recalibration_data: Any = None
    pretrained: bool | str = "auto"
    unlabelled: Any = None
    repair: bool | Mapping[str, Any] = True

    CHECKS: ClassVar[dict[str, Callable[[str, Any], Any]]] = {}

    def __post_init__(self) -> None:
        checks.settle(self, **{name: check(name, getattr(self, name)) for name, check in Pruning.CHECKS.items()})
        if self.recalibration_data is not None and not self.recalibrate:
            raise InputError("recalibration_data= was given with recalibrate=False; give one of the two")
        if self.progressive is not None and self.sync_importance is not None:
            raise InputError(
                f"progressive= chooses channels by `importance` while a proxy is trained, and sync_importance="
                f"{self.sync_importance!r} says how to choose before that: give one of the two"
            )

    def trained(self, dense: nn.Module) -> bool:
        """Tell whether the dense network counts as trained before."""
        return looks_trained(dense) if isinstance(self.pretrained, str) else self.pretrained


def _ratio(name: str, given: Any) -> PruningRatio:
    """Look at a number; what a function gives is looked at when the labels are counted."""
    if callable(given) and not isinstance(given, type):
        found: PruningRatio = given
        return found
    return check_ratio(name, given)


def _importance(name: str, measure: Any) -> Any:
    if not (isinstance(measure, str) and (measure == "auto" or measure in WITH_DATA)):  # there will be data
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


def _pretrained(name: str, given: Any) -> bool | str:
    if isinstance(given, str) and given == "auto":
        return given
    if not isinstance(given, bool | np.bool_):
        raise checks.refused(name, given, 'True, False, or "auto" to go by the network')
    return bool(given)


def _repair(name: str, given: Any) -> bool | Mapping[str, Any]:
    if isinstance(given, bool | np.bool_):
        return bool(given)
    if not isinstance(given, Mapping):
        what = "True, False, or a dict of keyword arguments of repair(), such as {'distil': 4}"
        raise checks.refused(name, given, what)
    taken = {key for key, p in inspect.signature(repair).parameters.items() if p.kind is p.KEYWORD_ONLY} - _SET_HERE
    unknown = sorted(map(str, given.keys() - taken))
    if unknown:
        raise InputError(f"repair={given!r}: there is no {unknown[0]!r} to set; known: {', '.join(sorted(taken))}")
    return dict(given)


_SET_HERE = {"device", "random_state", "transform", "collate", "num_workers"}
"""Arguments of `repair` that the trainer states, or the selector's seed gives."""
Pruning.CHECKS |= {
    "pruning_ratio": _ratio,
    "importance": _importance,
    "sync_importance": _sync_importance,
    "parts": check_parts,
    "scope": check_scope,
    "round_to": check_round_to,
    "progressive": partial(checks.maybe, checks.instance, kind=ProgressivePruning, what="ProgressivePruning(...)"),
    "example_inputs": _example,
    "recalibrate": checks.flag,
    "recalibration_data": _dataset,
    "pretrained": _pretrained,
    "unlabelled": _dataset,
    "repair": _repair,
}
