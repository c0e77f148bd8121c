"""What `PruneFuseEstimator` uses when no network is given: a small multilayer perceptron for tables."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..training import TorchTrainer
from .sparse import SparseRows

HIDDEN = (100, 100)


class Standardize(nn.Module):
    """Centres and scales each column by fixed statistics; constant columns become 0.

    Args:
        X: float [n d], or `SparseRows`: what the statistics are taken from.
        sample_weight: [n], or None.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, X: Any, sample_weight: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__()
        if isinstance(X, SparseRows):
            mean, deviation = X.moments(sample_weight)
        else:
            X = X.astype(np.float64)
            mean = np.average(X, axis=0, weights=sample_weight)
            deviation = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=sample_weight))
        constant = deviation <= 1e-10 * np.maximum(np.abs(mean), 1)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(np.where(constant, 0, 1 / np.where(constant, 1, deviation))))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [b d], standardised."""
        return (x - self.mean) * self.scale


def mlp(X: Any, n_classes: int, sample_weight: np.ndarray[Any, Any] | None = None) -> nn.Module:
    """Return a double-precision perceptron sized and scaled from a table [n d]; weights from torch's generator."""
    widths = (X.shape[1], *HIDDEN)
    layers: list[nn.Module] = [Standardize(X, sample_weight)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_classes, dtype=torch.float64))


def table_trainer(loss: Any = "cross_entropy") -> TorchTrainer:
    """Return the trainer for tables: Adam, 100 epochs in batches of 256, so that a small table is one batch."""
    options: dict[str, Any] = {
        "loss": loss,
        "optimizer": "adam",
        "lr": 0.005,
        "weight_decay": 1e-4,
        "device": "cpu",
        "progress": False,
    }
    return TorchTrainer(100, 256, **options)
