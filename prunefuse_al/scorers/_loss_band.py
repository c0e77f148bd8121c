"""What AdaPruner's mask keeps where nothing is trained: samples whose loss is neither small nor large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..types import Signals
from ._given import given_labels, given_logits
from ._ranker import Ranker
from ._select import in_blocks, read_labels, read_logits

_LEAST = 1e-5  # of AdaPruner's code


def loss_band(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ln(l + 1e-5) - l, with l the cross-entropy of each sample: highest, about -1, at a loss of 1.

    Both terms of AdaPruner's objective (Yang et al., 2023, arXiv 2312.05599, by its code) push a sample out of its mask
    by l - ln(l + 1e-5); with losses as they are, its mask keeps the smallest of these. That is another method, without
    training, and has another name. Very easy samples go first, then very hard ones. By predicted labels it keeps those
    whose largest probability is nearest to 1/e; of two classes that is least confidence.

    Args:
        logits: float [n c], c >= 2.
        labels: int64 [n], given or predicted.

    Returns:
        float64 [n]; higher means keep it sooner.

    Raises:
        InputError: shapes that do not fit, or labels that are no classes.

    Examples:
        >>> q = torch.tensor([[-0.1], [-1.0], [-3.0]]).exp()
        >>> loss_band(torch.cat([q, 1 - q], 1).log(), torch.zeros(3, dtype=torch.int64)).round(decimals=3)
        tensor([-2.4020, -1.0000, -1.9010], dtype=torch.float64)
    """
    logits = given_logits("loss_band", logits)
    labels = given_labels("loss_band", labels, len(logits), logits.shape[1]).to(logits.device)
    return -pushed_out(losses(logits.detach(), labels))


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each row of logits [n c] and labels, int64 [n]; float64 [n]."""
    rows = torch.cat([logits.double(), labels[:, None].double()], 1)  # classes of a row beside its logits
    return in_blocks(lambda some: -some[:, :-1].log_softmax(1).gather(1, some[:, -1:].long())[:, 0], rows)


def pushed_out(loss: Tensor) -> Tensor:
    """Return l - ln(l + 1e-5): least at a loss of 1, and larger both ways."""
    return loss - (loss + _LEAST).log()


@dataclass(frozen=True)
class LossBand(Ranker):
    """Prefers samples whose loss is near 1, neither learnt nor hopeless; see `loss_band`."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})

    def score(self, signals: Signals) -> Tensor:
        """Return float64 [n]; higher means keep it sooner."""
        return loss_band(read_logits("LossBand", signals), read_labels("LossBand", signals))
