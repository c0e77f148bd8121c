"""Where modules stood before they moved into rooms: imports of old paths, and pickles made with them, go on working."""

from __future__ import annotations

import sys
from importlib import import_module

MOVED = {
    "advisor.inputs": "advisor.arguments",
    "advisor.plan": "advisor.loop_costs",
    "architecture": "selector.architecture",
    "arrays": "data.arrays",
    "channel_map": "fusing.channel_map",
    "checkpoint": "selector.checkpoint",
    "copying": "network.copying",
    "cost_columns": "costs.columns",
    "counting": "costs.counting",
    "dropout": "network.dropout",
    "endings": "network.endings",
    "estimator.inputs": "estimator.conversion",
    "example_signals": "testing.examples",
    "files": "data.files",
    "forward": "network.forward",
    "freezing": "network.freezing",
    "fusion": "fusing.fusion",
    "heads": "network.heads",
    "indexing": "fusing.indexing",
    "items": "data.items",
    "kinds": "network.kinds",
    "loading": "data.loading",
    "map_files": "fusing.map_files",
    "measuring": "costs.stages",
    "model_checks": "network.model_checks",
    "outputs": "network.outputs",
    "precision": "network.precision",
    "preserving": "fusing.preserving",
    "pruning.atoms": "pruning.trace.atoms",
    "pruning.contractions": "pruning.trace.contractions",
    "pruning.example": "network.example",
    "pruning.labels": "pruning.trace.marks",
    "pruning.lookups": "pruning.trace.lookups",
    "pruning.plan": "pruning.groups",
    "pruning.rules": "pruning.trace.rules",
    "pruning.shuffles": "pruning.trace.shuffles",
    "pruning.statistics": "pruning.trace.replay",
    "pruning.tracing": "pruning.trace.tracing",
    "rng": "data.randomness",
    "scorer_checks": "testing.scorer_checks",
    "selector.importance": "proxies.labelled_importance",
    "selector.progressive": "proxies.thinning",
    "selector.statistics": "proxies.reestimating",
    "selector.ratios": "proxies.ratios",
    "selector.scoring": "selector.answers",
    "selector.steps": "selector.rounds",
    "selector.tracing": "selector.watching",
    "signals": "network.signals",
    "states": "network.states",
    "storage": "network.storage",
    "tables": "costs.tables",
    "training.batchnorm": "network.batchnorm",
    "training.presets": "training.recipes",
    "training.warm": "training.shrink_perturb",
    "turns": "data.turns",
}
"""Old path -> new one, both inside the package."""


def keep_old_paths() -> None:
    """Make every old path name the module that took its place."""
    for old, new in MOVED.items():
        module = import_module(f"{__package__}.{new}")
        room, _, name = f"{__package__}.{old}".rpartition(".")
        sys.modules[f"{room}.{name}"] = module
        setattr(sys.modules[room], name, module)
