"""What a training is told, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    compile_itself: bool
    progress: bool
    distillation: Distillation | None
    accelerator: Any
    num_workers: int
    grad_clip: float | None
    deterministic: bool
    seed: int
    collate: Collate | None
    metrics: dict[str, Any]
    callbacks: tuple[Any, ...]
    batchnorm: str


@dataclass(frozen=True)
class TrainingHistory:
    """What happened in a training.

    Attributes:
        epochs: one dict per epoch: "epoch" (from 1), "lr" (of the first parameter group), "loss" and "accuracy" while
            training, and where rows are held out "val_loss", "val_accuracy"; metrics by their names in the same way.
            Accuracy is NaN for soft targets and regression; of independent labels all must be right.
        best_epoch: the epoch whose weights the network has, with early stopping on held-out rows; else None (it has the
            last ones).
        stopped_early: patience ended before the epochs did.
        samples: rows presented in training, over all epochs and processes.
        seconds: wall time.
        compiled: by `TorchTrainer(compile="auto")`, steps went through a compiled network.
    """

    epochs: tuple[dict[str, float], ...]
    best_epoch: int | None
    stopped_early: bool
    samples: int
    seconds: float
    compiled: bool = False
