"""BatchNorm statistics after surgery: where they are wrong, and what they are estimated on again."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..network import recalibrate_batchnorm
from ..types import Trainer, statement


def batchnorms(model: nn.Module) -> list[Any]:
    """Return the BatchNorm layers of a network."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def recalibrate(module: nn.Module, data: Any, trainer: Trainer, *, keep_frozen: bool = False) -> None:
    """Estimate the statistics of `module` in place on `data`, read as a trainer reads data for evaluation.

    Args:
        module: the network.
        data: unlabelled or labelled, at most 10,000 rows are read.
        trainer: states how data is read.
        keep_frozen: keep the statistics that the user froze, as a target does; a proxy's are its own, because those of
            the wider network do not fit it.
    """
    said = statement(trainer)
    reading = {
        "batch_size": said.eval_batch_size,
        "device": said.device if said.accelerator is None else said.accelerator.device,
        "transform": said.eval_transform,
        "num_workers": said.num_workers,
        "collate": said.collate,
    }
    given = {option: value for option, value in reading.items() if value is not None}
    recalibrate_batchnorm(module, data, keep_frozen=keep_frozen, **given)
