"""What statistics and sums over channels are where only the proxy's channels count, computed in the dense network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from .atoms import varying


@dataclass(frozen=True)
class MaskedCall:
    """A call that is met when a trace is replayed, and which positions of one of its arguments count.

    Attributes:
        func: the operation.
        args: its arguments.
        kwargs: its arguments by name.
        mask: bool, broadcastable to the argument.
        operand: number of the argument.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    mask: Tensor
    operand: int = 0

    def plain(self) -> Any:
        """Return what the operation gives where all positions count."""
        return self.func(*self.args, **self.kwargs)


OverKept = Callable[[MaskedCall], Any]


def switched_off(call: MaskedCall) -> Any:
    """Sum with zeros in the place of what is removed of the weight."""
    masked = list(call.args)
    masked[call.operand] = call.args[call.operand] * call.mask
    return call.func(*masked, **call.kwargs)


def left_out(call: MaskedCall) -> Any:
    """Take a statistic of what is left once the removed positions are gone."""
    x = call.args[0]
    for dim in varying(call.mask):
        x = x.index_select(dim, _kept(call.mask, dim))
    return call.func(x, *call.args[1:], **call.kwargs)


def filled_with_zeros(call: MaskedCall) -> Any:
    """Compute what is left once the removed positions are gone, and put it back among zeros."""
    x, args = call.args[0], list(call.args)
    for dim in varying(call.mask):
        kept = _kept(call.mask, dim)
        for number, given in enumerate(args):  # what is broadcast against the first tensor is aligned at the end
            own = dim - x.ndim + given.ndim if isinstance(given, Tensor) else -1
            if own >= 0 and given.shape[own] > 1:
                args[number] = given.index_select(own, kept)
    return tree_map(lambda out: _among_zeros(out, call.mask), call.func(*args, **call.kwargs))


def _among_zeros(out: Tensor, mask: Tensor) -> Tensor:
    for dim in varying(mask):
        shape = [mask.shape[d] if d == dim else size for d, size in enumerate(out.shape)]
        out = out.new_zeros(shape).index_copy_(dim, _kept(mask, dim), out)
    return out


def layer_norm(call: MaskedCall) -> Any:
    """Normalise the trailing dimensions."""
    x, shape, weight, bias, eps = call.args
    out = _standardised(x, call.mask, tuple(range(x.ndim - len(shape), x.ndim)), eps)
    return (_scaled(out, weight, bias, shape).contiguous(), *call.plain()[1:])


def group_norm(call: MaskedCall) -> Any:
    """Normalise groups of channels."""
    x, weight, bias, n, c, size, groups, eps = call.args
    parts = x.reshape(n, groups, c // groups, size)
    mask = call.mask.flatten().reshape(1, groups, c // groups, 1)
    out = _standardised(parts, mask, (2, 3), eps).reshape(x.shape)
    return (_scaled(out, weight, bias, (-1, *[1] * (x.ndim - 2))).contiguous(), *call.plain()[1:])


def batch_norm(call: MaskedCall) -> Any:
    """Normalise channels over everything else; where weights are standardised that way, "else" are channels too."""
    x, weight, bias = call.args[:3]
    out = _standardised(x, call.mask, tuple(d for d in range(x.ndim) if d != 1), call.args[-1])
    return (_scaled(out, weight, bias, (-1, *[1] * (x.ndim - 2))).contiguous(), *call.plain()[1:])


def weight_norm(call: MaskedCall) -> Any:
    """Directions of what is kept, by their lengths."""
    v, g, *dim = call.args
    lengths = torch.norm_except_dim(v * call.mask, 2, dim[0] if dim else 0)
    return v * (g / lengths.where(lengths > 0, 1)), lengths


def _kept(mask: Tensor, dim: int) -> Tensor:
    """Return the positions along one dimension at which anything counts."""
    others = [d for d in range(mask.ndim) if d != dim]
    return (mask.any(others) if others else mask).nonzero().flatten()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Scale and shift by vectors, viewed in a shape that aligns with the trailing dimensions."""
    x = x if weight is None else x * weight.view(*shape)
    return x if bias is None else x + bias.view(*shape)


def _standardised(x: Tensor, mask: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Subtract the mean and divide by the deviation of the entries where `mask` is true."""
    keep = mask.expand(x.shape).to(x)
    count = keep.sum(dims, keepdim=True).clamp(min=1)  # of a group that leaves as a whole there is none
    mean = (x * keep).sum(dims, keepdim=True) / count
    variance = ((x - mean).square() * keep).sum(dims, keepdim=True) / count
    return (x - mean) / (variance + eps).sqrt()
