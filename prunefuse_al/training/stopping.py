"""When to stop training: a held-out split, or the training loss, watched by a stated rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from .. import checks
from ..data import to_dataset
from ..errors import InputError


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the watched value has not improved by more than `min_delta` for `patience` epochs; keep the best.

    The network ends with the weights of its best epoch, the first one in a tie, whether or not it stopped early. With
    ``monitor="train_loss"`` nothing is held out, which few labels cannot spare: training stops when that loss no longer
    falls, and the network keeps its last weights, because the training loss does not tell which were best. It falls a
    little almost always, so give a `min_delta`.

    Whatever is watched, a schedule made for all epochs is cut off where it stands, maybe at a high rate, and much of
    the accuracy comes at its end: with a cosine over 30 epochs a patience of 3 cost 7 to 12 points
    (`examples/paper/results`). ``scheduler="constant"`` suits it better; to save training, give fewer `epochs`, which
    the schedule follows.

    Attributes:
        patience: epochs without improvement after which training stops, >= 1.
        validation_fraction: share of the rows held out, 0 < f < 1, at least one row; stratified by class where labels
            are at hand (not read from a foreign dataset) and every class has two rows and a place in the split.
        min_delta: what counts as an improvement, >= 0.
        monitor: "loss" (falls) or "accuracy" (rises), of the held-out rows; "train_loss" (falls), the mean over the
            epoch of what is minimised.
        validation_data: held-out data of your own, in any form that `fit` takes; nothing is split off then.
    """

    patience: int = 10
    validation_fraction: float = 0.1
    min_delta: float = 0.0
    monitor: str = "loss"
    validation_data: Any = None

    def __post_init__(self) -> None:
        what, held = "the share of the rows held out, between 0 and 1", self.validation_fraction
        checks.settle(
            self,
            patience=checks.whole("patience", self.patience, least=1, what="how many epochs to wait, at least 1"),
            validation_fraction=checks.number("validation_fraction", held, above=0, below=1, what=what),
            min_delta=checks.number("min_delta", self.min_delta, least=0),
        )
        checks.one_of("monitor", self.monitor, ("loss", "accuracy", "train_loss"))
        if self.validation_data is not None:
            to_dataset(self.validation_data)  # refused at the door
        if self.monitor == "train_loss" and self.validation_data is not None:
            raise InputError(
                "monitor='train_loss' watches the training data, and validation_data= was given: leave it out, or "
                "pass monitor='loss'"
            )

    @property
    def keeps_best(self) -> bool:
        """Whether the network goes back to its best epoch: what is watched is of data it was not trained on."""
        return self.monitor != "train_loss"

    @property
    def holds_out(self) -> bool:
        """Whether rows are split off the training data."""
        return self.keeps_best and self.validation_data is None

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

    def improved(self, row: Mapping[str, float]) -> bool:
        """Record an epoch by its row of the history; True if it is the best so far."""
        name, epoch = {"train_loss": "loss"}.get(self.rule.monitor, f"val_{self.rule.monitor}"), int(row["epoch"])
        value = -row[name] if self.rule.monitor == "accuracy" else row[name]
        if math.isnan(value):  # a loss that is no number stops the training itself
            raise InputError(
                f"monitor={self.rule.monitor!r}, and soft targets or values have no accuracy: pass monitor='loss'"
            )
        if self.best_epoch and not value < self.best - self.rule.min_delta:
            return False
        self.best, self.best_epoch = value, epoch
        return True

    def exhausted(self, epoch: int) -> bool:
        """Return whether patience ended with epoch `epoch` (from 1)."""
        return epoch - self.best_epoch >= self.rule.patience
