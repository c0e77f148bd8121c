"""What of a selector goes into its file; `restoring` reads it back."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from torch import Tensor, nn

from ..costs import CostLedger, to_columns
from ..errors import CheckpointError
from ..fusing import epsilons
from ..network import state_tensors
from .architecture import architecture
from .checkpoint import write_file
from .encoding import encode
from .options import Options, State

MAP, COSTS = "channel_map", "costs"
ELSEWHERE = frozenset({"entropy", "example_inputs"})  # one has a place of its own, the other is taken from data
WRITES = frozenset({"features_path"})
"""Options that name what is written to: no file is asked for them, whoever made it."""


def save_selector(
    path: str | os.PathLike[str], options: Options, state: State, other: nn.Module | None, ledger: CostLedger
) -> None:
    """Write a selector; options that JSON cannot hold are listed by name, to be passed when loading."""
    plain, missing = _encodable(options)
    if other is not None:
        missing.append("proxy")
    columns, words = to_columns(ledger)
    tensors = state_tensors(state.dense, "dense/") | _under(COSTS, columns)
    start = None if state.start is state.dense else state.start
    for prefix, module in (("start/", start), ("trained/", state.trained), ("synced/", state.synced)):
        tensors |= {} if module is None else state_tensors(module, prefix)
    rest = None
    if state.channel_map is not None:
        indices, rest = state.channel_map.to_tensors()
        tensors |= _under(MAP, indices)
    config = {
        "options": plain,
        "missing": missing,
        "unsaved": sorted(name for name in WRITES if getattr(options, name) is not None),
        "entropy": options.entropy,
        "model": type(state.dense).__name__,
        "architecture": architecture(state.dense),
        "proxy_architecture": None if other is None else architecture(other),
        "round": state.round,
        "cut": state.start is not None,
        "epsilons": epsilons(state.dense),
        "synced_epsilons": None if state.synced is None else epsilons(state.synced),
        "channel_map": rest,
        "report": encode(state.report),
        "costs": words,
    }
    write_file(path, tensors, config)


def _encodable(options: Options) -> tuple[dict[str, Any], list[str]]:
    """Return the options that JSON can hold, and the names of the others."""
    plain: dict[str, Any] = {}
    missing: list[str] = []
    for field in dataclasses.fields(options):
        if field.name in ELSEWHERE | WRITES:
            continue
        try:
            plain[field.name] = encode(getattr(options, field.name))
        except CheckpointError:
            missing.append(field.name)
    return plain, missing


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}
