"""What a training is told, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..data import Collate
from ..network import Outputs
from .distillation import Distillation
from .stopping import EarlyStopping

MakeSchedule = Callable[[torch.optim.Optimizer], Any]


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, resolved and checked; see `TorchTrainer` for what the options mean.

    `stated`: what the outputs are was said by the user, and does not follow from the loss.
    """

    epochs: int
    batch_size: int
    eval_batch_size: int
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    make_schedule: MakeSchedule
    loss: Any
    outputs: Outputs | None
    stated: bool
    class_weight: Any
    transform: Any
    eval_transform: Any
    early_stopping: EarlyStopping | None
    validation: Any
    device: torch.device
    autocast: torch.dtype | None
    channels_last: bool
    compile_options: dict[str, Any] | None
    progress: bool
    distillation: Distillation | None
    accelerator: Any
    num_workers: int
    grad_clip: float | None
    deterministic: bool
    seed: int
    collate: Collate | None


@dataclass
class Outcome:
    """What a run leaves behind, besides the trained network."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False
    samples: int = 0
    seconds: float = 0.0
