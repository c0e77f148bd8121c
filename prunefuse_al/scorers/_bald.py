"""Disagreement of stochastic passes about one sample: BALD (Houlsby et al., 2011; Gal et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..types import Signals
from ._given import given_passes
from ._ranker import Ranker
from ._select import FEW, in_blocks, read_mc_logits, single


def bald(mc_logits: Tensor) -> Tensor:
    """Return I(y; w) = H(mean_t q_t) - mean_t H(q_t) in nats: what the label would tell about the network.

    Computed as the mean of KL(q_t || mean_t q_t), each as a sum of terms that are not negative, so that samples on
    which the passes nearly agree keep their order where the difference of entropies would be rounding error.

    Args:
        mc_logits: float [t n c], t >= 2 passes; half precision is computed in single.

    Returns:
        float [n] between 0 and log(min(t, c)); higher means label it sooner.

    Raises:
        InputError: they are no numbers, or of another shape.
    """
    return in_blocks(_bald, given_passes("bald", mc_logits), dim=1)


def _bald(mc_logits: Tensor) -> Tensor:
    logits, dim = single(mc_logits), 2
    if logits.device.type == "cpu" and logits.shape[2] < FEW:
        logits, dim = logits.transpose(1, 2).contiguous(), 1  # [t c n], and so are those below
    logits = logits - logits.amax(dim, keepdim=True)
    logs = (logits - logits.exp().sum(dim, keepdim=True).log_()).clamp_min_(-1e5)  # [t n c], log q_t; 0 * -inf is NaN
    highest = logs.amax(0)  # [n c]
    # log(mean_t q_t / q_t), by differences from the highest pass, which are exact where the passes agree
    below = torch.log1p(torch.expm1(logs - highest).mean(0))  # [n c]
    gap = below + (highest - logs)  # [t n c]
    q = logs.exp()
    terms = torch.where(gap.abs() < 0.3, q * _expm1_minus(gap), (highest + below).exp() - q - q * gap)
    return terms.sum(dim).mean(0)


def _expm1_minus(x: Tensor) -> Tensor:
    """Return exp(x) - 1 - x for |x| < 0.3 without cancellation, by its series."""
    series = torch.ones_like(x)
    for n in (8, 7, 6, 5, 4, 3):
        series = 1 + x / n * series
    return x * x / 2 * series


@dataclass(frozen=True)
class BALD(Ranker):
    """Prefers samples about which dropout passes are each sure and disagree; see `bald`."""

    needs: ClassVar[frozenset[str]] = frozenset({"mc_logits"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return bald(read_mc_logits("BALD", signals))
