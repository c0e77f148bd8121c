"""What of a selector goes into its file; `restoring` reads it back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..costs import CostLedger, to_columns
from ..errors import CheckpointError
from ..fusing import epsilons
from ..network import state_tensors
from ..proxies import Another
from ..pruning import Proxy
from .architecture import architecture
from .checkpoint import write_file
from .encoding import encode
from .options import Options
from .state import State, Trained

MAP, COSTS, TARGET = "channel_map", "costs", "target"
ELSEWHERE = frozenset({"random_state", "example_inputs", "unlabelled"})  # has a place of its own, or is data
WRITES = frozenset({"features_path"})
"""Options that name what is written to: no file is asked for them, whoever made it."""


@dataclass(frozen=True, eq=False)
class Beside:
    """What an estimator keeps in the file of its selector.

    Attributes:
        words: what it knows, JSON-able.
        target: its fused and fine-tuned network, of the dense network's architecture; None where there is none.
    """

    words: Mapping[str, Any]
    target: nn.Module | None = None


def save_selector(
    path: str | os.PathLike[str], options: Options, state: State, ledger: CostLedger, beside: Beside | None = None
) -> None:
    """Write a selector; options that JSON cannot hold are listed by name, to be passed when loading."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    plain, missing = encodable(
        (name, value)
        for name, value in given.items()
        if name not in ELSEWHERE | WRITES and not (name == "proxy" and value is None)  # then it is a pruned one
    )
    columns, words = to_columns(ledger)
    tensors = state_tensors(state.dense, "dense/") | _under(COSTS, columns)
    rest = report = synced = None
    repaired: list[str] = []
    if isinstance(state, Trained):
        start, synced = state.start.module, state.synced
        for prefix, module in (("start/", start), ("trained/", state.proxy.module), ("synced/", synced)):
            tensors |= {} if module is None or module is state.dense else state_tensors(module, prefix)
        if isinstance(state.proxy, Proxy):
            report, repaired = state.proxy.report(), sorted(state.proxy.repaired or ())
            indices, rest = state.proxy.channel_map.to_tensors()
            tensors |= _under(MAP, indices)
    config = {
        "options": plain,
        "missing": missing,
        "unsaved": sorted(name for name in WRITES if getattr(options, name) is not None),
        "entropy": options.entropy,
        "model": type(state.dense).__name__,
        "architecture": architecture(state.dense),
        "frozen": sorted(name for name, p in state.dense.named_parameters() if not p.requires_grad),
        "proxy_architecture": architecture(options.proxy.network) if isinstance(options.proxy, Another) else None,
        "round": state.round,
        "cut": isinstance(state, Trained),
        "epsilons": epsilons(state.dense),
        "synced_epsilons": None if synced is None else epsilons(synced),
        "channel_map": rest,
        "report": encode(report),
        "repaired": repaired,
        "costs": words,
    }
    if beside is not None:
        tensors |= {} if beside.target is None else state_tensors(beside.target, TARGET + "/")
        found = None if beside.target is None else epsilons(beside.target)
        config["beside"] = {"words": dict(beside.words), "epsilons": found}
    write_file(path, tensors, config)


def encodable(options: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the options that JSON can hold, and the names of the others."""
    plain: dict[str, Any] = {}
    missing: list[str] = []
    for name, value in options:
        try:
            plain[name] = encode(value)
        except CheckpointError:
            missing.append(name)
    return plain, missing


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}
