"""Rules: what each operation does to marks. Which operation has which rule stands in the table (`operations.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .atoms import FROZEN, NEUTRAL, Freeze, Summed, varying
from .calls import OperationCall, freeze_planes, like
from .marks import Marks, merge, positions, restructure, shared_stretches
from .shuffles import tie_shuffled

SUMS = frozenset(("sum", "norm", "linalg_vector_norm"))
"""Statistics to which zeros add nothing."""


def structural(call: OperationCall) -> list[Marks]:
    """View, permute, slice, ...: executed on the planes themselves."""
    return _restructured(call, call.marks_of(call.tensors()[0]))


def reshaped(call: OperationCall) -> list[Marks]:
    """View and reshape, which may merge dimensions in another order than they were split."""
    source = call.marks_of(call.tensors()[0])
    if call.func._overloadname == "dtype":  # the same memory, read as other numbers
        return unknown(call)
    source.planes = [tie_shuffled(call.atoms, p, source.shape, call.results[0].shape) for p in source.planes]
    return _restructured(call, source)


def expanded(call: OperationCall) -> list[Marks]:
    """Expand and repeat: positions that are copies of one."""
    source, result = call.marks_of(call.tensors()[0]), call.results[0]
    (found,) = _restructured(call, source)
    found.stretched += _copies(source.aligned(result.ndim).shape, result.shape)
    return [found]


def _restructured(call: OperationCall, source: Marks) -> list[Marks]:
    stand_in = call.tensors()[0]

    def run(plane: Tensor) -> Tensor | Sequence[Tensor]:
        swap = lambda leaf: plane if leaf is stand_in else leaf  # noqa: E731
        out: Tensor | Sequence[Tensor] = call.func(*tree_map(swap, call.args), **call.kwargs)
        return out

    return restructure(run, source, call.results)


def _copies(old: Sequence[int], new: Sequence[int]) -> tuple[Tensor, ...]:
    """Return for each dimension that was expanded or repeated the number of the copy at each position."""
    grown = [dim for dim, size in enumerate(new) if size > old[dim] > 0]
    return tuple(positions(new, dim) // old[dim] for dim in grown)


def same(call: OperationCall) -> list[Marks]:
    """Copies and casts: every result has the marks of the first tensor."""
    source = call.marks_of(call.tensors()[0])
    return [like(result, list(source.planes), source, source.stretched) for result in call.results]


def pointwise(call: OperationCall) -> list[Marks]:
    """Arithmetic and activations: aligned marks are tied."""
    operands = call.marks()
    if call.in_place and call.tensors()[0]._is_view() and operands[0].free:
        # The tensor that is written through the view does not learn of these marks.
        return unknown(call)
    writers, found = _writers(call, operands), []
    for result in call.results:
        found.append(merge(call.atoms, operands, tuple(result.shape), call.name))
        found[-1].writers = writers
    return found


def _writers(call: OperationCall, operands: Sequence[Marks]) -> frozenset[str]:
    """Return the tensors where a point-wise result is zero if they are, see `Marks`; none where that is not clear."""
    computed = [marks for marks in operands if marks.planes and not marks.parameter]
    own = [marks.writers for marks in computed]
    if call.name.rstrip("_") in ("add", "sub"):
        own += [call.atoms.names(marks.planes) for marks in operands if marks.planes and marks.parameter]
        return frozenset().union(*own) if all(own) else frozenset()
    factors = call.name.rstrip("_") == "mul"  # one that is zero is enough
    return own[0] if len(own) == 1 or (own and factors) else frozenset()


def rectified(call: OperationCall) -> list[Marks]:
    """`relu`: of what is scaled by a positive number it gives as much more or less."""
    affine, found = call.marks()[0].affine, pointwise(call)
    for marks in found:
        marks.affine = affine
    return found


def scaled(call: OperationCall) -> list[Marks]:
    """`mul`: what scales each channel of a layer's output is noted."""
    layer, found = _scaled_layer(call, call.marks()), pointwise(call)
    for marks in found:
        marks.layer = layer
    return found


def summed(call: OperationCall) -> list[Marks]:
    """`add`: what several layers add to is noted."""
    computed = [marks.planes for marks in call.marks() if not (marks.parameter or marks.free)]
    if len(computed) > 1:
        call.atoms.meet(call.module, computed[0], computed[1])
    return pointwise(call)


def _scaled_layer(call: OperationCall, operands: Sequence[Marks]) -> frozenset[str]:
    """Return what layer gave the tensor that is scaled here, having noted which parameter scales it."""
    layers = [marks for marks in operands if marks.layer]
    if len(layers) != 1:
        return frozenset()
    for scale in operands:
        if scale is not layers[0]:
            for name in call.atoms.names(scale.planes if scale.parameter else []):
                call.atoms.scaled.setdefault(name, set()).update(layers[0].layer)
            if not scale.parameter and scale.planes:
                return frozenset()
    return layers[0].layer


