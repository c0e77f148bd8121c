"""Options as JSON and back: plain values, and objects of the classes in one table; a file can make nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckpointError, PruneFuseError
from ..fusing import Copy, Delta, Preserve
from ..proxies import IN_MEMORY, Dense, FallingRatio, Probe
from ..pruning import Activation, Gates, GlobalScope, Hessian, Imitation, LayerWidth, PruningReport, Taylor
from ..scorers import SCORERS
from ..training import (
    Compose,
    Constant,
    Cosine,
    Distillation,
    EarlyStopping,
    Normalize,
    PerSample,
    ProgressivePruning,
    RandomCropFlip,
    ShrinkPerturb,
    Steps,
    TorchTrainer,
)

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *SCORERS.values(),
        TorchTrainer,
        Distillation,
        EarlyStopping,
        ProgressivePruning,
        ShrinkPerturb,
        FallingRatio,
        Dense,
        Probe,
        Preserve,
        Copy,
        Delta,
        GlobalScope,
        Imitation,
        Activation,
        Taylor,
        Hessian,
        Gates,
        Constant,
        Cosine,
        Steps,
        Compose,
        Normalize,
        PerSample,
        RandomCropFlip,
        PruningReport,
        LayerWidth,
    )
}
"""Every class whose objects a file may hold: what an option may be made of, and what `prune` reports. `CostAware` is
not among them: it holds an array of the size of the pool, and is asked for."""
_COLLECTIONS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_MOST_STEPS = 10_000  # of progressive pruning, each of which is worked out when it is made
_PLAIN = (str, int, float, bool, type(None))


def encode(value: Any) -> Any:
    """Return a JSON-able form of an option, from which `decode` makes an equal one.

    Plain values, lists, tuples, sets and dicts of them, and objects of the classes in `KINDS` have one.

    Raises:
        CheckpointError: there is none, for example for a function.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, list):
        return [encode(item) for item in value]
    if _COLLECTIONS.get(type(value).__name__) is type(value):
        return {"as": type(value).__name__, "items": [encode(item) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"as": "dict", "items": {key: encode(item) for key, item in value.items()}}
    if KINDS.get(type(value).__name__) is type(value):
        fields = _fields(value)
        _refuse(type(value), fields)
        return {"as": type(value).__name__, "items": {key: encode(item) for key, item in fields.items()}}
    raise CheckpointError(f"{value!r} cannot be written as JSON")


def decode(value: Any) -> Any:
    """Return the option that `encode` wrote, made by the constructors, which check it.

    Raises:
        CheckpointError: it names a class that is not in `KINDS`, or is nothing that its class takes.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"as", "items"} or not isinstance(value["as"], str):
        raise CheckpointError(f"load(): the file holds {str(value)[:200]}, which is no option")
    kind, items = value["as"], value["items"]
    try:
        if kind in _COLLECTIONS:
            return _COLLECTIONS[kind](decode(item) for item in items)
        fields = {key: decode(item) for key, item in items.items()}
        if kind == "dict":
            return fields
        _refuse(_class(kind), fields)
        return _class(kind)(**fields)
    except CheckpointError:
        raise
    except (PruneFuseError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"load(): the file holds what {kind} does not take: {error}") from error


def _class(name: str) -> type:
    """Return the class of that name; files of version 1 name a module of this library before it."""
    module, _, kind = name.rpartition(":")
    if kind not in KINDS or module.partition(".")[0] not in ("", __name__.partition(".")[0]):
        raise CheckpointError(f"load(): the file names {name!r}, which is no class that an option can be made of")
    return KINDS[kind]


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    parameters: dict[str, Any] = value.get_params(deep=False)
    return parameters


def _refuse(kind: type, fields: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for what no file may ask for: files to write, which a compiler's options can name, and
    work that does not end before anything is checked.
    """
    if kind is TorchTrainer and isinstance(fields.get("compile"), dict):
        raise CheckpointError(f"compile={fields['compile']!r} is not taken from a file; pass the trainer to load()")
    if kind is Probe and fields.get("features", "memory") not in IN_MEMORY:
        raise CheckpointError(f"features={fields['features']!r} is not taken from a file; pass proxy= to load()")
    steps = fields.get("steps")
    if kind is ProgressivePruning and isinstance(steps, int | float) and steps > _MOST_STEPS:
        raise CheckpointError(f"steps={steps!r} is not taken from a file; pass progressive= to load()")
