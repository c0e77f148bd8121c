"""Rules for what cuts windows out of a tensor, puts them back, or goes over to frequencies: positions mix."""

from __future__ import annotations

import math

from torch import Tensor

from .calls import OperationCall, like, settled
from .marks import Marks, restructure
from .rules import same, unknown


def unfolded(call: OperationCall) -> list[Marks]:
    """`nn.Unfold`: windows, [.. c h w] -> [.. c*k l], the k positions of a channel one after the other."""
    source, k = call.marks_of(call.args[0]), math.prod(call.argument("kernel_size"))
    ndim = len(source.shape)
    settled(call, source, {ndim - 2, ndim - 1}, None)
    planes = [_each_repeated(p[..., 0], k) for p in source.planes]
    return [like(call.results[0], planes, source, tuple(_each_repeated(n[..., 0], k) for n in source.stretched))]


def _each_repeated(plane: Tensor, times: int) -> Tensor:
    """Repeat every channel of [.. c 1], if there are several."""
    return plane.repeat_interleave(times, -2) if plane.shape[-2] > 1 else plane


def folded(call: OperationCall) -> list[Marks]:
    """`nn.Fold`: windows put back and added up, [.. c*k l] -> [.. c h w]; the k of a channel leave together."""
    source, k = call.marks_of(call.args[0]), math.prod(call.argument("kernel_size"))
    ndim = len(source.shape)
    settled(call, source, {ndim - 1}, None)
    planes = []
    for plane in source.planes:
        if plane.shape[-2] > 1:
            plane = call.atoms.tie_along(plane.reshape(*plane.shape[:-2], -1, k), ndim - 1)
        planes.append(plane[..., None])
    return [like(call.results[0], planes, source)]


def restrided(call: OperationCall) -> list[Marks]:
    """`as_strided`: windows over the memory of a tensor, as of local attention."""
    tensor, source = call.args[0], call.marks_of(call.args[0])
    size, strides = call.argument("size"), call.argument("stride")
    if call.in_place:  # only changes the layout
        return same(call) if list(tensor.shape) == list(size) else unknown(call)
    offset = call.argument("storage_offset")
    start = 0 if offset is None else offset - tensor.storage_offset()
    reach = start + sum((n - 1) * step for n, step in zip(size, strides, strict=True))
    order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))  # as it lies in memory
    if not tensor.permute(order).is_contiguous() or start < 0 or reach >= tensor.numel():
        return unknown(call)
    in_memory = lambda plane: plane.permute(order).contiguous().as_strided(size, strides, start)  # noqa: E731
    return restructure(in_memory, source, call.results)


def transformed(call: OperationCall) -> list[Marks]:
    """Fourier transforms: every place along `dim` depends on all."""
    source = call.marks_of(call.args[0])
    dims = {dim % len(source.shape) for dim in call.argument("dim")}
    settled(call, source, dims, "is transformed along by")
    return [like(call.results[0], list(source.planes), source)]


def as_complex(call: OperationCall) -> list[Marks]:
    """Two real numbers as one complex, [.. 2] -> [..]."""
    source = call.marks_of(call.args[0])
    settled(call, source, {len(source.shape) - 1}, None)
    return [like(call.results[0], [plane[..., 0] for plane in source.planes], source)]


def as_real(call: OperationCall) -> list[Marks]:
    """One complex number as two real ones, [..] -> [.. 2]."""
    source = call.marks_of(call.args[0])
    return [like(call.results[0], [plane[..., None] for plane in source.planes], source)]
