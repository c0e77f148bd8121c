"""Rules for what moves rows about by numbers: look-ups, rows packed by their lengths or added up, parts written to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .atoms import NEUTRAL, varying
from .calls import OperationCall, freeze_planes, like, settled
from .marks import Marks, merge, restructure
from .rules import pointwise, unknown


def embedding(call: OperationCall) -> list[Marks]:
    """Table look-up, also of whole bags: the vocabulary stays, the width passes on."""
    table = call.marks_of(call.args[0])
    for plane in table.planes:
        if plane.shape[0] > 1:
            call.atoms.freeze(plane, None)
    lead = (1,) * (call.results[0].ndim - 1)
    planes = [p.reshape((*lead, -1)) for p in table.planes if p.shape[0] == 1]
    found = Marks(tuple(call.results[0].shape), planes)  # what is looked up depends on the data
    return [found] + [Marks(tuple(r.shape), free=True) for r in call.results[1:]]


def indexed(call: OperationCall) -> list[Marks]:
    """Look-ups by integer tensors: marks along an indexed dimension are frozen."""
    source = call.marks_of(call.args[0])
    if isinstance(call.args[1], int):  # of `index_select`, one dimension
        dims = {call.args[1] % len(source.shape)}
    else:
        dims = set(_covered(call.args[1]))
    indices = [t for t in call.tensors()[1:] if len(dims) == 1]
    freeze_planes(call, source, dims, "is looked up by fixed positions in")
    to_cpu = lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf  # noqa: E731
    rest = tree_map(to_cpu, call.args[1:])
    found = restructure(lambda plane: call.func(plane, *rest), source, call.results)
    for index in indices:  # rows that are looked up several times are copies of one
        (dim,) = dims
        lead, trail = (1,) * dim, (1,) * (len(source.shape) - dim - 1)
        found[0].stretched += tuple(n.reshape(lead + n.shape + trail) for n in call.marks_of(index).stretched)
    return found


def _covered(indices: Sequence[Tensor | None]) -> list[int]:
    """Return the dimensions that integer tensors look up in, of bools as many each as they have themselves."""
    dims: list[int] = []
    dim = 0
    for index in indices:
        span = index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        dims += range(dim, dim + span) if index is not None else ()
        dim += span
    return dims


def gathered(call: OperationCall) -> list[Marks]:
    """`gather`: along one dimension by numbers, of which every place along the others has its own."""
    source, dim, index = call.args[:3]
    if source.ndim == 0:
        return unknown(call)
    dim %= source.ndim
    looked_up = _apart(call, call.marks_of(source), dim, "is looked up by number in", index.shape)
    return [merge(call.atoms, [looked_up, call.marks_of(index)], tuple(index.shape), call.name)]


def scattered(call: OperationCall) -> list[Marks]:
    """`scatter`, `index_add`, ...: written or added along one dimension, to places that are given as numbers."""
    into, dim, index = call.args[:3]
    if into.ndim == 0 or _writes_into_part(call):
        return unknown(call)
    dim %= into.ndim
    named = call.argument("source") if call.argument("source") is not None else call.argument("src")
    given = [into, *([named] if isinstance(named, Tensor) else []), *([index] if index.ndim == into.ndim > 1 else [])]
    others = [tuple(n for d, n in enumerate(t.shape) if d != dim) for t in given]
    marks = [_apart(call, call.marks_of(t), dim, "is written by number in") for t in given]
    if any(sizes != others[0] for sizes in others) and any(each.planes for each in marks):
        return unknown(call)
    return [_widened(merge(call.atoms, marks, _without(into.shape, dim), call.name), into)]


def put(call: OperationCall) -> list[Marks]:
    """`index_put`: written or added to rows that are looked up by numbers."""
    into, indices, values = call.args[:3]
    dims = _covered(indices)
    if _writes_into_part(call) or dims != list(range(dims[0], dims[-1] + 1)):
        return unknown(call)
    found = torch.broadcast_shapes(*(i.shape if i.dtype != torch.bool else (1,) for i in indices if i is not None))
    rest = into.ndim - len(dims)
    given = call.marks_of(values).aligned(rest + len(found))
    places = range(dims[0], dims[0] + len(found))
    settled(call, given, set(places), "is written by number in")
    lead, trail = slice(None, dims[0]), slice(dims[0] + len(found), None)

    def in_place_of(plane: Tensor) -> Tensor:
        return plane.reshape((*plane.shape[lead], *[1] * len(dims), *plane.shape[trail]))

    shape = (*given.shape[lead], *[1] * len(dims), *given.shape[trail])
    written_there = Marks(shape, [in_place_of(p) for p in given.planes], given.parameter, given.free)
    target = call.marks_of(into)
    settled(call, target, set(dims), "is written by number in")
    target.shape = tuple(1 if d in dims else n for d, n in enumerate(into.shape))
    return [_widened(merge(call.atoms, [target, written_there], target.shape, call.name), into)]


def _writes_into_part(call: OperationCall) -> bool:
    """True where it writes through a view of what has no marks, so that the tensor behind it would not learn of any."""
    target = call.args[0]
    return call.in_place and bool(target._is_view()) and call.marks_of(target).free


def _without(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    return tuple(1 if d == dim else n for d, n in enumerate(shape))


def _apart(call: OperationCall, marks: Marks, dim: int, what: str, sizes: Sequence[int] | None = None) -> Marks:
    """Return marks of one position along a dimension whose positions stay, of so many along the others."""
    settled(call, marks, {dim}, what)
    shape = _without(marks.shape if sizes is None else sizes, dim)
    planes = [p[tuple(slice(None if n == 1 else m) for n, m in zip(p.shape, shape, strict=True))] for p in marks.planes]
    return Marks(shape, planes, marks.parameter, marks.free, tuple(n for n in marks.stretched if sizes is None))


def _widened(marks: Marks, like: Tensor) -> Marks:
    return Marks(tuple(like.shape), marks.planes, marks.parameter, marks.free)


def repeated(call: OperationCall) -> list[Marks]:
    """`repeat_interleave` by a tensor of repeats: the numbers by which rows are looked up, each several times."""
    repeats, result = call.tensors()[0], call.results[0]
    times = repeats.unique().tolist()
    return [Marks(tuple(result.shape), stretched=(torch.arange(len(result)) % times[0],) if len(times) == 1 else ())]


def written(call: OperationCall) -> list[Marks]:
    """`copy_`: point by point; into a part of a tensor of zeros, the whole of it has the marks from then on.

    So are rows that were packed by their lengths put back, and so are channels put in the place of others that are
    left zeros. Along dimensions of which the part is all there is, the marks are those of the whole.
    """
    target, source = call.tensors()[:2]
    base, marks = target._base, call.marks_of(source)
    if base is None or target.ndim != source.ndim or not marks.planes or not call.marks_of(target).free:
        return pointwise(call)
    along = _lies_along(target, base)
    steps = base.stride()
    order = sorted(range(base.ndim), key=lambda dim: -steps[dim])  # as it lies in memory
    if along is None or not base.permute(order).is_contiguous():
        return pointwise(call)
    given = [_spread(plane, along, base.ndim) for plane in marks.planes]
    known = call.marks_of(base)
    dims = {d for plane in (*given, *known.planes) for d in varying(plane)}
    if any(target.stride(along.index(d)) != base.stride(d) for d in dims if d in along):
        return pointwise(call)
    planes = [_among_neutral(plane, target, base) for plane in given]
    for plane in known.planes:  # of another part that was written to before
        place = next((i for i, own in enumerate(planes) if varying(own) == varying(plane)), None)
        if place is None:
            return pointwise(call)
        planes[place] = torch.where(plane == NEUTRAL, planes[place], plane)
    call.restate(base, Marks(tuple(base.shape), planes, debts=marks.debts | known.debts))
    return [like(call.results[0], list(marks.planes), marks)]


def _lies_along(part: Tensor, whole: Tensor) -> list[int] | None:
    """Return the dimension of a tensor that each one of a view of it lies along; None where that is not clear.

    A view of fewer dimensions is one place along the others.
    """
    if part.ndim == whole.ndim:
        return list(range(whole.ndim))
    found: list[int] = []
    for size, step in zip(part.shape, part.stride(), strict=True):
        rest = range(found[-1] + 1 if found else 0, whole.ndim)
        place = next((d for d in rest if whole.stride(d) == step and whole.shape[d] >= size), None)
        if place is None:
            return None
        found.append(place)
    return found


def _spread(plane: Tensor, along: Sequence[int], ndim: int) -> Tensor:
    """Return a plane of a view as one of the tensor behind it, of size 1 along other dimensions."""
    return plane.reshape([plane.shape[along.index(d)] if d in along else 1 for d in range(ndim)])


def _among_neutral(plane: Tensor, part: Tensor, whole: Tensor) -> Tensor:
    """Return the plane of a part of a tensor without gaps as one of the whole, neutral at other positions."""
    start = part.storage_offset() - whole.storage_offset()
    for dim in varying(plane):
        before = start // whole.stride(dim) % whole.shape[dim]
        grown = plane.new_full([whole.shape[dim] if d == dim else n for d, n in enumerate(plane.shape)], NEUTRAL)
        grown.narrow(dim, before, plane.shape[dim]).copy_(plane)
        plane = grown
    return plane


def packed(call: OperationCall) -> list[Marks]:
    """`pack_padded_sequence`: rows of all times, one after the other."""
    source = call.marks_of(call.tensors()[0])
    freeze_planes(call, source, {0, 1}, "is packed by")
    rows, sizes = call.results
    return [like(rows, [p.reshape(p.shape[1:]) for p in source.planes], source), Marks(tuple(sizes.shape), free=True)]
