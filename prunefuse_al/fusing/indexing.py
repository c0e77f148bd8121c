"""Index arithmetic on kept entries: sorted int64 indices of a dimension, or None where the whole dimension stays."""

from __future__ import annotations

import torch
from torch import Tensor


def read_entries(tensor: Tensor, dims: list[tuple[int, Tensor]]) -> Tensor:
    """Return a new tensor of the entries at the given indices of some dimensions, all of the others."""
    out = tensor
    for dim, index in dims:
        out = out.index_select(dim, index)
    return out.clone() if out is tensor else out


def write_entries(tensor: Tensor, dims: list[tuple[int, Tensor]], value: Tensor) -> None:
    """Write `value` to the entries that `read_entries` reads, in place."""
    if not dims:
        tensor.copy_(value)
        return
    (dim, index), rest = dims[0], dims[1:]
    if rest:
        part = tensor.index_select(dim, index)
        write_entries(part, rest, value)
        value = part
    tensor.index_copy_(dim, index, value)


def compose_index(outer: Tensor | None, inner: Tensor | None) -> Tensor | None:
    """Return what stays of a dimension after keeping `outer` and, of that, `inner`; None is all of it."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer[inner]


def relative_index(size: int, kept: Tensor | None, outer: Tensor | None) -> Tensor | None:
    """Return where `kept` of a dimension sits in what `outer` keeps of it, the inverse of `compose_index`.

    Raises:
        ValueError: `outer` does not keep all of it.
    """
    if outer is None:
        return kept
    kept = torch.arange(size) if kept is None else kept
    position = torch.searchsorted(outer, kept).clamp(max=len(outer) - 1)
    if not torch.equal(outer[position], kept):
        raise ValueError("not a part of the outer map")
    return None if len(kept) == len(outer) else position


def same_index(size: int, a: Tensor | None, b: Tensor | None) -> bool:
    """Tell whether two indices keep the same of a dimension of `size` entries."""
    whole = torch.arange(size)
    return torch.equal(whole if a is None else a, whole if b is None else b)
