"""BatchNorm statistics after surgery: where they are wrong, and what they are estimated on again."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..costs import CostLedger
from ..network import recalibrate_batchnorm
from .options import Options


def batchnorms(model: nn.Module) -> list[Any]:
    """Return the BatchNorm layers of a network."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def trained_statistics(model: nn.Module) -> bool:
    """Tell whether BatchNorm statistics come from data: those of a wider network do not fit the proxy.

    Files written by other programs may hold statistics but no count of batches, so the values are looked at as well.
    """
    return any(
        bool(norm.num_batches_tracked) or bool(norm.running_mean.any()) or bool((norm.running_var != 1).any())
        for norm in batchnorms(model)
        if norm.running_mean is not None
    )


def recalibrate(options: Options, ledger: CostLedger, module: nn.Module, data: Any, row: tuple[str, str, int]) -> None:
    """Estimate the statistics of `module` in place, on the data set aside for that, else on `data`.

    A target keeps those that the user froze; a proxy's are its own, because those of the wider network do not fit it.

    Args:
        options: see `Options`.
        ledger: gets the row.
        module: the network.
        data: what is used when there is no `recalibration_data`.
        row: stage, network and round of the row.
    """
    name, role, number = row
    unlabelled = options.recalibration_data
    with ledger.stage(name, round=number, network=role) as stage:
        stage.watch(module)
        given, reading = data if unlabelled is None else unlabelled, _reading(options.trainer)
        recalibrate_batchnorm(module, given, keep_frozen=role == "target", **reading)


def _reading(trainer: Any) -> dict[str, Any]:
    """Return how `trainer` reads data for evaluation, as far as it says."""
    names = {
        "batch_size": "eval_batch_size",
        "device": "device",
        "transform": "eval_transform",
        "num_workers": "num_workers",
        "collate": "collate",
    }
    reading = {option: getattr(trainer, name, None) for option, name in names.items()}
    if getattr(trainer, "accelerator", None) is not None:
        reading["device"] = trainer.accelerator.device
    return {option: value for option, value in reading.items() if value is not None}
