"""How channels are scored: by a named measure, by a function of the weights, or by what is seen on data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from .. import checks
from ..errors import InputError
from .activation import Activation, Consumers
from .channel_gates import Gates
from .elimination import eliminated
from .groups import Structure
from .measures import MEASURES, Subject, added, mean_one, owned_sums
from .sensitivity import Hessian, Sensitivity, Taylor

Importance = str | Callable[[str, Tensor, int], Tensor] | Taylor | Hessian | Activation | Gates
WITH_DATA: dict[str, type[Taylor] | type[Hessian] | type[Activation] | type[Gates]] = {
    "activation": Activation,
    "gates": Gates,
    "hessian": Hessian,
    "taylor": Taylor,
}

_WITH_DATA = (Taylor, Hessian, Activation, Gates)


def check_importance(importance: Importance, name: str = "importance") -> None:
    """Raise `InputError` unless `importance` is a known name, an object with data or a callable; `name` is its own."""
    if isinstance(importance, str) and importance in WITH_DATA:
        kind, labelled = WITH_DATA[importance], WITH_DATA[importance] is not Activation
        what, given = ("labelled data", "inputs, labels") if labelled else ("unlabelled data", "inputs")
        raise InputError(
            f"{name}={importance!r} needs a batch of {what}: pass {name}={kind.__name__}({given}) from "
            f"prunefuse_al.pruning (a PrunedProxySelector takes the name and uses its {what})"
        )
    known = sorted([*MEASURES, *WITH_DATA])
    if isinstance(importance, _WITH_DATA) or (isinstance(importance, str) and importance in known):
        return
    if not callable(importance) or isinstance(importance, type):
        raise checks.refused(name, importance, f"one of {known} or a callable(name, tensor, dim)")


def measured(importance: Importance, model: nn.Module) -> Importance | Sensitivity | Consumers:
    """Return what data says about `model` where the measure reads data, else the measure itself."""
    return importance.measure(model) if isinstance(importance, _WITH_DATA) else importance


def channel_scores(
    importance: Importance | Sensitivity | Consumers, model: nn.Module, found: Structure, rng: np.random.Generator
) -> np.ndarray:
    """Score each component of atoms (a channel with everything it owns).

    Args:
        importance: what `measured` returned: a name in `MEASURES`; a callable (name, tensor, dim) -> float [size], one
            score for each position of that dimension; a `Sensitivity` or `Consumers`; or `Gates`.
        model: the network.
        found: its channels.
        rng: used by "random".

    Returns:
        float64 [number of components], higher is more important, comparable between groups.

    Raises:
        InputError: a callable returned another shape, or nothing carries what the measure reads.
        NonFiniteError: NaN or infinity in weights or scores.
    """
    subject = Subject(model, found, rng)
    if isinstance(importance, Consumers):
        return eliminated(importance.layers, subject)
    if isinstance(importance, Gates):
        return importance.learnt(subject)
    if isinstance(importance, Sensitivity):
        sums = owned_sums(subject, importance.entries)
        return sums**2 if importance.squared else sums
    if isinstance(importance, str):
        return MEASURES[importance](subject)
    assert callable(importance)
    return mean_one(subject, added(subject, importance))
