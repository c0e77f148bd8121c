"""Rules for what moves rows about by numbers: look-ups in tables, rows packed by their lengths, parts written to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .atoms import varying
from .calls import OperationCall, freeze_planes, like
from .marks import Marks, restructure
from .rules import pointwise


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
        dims = {d for d, index in enumerate(call.args[1]) if index is not None}
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


def repeated(call: OperationCall) -> list[Marks]:
    """`repeat_interleave` by a tensor of repeats: the numbers by which rows are looked up, each several times."""
    repeats, result = call.tensors()[0], call.results[0]
    times = repeats.unique().tolist()
    return [Marks(tuple(result.shape), stretched=(torch.arange(len(result)) % times[0],) if len(times) == 1 else ())]


def written(call: OperationCall) -> list[Marks]:
    """`copy_`: point by point; into a part of a tensor of zeros, the whole of it has the marks from then on.

    So are rows that were packed by their lengths put back. The marks have to run along dimensions of which the part
    is all there is.
    """
    target, source = call.tensors()[:2]
    base, marks = target._base, call.marks_of(source)
    if base is None or base.ndim != source.ndim or not marks.planes or not call.marks_of(base).free:
        return pointwise(call)
    dims = [d for plane in marks.planes for d in varying(plane)]
    if any(target.shape[d] != base.shape[d] or target.stride(d) != base.stride(d) for d in dims):
        return pointwise(call)
    call.restate(base, Marks(tuple(base.shape), list(marks.planes), debts=marks.debts))
    return [like(call.results[0], list(marks.planes), marks)]


def packed(call: OperationCall) -> list[Marks]:
    """`pack_padded_sequence`: rows of all times, one after the other."""
    source = call.marks_of(call.tensors()[0])
    freeze_planes(call, source, {0, 1}, "is packed by")
    rows, sizes = call.results
    return [like(rows, [p.reshape(p.shape[1:]) for p in source.planes], source), Marks(tuple(sizes.shape), free=True)]
