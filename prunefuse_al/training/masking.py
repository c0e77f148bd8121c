"""Learning which samples of a training set to keep, while a network trains on them: `AdaPruner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..data import PairedDataset, taken
from ..scorers import losses, mask_gradient
from .recording import Recorder, _alone

FIRST, LAST = 0.1, 5.0  # steepness at both ends of the training
START = 1.0


class MaskLearner(Recorder):
    """Moves a number for each row by what a training says about it, and weighs the rows by it in the next epoch.

    Args:
        n: rows.
        keep: the share of rows to keep.
        rate: see `AdaPruner`.

    Attributes:
        mask: float64 [n].
        weights: float64 [n], of the rows in the epoch that is trained; written to.
    """

    def __init__(self, n: int, keep: float, rate: float) -> None:
        super().__init__(snapshots=0)
        self.mask = torch.full((n,), START, dtype=torch.float64)
        self.weights = torch.sigmoid(FIRST * self.mask)
        self._keep, self._rate = keep, rate

    def begin(self, n: int, epochs: int) -> None:
        """Start, for so many epochs; see `Recorder`."""
        super().begin(n, epochs)
        self._before, self._seen, self._all = self.mask.clone(), 0, n * epochs

    def see(self, rows: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Move the mask of a batch; see `Recorder`."""
        super().see(rows, logits, labels)
        loss = losses(logits.detach().cpu(), labels.cpu())
        options = {"steepness": self._steepness(), "keep": self._keep, "share": float((self.mask > 0).double().mean())}
        self.mask[rows] -= self._rate * len(rows) * mask_gradient(loss, self.mask[rows], **options)
        self._seen += len(rows)

    def end_epoch(self, epoch: int, model: nn.Module, lr: float, total: Callable[[Tensor], Tensor] = _alone) -> None:
        """Weigh the rows of the next epoch; see `Recorder`."""
        super().end_epoch(epoch, model, lr, total)
        self.mask = self._before + total(self.mask - self._before)
        self._before = self.mask.clone()
        self.weights.copy_(torch.sigmoid(self._steepness() * self.mask))

    def _steepness(self) -> float:
        return FIRST + (LAST - FIRST) * min(1.0, self._seen / self._all)


class Weighed(PairedDataset):
    """A dataset whose rows count by weights that may change between epochs, times those they have."""

    def take(self, rows: Tensor) -> tuple[Any, Any, Any]:
        """Return (x, y, weight) of `rows`; see `PairedDataset`."""
        x, _, own = taken(self.dataset, rows)
        assert self.sample_weight is not None
        weights = self.sample_weight[rows]
        return x, self.y[rows], weights if own is None else weights * own

    def _paired(self, row: int, label: Tensor, parts: tuple[Any, Any, Any]) -> Any:
        x, y, weight = super()._paired(row, label, parts)
        return x, y, weight if parts[2] is None else weight * parts[2]
