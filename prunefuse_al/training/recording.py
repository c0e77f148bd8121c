"""Keeping watch over a training: how every sample was answered, and states of the network along the way.

What is kept does not grow with the epochs: a few numbers per sample, and at most `snapshots` copies of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError, NotFittedError
from ..scorers import EARLY, Answers, answers

RECORDED = frozenset({"aum", "correct", "el2n", "forgetting"})
"""What the outputs of a training tell; the gradients of the last layer take a look at snapshots."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network at the end of an epoch of its training.

    Attributes:
        epoch: counted from 1.
        lr: learning rate of the first parameter group in that epoch.
        weights: its state dict, on the CPU.
    """

    epoch: int
    lr: float
    weights: dict[str, Tensor]


class Tally:
    """Training dynamics of n samples, one presentation after the other; a few numbers per sample are all it holds."""

    def __init__(self, n: int) -> None:
        self.times = torch.zeros(n, dtype=torch.int64)
        self._early = torch.zeros(n, dtype=torch.int64)
        self._right = torch.zeros(n, dtype=torch.int64)
        self._forgotten = torch.zeros(n, dtype=torch.int64)
        self._before = torch.zeros(n, dtype=torch.bool)
        self._margin = torch.zeros(n, dtype=torch.float64)
        self._error = torch.zeros(n, dtype=torch.float64)

    def add(self, rows: Tensor, answered: Answers, *, early: bool) -> None:
        """Count one presentation of `rows`, int64 [b], each at most once; `early` ones enter el2n."""
        correct = answered.correct
        self.times[rows] += 1
        self._right[rows] += correct.long()
        self._forgotten[rows] += (self._before[rows] & ~correct).long()
        self._before[rows] = correct
        self._margin[rows] += answered.margin.double()
        if early:
            self._early[rows] += 1
            self._error[rows] += answered.error.double()

    def dynamics(self) -> dict[str, Tensor]:
        """Return `RECORDED` by name, float64 [n] each; NaN for a sample that was never presented."""
        times = self.times.double()
        never_right = self._right == 0
        found = {
            "aum": self._margin,
            "correct": self._right / times,
            "el2n": self._error / self._early,
            "forgetting": torch.where(never_right, times, self._forgotten.double()),
        }
        return {name: torch.where(self.times > 0, values, torch.nan) for name, values in found.items()}


def _alone(values: Tensor) -> Tensor:
    return values


class Recorder:
    """Watches one training, from the forward passes it makes anyway; pass it to `TorchTrainer.fit`.

    A trainer of your own calls `begin`, then `see` for every batch and `end_epoch` after every epoch.

    Args:
        snapshots: how many states of the network to keep, at the ends of evenly spaced epochs; 0 keeps none.

    Attributes:
        snapshots: the states kept, oldest first.

    Example:
        >>> from prunefuse_al import TorchTrainer
        >>> from prunefuse_al.training import Recorder
        >>> X, y = torch.eye(4), torch.arange(4) % 2
        >>> with torch.random.fork_rng():
        ...     net = nn.Linear(4, 2)
        >>> recorder = Recorder()
        >>> _ = TorchTrainer(epochs=3, progress=False).fit(net, (X, y), recorder=recorder)
        >>> sorted(recorder.dynamics), [snapshot.epoch for snapshot in recorder.snapshots]
        (['aum', 'correct', 'el2n', 'forgetting'], [1, 2, 3])
    """

    def __init__(self, snapshots: int = 10) -> None:
        what = "how many states of the network to keep, 0 or more"
        snapshots = checks.whole("snapshots", snapshots, least=0, what=what)
        self.snapshots: tuple[Snapshot, ...] = ()
        self._limit = snapshots
        self._tally: Tally | None = None

    @property
    def dynamics(self) -> dict[str, Tensor]:
        """By name, float64 [n] each, row i of the dataset at i.

        "correct" is the share of presentations answered right, "forgetting" as `scorers.forgetting`, "aum" as
        `scorers.aum`, "el2n" as `scorers.el2n`. Rows never presented (held out by early stopping) are NaN.

        Raises:
            NotFittedError: nothing was trained with it.
        """
        return self._kept().dynamics()

    @property
    def presented(self) -> Tensor:
        """How often each row of the dataset was presented, int64 [n]."""
        return self._kept().times

    def begin(self, n: int, epochs: int) -> None:
        """Start again, for a dataset of n rows; called by a trainer before its first epoch.

        Raises:
            InputError: numbers that are not whole, or below 1.
        """
        n, epochs = checks.whole("n", n, least=1), checks.whole("epochs", epochs, least=1)
        self._tally, self.snapshots = Tally(n), ()
        self._kept_epochs = _evenly(epochs, self._limit)
        self._batches: list[tuple[Tensor, Tensor]] = []

    def see(self, rows: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch: rows of the dataset, int64 [b], logits [b c] and labels, int64 [b]; nothing is waited for.

        Raises:
            InputError: soft targets, or outputs that are not one row of classes per sample.
            NotFittedError: `begin` was not called before.
        """
        self._begun("see(rows, logits, labels)")
        if labels.ndim != 1 or labels.is_floating_point() or logits.ndim != 2 or logits.shape[1] < 2:
            raise InputError(
                f"training dynamics compare logits [n c] with the number of a class, and here logits are "
                f"{list(logits.shape)} and labels {labels.dtype} {list(labels.shape)}: train without a recorder"
            )
        logits, known = logits.detach(), (labels >= 0) & (labels < logits.shape[1])  # others are ignored by the loss
        found = answers(logits, labels.where(known, 0))
        columns = (known, found.correct, found.margin, found.error)
        kept = torch.stack([column.to(found.error.dtype) for column in columns]) * known  # [4 b]
        self._batches.append((rows, kept))

    def end_epoch(self, epoch: int, model: nn.Module, lr: float, total: Callable[[Tensor], Tensor] = _alone) -> None:
        """Count what was seen since the last call as epoch `epoch`, from 1.

        Args:
            epoch: its number.
            model: the network as it is now.
            lr: learning rate of the epoch.
            total: returns the sum of a tensor over all processes that train together.

        Raises:
            InputError: there was nothing to `see` in the epoch.
            NotFittedError: `begin` was not called before.
        """
        tally = self._begun("end_epoch(epoch, model, lr)")
        if not self._batches:
            raise InputError(f"end_epoch: no batch was seen in epoch {epoch}: call see(rows, logits, labels) for each")
        batches, self._batches = self._batches, []
        rows, columns = (torch.cat(parts, -1).cpu() for parts in zip(*batches, strict=True))
        sums = torch.zeros(4, len(tally.times), dtype=torch.float64).index_add_(1, rows, columns.double())  # [4 n]
        sums = total(sums)
        present = sums[0].nonzero()[:, 0]
        # A trainer of somebody's own may present a row twice in an epoch: it counts once, with its mean.
        correct, margin, error = sums[1:, present] / sums[0, present]
        tally.add(present, Answers(correct == 1, margin, error), early=epoch <= EARLY)
        if epoch in self._kept_epochs:
            weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            self.snapshots += (Snapshot(epoch, lr, weights),)

    def _begun(self, call: str) -> Tally:
        if self._tally is None:
            raise NotFittedError(
                f"Recorder.{call} was called before begin(n, epochs), which says how many rows and epochs come: a "
                "trainer calls it once, before its first epoch"
            )
        return self._tally

    def _kept(self) -> Tally:
        if self._tally is None:
            raise NotFittedError("nothing has been trained with this Recorder: pass it to TorchTrainer.fit(recorder=)")
        return self._tally


def _evenly(epochs: int, snapshots: int) -> frozenset[int]:
    """Return the ends of `snapshots` equal parts of `epochs`, each epoch at most once.

    Examples:
        >>> sorted(_evenly(20, 4)), sorted(_evenly(2, 10))
        ([5, 10, 15, 20], [1, 2])
    """
    return frozenset(-(-epochs * part // snapshots) for part in range(1, snapshots + 1))