def gated(call: OperationCall) -> list[Marks]:
    """`glu`: one half of a dimension times the sigmoid of the other."""
    source, result = call.marks_of(call.args[0]), call.results[0]
    halves = restructure(lambda plane: plane.chunk(2, call.argument("dim")), source, [result, result])
    return [merge(call.atoms, halves, tuple(result.shape), call.name)]


def joined(call: OperationCall) -> list[Marks]:
    """`cat`: planes of the same other dimensions are joined; a fixed size counts as frozen."""
    sources, dim = _given(call), _along(call)
    systems = sorted({varying(p) - {dim} for source in sources for p in source.planes}, key=sorted)
    planes = [_joined_planes(call, sources, frozenset(system), dim) for system in systems]
    return [_put_together(call, sources, planes, [n for n in shared_stretches(sources) if n.shape[dim] == 1])]


def stacked(call: OperationCall) -> list[Marks]:
    """`stack`: planes of the same dimensions are put beside each other."""
    sources, dim = _given(call), _along(call)
    systems = sorted({varying(p) for source in sources for p in source.planes}, key=sorted)
    planes = [
        torch.stack([_one_plane(call, source, frozenset(system), set()) for source in sources], dim)
        for system in systems
    ]
    return [_put_together(call, sources, planes, [])]


def _given(call: OperationCall) -> list[Marks]:
    """Return the marks of what is put together; an empty vector may stand beside anything."""
    return [call.marks_of(t) for t in call.tensors() if t.numel() or t.ndim > 1]


def _along(call: OperationCall) -> int:
    return int(call.argument("dim") or 0) % call.results[0].ndim


