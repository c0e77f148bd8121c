"""Steps of an optimiser in one call for all parameters, where that can be done; the same to rounding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_DEVICES = frozenset({"cpu", "cuda"})


def fusible(params: Iterable[Tensor]) -> bool | None:
    """Return True where torch's one call can take all parameters; else None, so that torch chooses.

    That call goes through memory from end to end: a parameter with gaps in it, such as a slice of a larger tensor,
    would be stepped in the wrong places.
    """
    return all(p.device.type in _DEVICES and p.is_floating_point() and _without_gaps(p) for p in params) or None


def unfused_where_sparse(optimizer: torch.optim.Optimizer) -> None:
    """Have an optimiser of gradients that are sparse, as those of an embedding may be, step parameter by parameter."""
    for group in optimizer.param_groups:
        if group.get("fused") and any(p.grad is not None and p.grad.layout != torch.strided for p in group["params"]):
            group["fused"] = None
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # so a scaler unscales


def _without_gaps(tensor: Tensor) -> bool:
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last or tensor.is_contiguous()
