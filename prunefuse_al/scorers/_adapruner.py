"""AdaPruner: a mask over the samples that is learnt along with the network (Yang et al., 2023, arXiv 2312.05599)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import Signals
from ._given import given_column
from ._loss_band import pushed_out
from ._ranker import Ranker
from ._select import read_dynamics

MASK = "adapruner"
"""What the learnt mask is called among training dynamics."""


def mask_gradient(loss: Tensor, mask: Tensor, *, steepness: float, keep: float, share: float) -> Tensor:
    """Return the gradient of AdaPruner's objective in the mask of a batch, by its code.

    With s = sigmoid(steepness mask) it is that of mean(l s) + mean(-ln(l + 1e-5) s) + L (mean(s) - keep)^2, where
    L = 1 + 50 |share - keep| is looked at as a number.

    Args:
        loss: float [b], l of each row.
        mask: float [b], one free number for each row.
        steepness: above 0.
        keep: the share of all rows to keep, above 0 and at most 1.
        share: that of rows whose mask is above 0 now, 0 to 1.

    Returns:
        float64 [b].

    Raises:
        InputError: shapes that do not fit, or numbers out of range.

    Examples:
        >>> loss, mask = torch.tensor([0.1, 1.0, 3.0]), torch.ones(3)
        >>> mask_gradient(loss, mask, steepness=2, keep=0.5, share=1).round(decimals=4)
        tensor([1.5542, 1.4560, 1.5191], dtype=torch.float64)
    """
    loss = given_column("mask_gradient", "loss", loss).double()
    mask = given_column("mask_gradient", "mask", mask, rows=len(loss)).double().to(loss.device)
    steepness = checks.number("mask_gradient: steepness", steepness, above=0)
    keep = checks.number("mask_gradient: keep", keep, above=0, most=1)
    share = checks.number("mask_gradient: share", share, least=0, most=1)
    if not len(loss) or float(loss.min()) < 0:
        found = f"holds {float(loss.min())}" if len(loss) else "is of 0 rows"
        raise InputError(f"mask_gradient: loss {found}; pass one of each row, none below 0")
    s = torch.sigmoid(steepness * mask)
    outward = pushed_out(loss) + 2 * (1 + 50 * abs(share - keep)) * (s.mean() - keep)
    return outward * steepness * s * (1 - s) / len(loss)


@dataclass(frozen=True)
class AdaPruner(Ranker):
    """Keeps the samples that a mask learnt with the network keeps; see `mask_gradient`. In `coreset` alone.

    The proxy is trained as ever, and then goes on for `epochs` with each row weighted by sigmoid(t m) of its own m,
    which starts at 1 and follows `mask_gradient`. The k largest m are kept. Those of the released code lie at positions
    in a shuffled epoch, tied to no row; a row is kept where m > 0, which misses the wanted share; weight decay pulls m
    there; and the mask is chosen by test accuracy. Here m belongs to its row and is not decayed, the share is that of
    all rows, t rises evenly from 0.1 to 5, weights are those of the epoch's start and of mean 1, as a trainer's
    weighted mean has it, and the last mask counts. The scores of picks are their m: the mask itself would keep those
    above 0. On a pool nothing can be trained on: take `loss_band`.

    Attributes:
        epochs: how many with the mask. The code takes 200.
        rate: by how much of its gradient, times the rows of a batch, a row's m moves whenever it is presented. The
            code's rate and momentum come to 0.004 in batches of 256, and so in 200 epochs as far as 0.08 in 10.
    """

    epochs: int = 10
    rate: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"dynamics"})
    dynamics: ClassVar[frozenset[str]] = frozenset({MASK})

    def __post_init__(self) -> None:
        checks.settle(
            self,
            epochs=checks.whole("AdaPruner: epochs", self.epochs, least=1),
            rate=checks.number("AdaPruner: rate", self.rate, above=0),
        )

    def score(self, signals: Signals) -> Tensor:
        """Return the mask, float [n]; higher means keep it sooner."""
        return read_dynamics("AdaPruner", signals, MASK)


def masks_in(scorer: Any) -> Iterator[AdaPruner]:
    """Yield what learns a mask in a scorer: itself, or parts of it."""
    if isinstance(scorer, AdaPruner):
        yield scorer
    for part in getattr(scorer, "parts", ()):
        yield from masks_in(part)
