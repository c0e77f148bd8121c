"""What of a selector goes into its file, and how it comes back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..channel_map import ChannelMap
from ..checkpoint import decode, encode, load_state, read_file, state_tensors, write_file
from ..copying import copied
from ..costs import CostLedger
from ..errors import CheckpointError, PruneFuseError
from ..preserving import epsilons, set_epsilons
from ..pruning import rebuild
from .options import Options, State

_MAP = "channel_map/"


@dataclass(frozen=True, eq=False)
class Saved:
    """A selector's parts as read from a file: constructor `options`, and what they do not hold."""

    options: dict[str, Any]
    entropy: int
    state: State
    ledger: CostLedger


def save_selector(
    path: str | os.PathLike[str], options: Options, state: State, other: nn.Module | None, ledger: CostLedger
) -> None:
    """Write a selector; options that JSON cannot hold are listed by name, to be passed when loading."""
    plain, missing = _encodable(options)
    if other is not None:
        missing.append("proxy")
    tensors = state_tensors(state.dense, "dense/")
    start = None if state.start is state.dense else state.start
    for prefix, module in (("start/", start), ("trained/", state.trained), ("synced/", state.synced)):
        tensors |= {} if module is None else state_tensors(module, prefix)
    rest = None
    if state.channel_map is not None:
        indices, rest = state.channel_map.to_tensors()
        tensors |= {_MAP + name: value for name, value in indices.items()}
    config = {
        "options": plain,
        "missing": missing,
        "entropy": options.entropy,
        "model": type(state.dense).__name__,
        "round": state.round,
        "cut": state.start is not None,
        "epsilons": epsilons(state.dense),
        "synced_epsilons": None if state.synced is None else epsilons(state.synced),
        "channel_map": rest,
        "report": encode(state.report),
        "costs": ledger.to_dicts(),
    }
    write_file(path, tensors, config)


def _encodable(options: Options) -> tuple[dict[str, Any], list[str]]:
    """Return the options that JSON can hold, and the names of the others."""
    plain: dict[str, Any] = {}
    missing: list[str] = []
    for field in dataclasses.fields(options):
        if field.name in ("entropy", "example_inputs"):  # one has a place of its own, the other is taken from data
            continue
        try:
            plain[field.name] = encode(getattr(options, field.name))
        except CheckpointError:
            missing.append(field.name)
    return plain, missing


def load_selector(path: str | os.PathLike[str], model: nn.Module, given: Mapping[str, Any]) -> Saved:
    """Read a selector's file for a network of the same architecture; nothing is changed if any part does not fit."""
    tensors, config = read_file(path)
    try:
        return _unpack(f"load({str(path)!r})", tensors, config, model, given)
    except CheckpointError:
        raise
    except (PruneFuseError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"load({str(path)!r}): the file does not describe a selector ({error!r})") from error


def _unpack(
    where: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], model: nn.Module, given: Mapping[str, Any]
) -> Saved:
    lacking = [name for name in config["missing"] if name not in given]
    if lacking:
        calls = ", ".join(f"{name}=..." for name in lacking)
        raise CheckpointError(f"{where}: JSON could not hold {' and '.join(lacking)}; pass {calls} to load()")
    if config["model"] != type(model).__name__:
        raise CheckpointError(
            f"{where}: the file is of a {config['model']}, the model is a {type(model).__name__}; "
            "build the network that was saved"
        )
    dense = load_state(copied(model), tensors, "dense/", "model")
    options = {name: decode(value) for name, value in config["options"].items()}
    set_epsilons(dense, config["epsilons"])
    state = _read_state(tensors, config, dense, given.get("proxy"))
    return Saved({**options, **given}, config["entropy"], state, CostLedger.from_dicts(config["costs"]))


def _read_state(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], dense: nn.Module, other: nn.Module | None
) -> State:
    if not config["cut"]:
        return State(dense, round=config["round"])
    channel_map = None
    if config["channel_map"] is not None:
        indices = {name.removeprefix(_MAP): value for name, value in tensors.items() if name.startswith(_MAP)}
        channel_map = ChannelMap.from_tensors(indices, config["channel_map"])
    shape = copied(other) if other is not None else rebuild(dense, channel_map) if channel_map else None
    if shape is None:
        raise CheckpointError("load(): the file was saved with proxy=; pass that network to load()")
    start = dense  # a proxy that is thinned while it is trained starts as wide
    if _holds(tensors, "start/"):
        start = load_state(copied(shape), tensors, "start/", "proxy")
    trained = load_state(shape, tensors, "trained/", "proxy") if _holds(tensors, "trained/") else None
    synced = None
    if config["synced_epsilons"] is not None:
        synced = load_state(copied(dense), tensors, "synced/", "target")
        set_epsilons(synced, config["synced_epsilons"])
    return State(dense, start, channel_map, decode(config["report"]), trained, config["round"], synced)


def _holds(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)
