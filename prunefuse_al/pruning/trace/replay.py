"""Run a dense network so that every statistic over channels looks at the proxy's channels only.

LayerNorm, a mean over channels and their like are taken over more channels in the dense network than in the proxy, so
the two differ even where each channel sits in its right place. Run this way they must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .atoms import narrowed, varying
from .rules import STATISTICS, Statistic

BATCH_NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
}  # fmt: skip
SUMS = {"mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "convolution", "_convolution"}
NORMS = {"native_layer_norm", "native_group_norm"} | BATCH_NORMS


class KeptStatistics(TorchDispatchMode):
    """Replays the statistics of a trace, in the order they were seen, over kept channels.

    Args:
        statistics: those of the trace of the same forward pass.
        alive: tells which marks, an int64 array, belong to kept channels.
    """

    def __init__(self, statistics: Sequence[Statistic], alive: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.masks = [_mask(s, alive) for s in statistics]
        self.operands = [s.operand for s in statistics]
        self.position = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        if name not in STATISTICS | NORMS | SUMS:
            return func(*args, **kwargs)
        operand = self.operands[self.position % len(self.masks)]
        mask = self.masks[self.position % len(self.masks)].to(args[0].device)
        self.position += 1
        if bool(mask.all()):
            return func(*args, **kwargs)
        if operand is not None:
            masked = list(args)
            masked[operand] = args[operand] * mask
            return func(*masked, **kwargs)
        if name == "native_layer_norm":
            return (_layer_norm(mask, *args).contiguous(), *func(*args)[1:])
        if name == "native_group_norm":
            return (_group_norm(mask, *args).contiguous(), *func(*args)[1:])
        if name in BATCH_NORMS:
            return (_batch_norm(mask, func, args).contiguous(), *func(*args)[1:])
        x = args[0]
        for dim in varying(mask):
            alive = mask.movedim(dim, 0).flatten(1).any(1)
            x = x.index_select(dim, alive.nonzero().flatten())
        return func(x, *args[1:], **kwargs)


def _mask(statistic: Statistic, alive: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Return which positions of the input count: those that are kept along every marked dimension."""
    masks = [torch.from_numpy(alive(plane.numpy())) for plane in statistic.planes]
    together = torch.tensor(True)
    for mask in masks:
        together = together & mask
    return narrowed(together)


def _batch_norm(mask: Tensor, func: Any, args: Sequence[Any]) -> Tensor:
    x, weight, bias = args[:3]
    eps = args[[a.name for a in func._schema.arguments].index("eps")]
    out = _standardised(x, mask, tuple(d for d in range(x.ndim) if d != 1), eps)
    vector = (1, -1, *[1] * (x.ndim - 2))
    out = out if weight is None else out * weight.view(vector)
    return out if bias is None else out + bias.view(vector)


def _layer_norm(
    mask: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    out = _standardised(x, mask, tuple(range(x.ndim - len(shape), x.ndim)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _group_norm(
    mask: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    c: int,
    size: int,
    groups: int,
    eps: float,
) -> Tensor:
    parts = x.reshape(n, groups, c // groups, size)
    own = mask.flatten().reshape(1, groups, c // groups, 1)
    out = _standardised(parts, own, (2, 3), eps).reshape(x.shape)
    vector = (1, -1, *[1] * (x.ndim - 2))
    out = out if weight is None else out * weight.view(vector)
    return out if bias is None else out + bias.view(vector)


def _standardised(x: Tensor, mask: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Subtract the mean and divide by the deviation of the entries where `mask` is true."""
    keep = mask.expand(x.shape).to(x)
    count = keep.sum(dims, keepdim=True)
    mean = (x * keep).sum(dims, keepdim=True) / count
    variance = ((x - mean).square() * keep).sum(dims, keepdim=True) / count
    return (x - mean) / torch.sqrt(variance + eps)
