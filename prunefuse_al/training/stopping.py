"""When to stop training: a held-out split, watched by a stated rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the held-out value has not improved by more than `min_delta` for `patience` epochs; keep the best.

    The network ends with the weights of its best epoch, the first one in a tie, whether or not it stopped early.

    Attributes:
        patience: epochs without improvement after which training stops, >= 1.
        validation_fraction: share of the rows held out, 0 < f < 1, at least one row; stratified by class where labels
            are at hand (not read from a foreign dataset) and every class has two rows and a place in the split.
        min_delta: what counts as an improvement, >= 0.
        monitor: "loss" (falls) or "accuracy" (rises), of the held-out rows.
        validation_data: held-out data of your own, in any form that `fit` takes; nothing is split off then.
    """

    patience: int = 10
    validation_fraction: float = 0.1
    min_delta: float = 0.0
    monitor: str = "loss"
    validation_data: Any = None

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InputError(f"patience={self.patience}; at least 1 epoch is needed")
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction={self.validation_fraction}; it must lie between 0 and 1")
        if not self.min_delta >= 0:
            raise InputError(f"min_delta={self.min_delta}; it must be >= 0")
        if self.monitor not in ("loss", "accuracy"):
            raise InputError(f"monitor={self.monitor!r}; it must be 'loss' or 'accuracy'")

    def split(self, n: int, labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        """Return (training rows, held-out rows), int64 and ascending, of n rows.

        Raises:
            InputError: fewer than two rows.
        """
        if n < 2:
            raise InputError(f"early stopping holds rows out for validation and the data has {n} row; pass at least 2")
        held = min(n - 1, max(1, round(n * self.validation_fraction)))
        strata = None
        if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
            counts = torch.unique(labels, return_counts=True)[1]
            if len(counts) <= min(held, n - held) and int(counts.min()) >= 2:
                strata = labels.numpy()
        rows, out = train_test_split(np.arange(n), test_size=held, stratify=strata, random_state=seed % 2**32)
        return torch.from_numpy(np.sort(rows)), torch.from_numpy(np.sort(out))


class Watch:
    """Follows the monitored value and says when to keep weights and when to stop."""

    def __init__(self, rule: EarlyStopping) -> None:
        self.rule, self.best, self.best_epoch = rule, math.inf, 0

    def improved(self, epoch: int, loss: float, accuracy: float) -> bool:
        """Record epoch `epoch` (from 1); True if it is the best so far."""
        value = loss if self.rule.monitor == "loss" else -accuracy
        if self.best_epoch and not value < self.best - self.rule.min_delta:
            return False
        self.best, self.best_epoch = value, epoch
        return True

    def exhausted(self, epoch: int) -> bool:
        """Return whether patience ended with epoch `epoch` (from 1)."""
        return epoch - self.best_epoch >= self.rule.patience
