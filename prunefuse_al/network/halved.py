"""Half precision for reading, where it is exact enough: looked at on a batch, and left where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..errors import FallbackWarning, warn
from .forward import Forward, logits_of

BATCHES_TO_HALVE = 4
"""Reading fewer batches has nothing to gain: the first is passed in both precisions."""
FURTHEST = 0.02
"""How far logits may be off, as a share of what rows differ by: what scorers rank by differs between rows."""


def near_enough(network: nn.Module, inputs: Any, half: Forward) -> Forward:
    """Return how a network is called on batches like one: in half precision; or in full, with a warning.

    Args:
        network: in eval mode; its hooks do not hear of this.
        inputs: a batch as `half.inputs` gives it.
        half: how it is called in half precision.
    """
    full = replace(half, autocast=None)
    found, expected = (_rows(logits_of(way(network.forward, inputs))) for way in (half, full))
    gap = float((found - expected).norm() / (expected - expected.mean(0)).norm())
    if gap <= FURTHEST:
        return half
    warn(
        f"eval_precision: in {str(half.autocast).removeprefix('torch.')} the logits of the first {len(expected)} rows "
        f"are off by {gap:.2g} of what rows differ by, and {FURTHEST:g} is allowed: fp32 is used",
        FallbackWarning,
    )
    return full


def _rows(logits: Tensor) -> Tensor:
    return logits.double().reshape(len(logits), -1)