def _put_together(call: OperationCall, sources: list[Marks], planes: list[Tensor], stretched: list[Tensor]) -> Marks:
    result, dim = call.results[0], _along(call)
    if len({id(t) for t in call.tensors() if t.numel() or t.ndim > 1}) == 1 and result.numel():
        stretched = [*stretched, positions(result.shape, dim) // (result.shape[dim] // len(sources))]  # copies of one
    parameter, free = all(s.parameter for s in sources), all(s.free for s in sources)
    found = Marks(tuple(result.shape), planes, parameter, free, tuple(stretched))
    own = [call.atoms.names(s.planes) if s.parameter else s.writers for s in sources if not s.free]
    found.writers = frozenset().union(*own) if all(own) else frozenset()
    return found


def _joined_planes(call: OperationCall, sources: list[Marks], system: frozenset[int], dim: int) -> Tensor:
    plane = torch.cat([_one_plane(call, source, system, {dim}) for source in sources], dim)
    uneven = any(dim in varying(own[0]) for own in (_of_system(s, system, {dim}) for s in sources) if own)
    # Tokens joined to tokens: their widths shrink together, so one mark for all of them.
    return plane if uneven or not system else call.atoms.tie_along(plane, dim)


def _of_system(source: Marks, system: frozenset[int], besides: set[int]) -> list[Tensor]:
    return [p for p in source.planes if varying(p) - besides == system]


def _one_plane(call: OperationCall, source: Marks, system: frozenset[int], besides: set[int]) -> Tensor:
    """Return one plane for all those of a tensor that vary along the same dimensions, tied, besides some."""
    own = _of_system(source, system, besides)
    for other in own[1:]:
        call.atoms.tie(own[0], other)
    return (own[0] if own else torch.tensor(NEUTRAL if source.free else FROZEN)).expand(source.shape)


def statistic(call: OperationCall, *, places: bool = False) -> list[Marks]:
    """Mean, norm, largest, ... over the dimensions `dim`: one over channels is taken over fewer in the proxy.

    Args:
        call: the operation.
        places: results after the first are the places at which it was found, which mean something else with fewer.
    """
    source = call.marks_of(call.tensors()[0])
    return statistic_over(call, source, call.dims(len(source.shape)) if source.shape else [], places=places)


def statistic_over(call: OperationCall, source: Marks, dims: Sequence[int], *, places: bool = False) -> list[Marks]:
    """Return the marks of a statistic over some dimensions of a tensor, and note that of channels."""
    passed, over = _reduced(call, source, dims)
    taken = [plane for plane in over if len(varying(plane)) == 1]
    if call.name in SUMS and source.writers and not source.parameter:
        call.atoms.summed += [Summed(plane, source.writers, product=False) for plane in taken]
    call.note(taken, scale=f"{call.module}.weight")  # RMSNorm, and norms by hand, are means in a module with a scale
    for plane in over:
        if len(varying(plane)) > 1:
            call.owe(plane, f"is reduced over by {call.name}")
    results = _results(call, source, passed, dims)
    for found in results[1:] if places else []:
        found.debts = frozenset(call.debt(plane, f"is counted along by {call.name}") for plane in taken)
    return results


def reduction(call: OperationCall) -> list[Marks]:
    """Softmax, number of the largest, ...: over fewer channels they mean something else.

    Channels are frozen if the result is ever used.
    """
    source = call.marks_of(call.tensors()[0])
    dims = call.dims(len(source.shape)) if source.shape else []
    passed, over = _reduced(call, source, dims)
    for plane in over:
        call.owe(plane, f"is reduced over by {call.name}")
    return _results(call, source, passed, dims)


def _reduced(call: OperationCall, source: Marks, dims: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the planes that pass a reduction, and those that meet their end in it.

    Where a reduced dimension is one of several that a channel spans (the width of a head), the channel leaves as a
    whole.
    """
    passed, over = [], []
    for plane in source.planes:
        reduced = varying(plane) & set(dims)
        if reduced and reduced == varying(plane):
            over.append(plane)
            continue
        for dim in reduced:
            plane = call.atoms.tie_along(plane, dim)
        passed.append(plane)
    return passed, over


def _results(call: OperationCall, source: Marks, passed: list[Tensor], dims: Sequence[int]) -> list[Marks]:
    """Return the marks of what a reduction gives, with or without the reduced dimensions."""
    numbers = [n for n in source.stretched if not varying(n) & set(dims)]
    if call.results and call.results[0].ndim != len(source.shape):
        passed, numbers = (
            [p.reshape([n for d, n in enumerate(p.shape) if d not in dims]) for p in given]
            for given in (passed, numbers)
        )
    return [like(result, list(passed), source, tuple(numbers)) for result in call.results]


def spatial(call: OperationCall, *, trailing: int) -> list[Marks]:
    """Pooling and resizing: only the trailing dimensions change, so many of them; not those of windows of size 1."""
    source = call.marks_of(call.tensors()[0])
    still = _still(call, trailing)
    dims = {len(source.shape) - trailing + i for i in range(trailing) if not still[i]}
    freeze_planes(call, source, dims, "is resized by")
    return [like(result, list(source.planes), source) for result in call.results]


def _still(call: OperationCall, trailing: int) -> list[bool]:
    """Return which of the trailing dimensions a pooling leaves alone: its windows there are single positions."""
    windows = call.argument("kernel_size")
    if windows is None:
        return [False] * trailing
    kernel, stride, padding = (
        _each(given, trailing) for given in (windows, call.argument("stride") or windows, call.argument("padding"))
    )
    return [(k, s, p) == (1, 1, 0) for k, s, p in zip(kernel, stride, padding, strict=True)]


def _each(given: Any, dims: int) -> list[int]:
    """Return a number for each dimension, where one may stand for all."""
    numbers = [given or 0] if not isinstance(given, list | tuple) else list(given)
    return numbers * dims if len(numbers) == 1 else numbers


def pad(call: OperationCall) -> list[Marks]:
    """Constant padding; along a marked dimension, as in a shortcut to more channels, the positions it makes are new.

    How many of them there are may follow the widths, or be a number that is written in forward: both are tried. As
    many before as behind leave in pairs, so that they stay equally many.
    """
    source = call.marks_of(call.tensors()[0])
    amounts, ndim = call.argument("pad"), len(source.shape)
    planes = []
    for plane in source.planes:
        for dim in varying(plane):
            last = 2 * (ndim - 1 - dim)
            if last < len(amounts):
                plane = _padded(call, plane, dim, *amounts[last : last + 2])
        planes.append(plane)
    return [like(call.results[0], planes, source)]


def _padded(call: OperationCall, plane: Tensor, dim: int, before: int, behind: int) -> Tensor:
    plane = plane.narrow(dim, max(0, -before), plane.shape[dim] + min(0, before) + min(0, behind))  # cropped
    made = [call.atoms.made(max(0, number)) for number in (before, behind)]
    if before == behind:
        made[1] = made[0]
    if before > 0 or behind > 0:
        what = f"is joined with positions of fixed size, padded by {call.name} in {call.module or 'the network itself'}"
        call.atoms.padded.append(Freeze(torch.cat(made), what))
    shape = [-1 if d == dim else 1 for d in range(plane.ndim)]
    sides = [
        side.view(shape).expand([len(side) if d == dim else n for d, n in enumerate(plane.shape)]) for side in made
    ]
    return torch.cat([sides[0], plane, sides[1]], dim)


def factory(call: OperationCall) -> list[Marks]:
    """zeros, ones, arange, rand, ...: made from sizes alone."""
    return [Marks(tuple(result.shape), free=True) for result in call.results]


def unknown(call: OperationCall) -> list[Marks]:
    """Not understood: everything that goes in is kept whole."""
    for tensor in call.tensors():
        for plane in call.marks_of(tensor).planes:
            call.atoms.freeze(plane, f"goes through {call.name}, which is not understood")
    return [Marks(tuple(result.shape)) for result in call.results]
