"""Rules for what sums over channels: matrix products, convolutions, and the normalisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .atoms import FROZEN, Summed, varying
from .calls import OperationCall, settled
from .marks import Marks, merge, partners
from .rules import unknown


def matmul(call: OperationCall) -> list[Marks]:
    """mm, bmm, mv, dot and their `add...` forms: [.. n k] x [.. k m] -> [.. n m]."""
    tensors = call.tensors()
    left, right = (call.marks_of(t) for t in tensors[-2:])
    result = call.results[0]
    if len(left.shape) == 1 or len(right.shape) == 1:
        left, right = _as_matrix(left, row=True), _as_matrix(right, row=False)
    shape = (*left.shape[:-1], right.shape[-1])
    _note_sum(call, {-2: -1, -1: -2})
    out = contract(call, left, right, shape)
    planes = [p.reshape(_match(p.shape, shape, result)) for p in out.planes]
    given = Marks(tuple(result.shape), planes, out.parameter, out.free)
    added = [call.marks_of(tensors[0])] if len(tensors) == 3 else []  # addmm, baddbmm: the first tensor is added
    if added:
        given = merge(call.atoms, [*added, given], tuple(result.shape), call.name)
    if left.parameter != right.parameter and all(marks.parameter for marks in added):
        weight = left if left.parameter else right
        given.layer = call.atoms.names([p for marks in (weight, *added) for p in marks.planes])
        given.writers = given.layer
    elif left.parameter and right.parameter:  # a layer that reads learnt positions, if it is one
        given.writers = call.atoms.names([p for marks in (right, *added) for p in marks.planes])
    return [given]


def grouped(call: OperationCall) -> list[Marks]:
    """A product of rows with one of several matrices each (experts): [n k], [e k m], ends of runs [e] -> [n m]."""
    x, weights = call.marks()[:2]
    if len(x.shape) != 2 or len(weights.shape) != 3:
        return matmul(call) if len(x.shape) == len(weights.shape) == 3 else unknown(call)
    settled(call, weights, {0}, "is chosen by number in")
    _note_sum(call, {1: 1})
    matrix = Marks(weights.shape[1:], [p[0] for p in weights.planes], weights.parameter, weights.free)
    out = contract(call, x, matrix, (x.shape[0], weights.shape[2]))
    return [out]


def solved(call: OperationCall) -> list[Marks]:
    """Triangular systems A X = B or X A = B: positions along A mix, the others of B pass."""
    matrix, given = (call.marks_of(t) for t in call.tensors()[:2])
    last = len(given.shape) - 1
    settled(call, matrix, {last - 1, last}, "is solved along by")
    settled(call, given, {last - 1 if call.argument("left") else last}, "is solved along by")
    matrix.shape = (*matrix.shape[:-2], 1, 1)
    return [merge(call.atoms, [matrix, given], tuple(call.results[0].shape), call.name)]


def linear(call: OperationCall) -> list[Marks]:
    """`torch.nn.functional.linear` in one operation: [.. k], [m k] and maybe [m] -> [.. m]."""
    x, weight, *bias = call.marks()
    columns = call.moved(lambda t: t.transpose(-1, -2), weight)
    _note_sum(call, {1: 1})
    found = call.together(contract(call, x, columns, (*x.shape[:-1], weight.shape[0])), *bias)
    found.writers = call.atoms.names([p for marks in (weight, *bias) for p in marks.planes])
    return [found]


def _note_sum(call: OperationCall, summed: Mapping[int, int]) -> None:
    """Note the planes of a computed weight that are summed over.

    Args:
        call: the operation.
        summed: argument that may be a weight -> the dimension of it that is summed over. A matrix product counts its
            arguments from the end, because one with a bias may stand for one without.
    """
    for operand, dim in summed.items():
        marks = call.marks_of(call.args[operand])
        if marks.parameter:
            dim = dim % len(marks.shape) if len(marks.shape) > 1 else 0
            call.note([p for p in marks.planes if dim in varying(p)], operand=operand)
            return


def _as_matrix(marks: Marks, *, row: bool) -> Marks:
    if len(marks.shape) > 1:
        return marks
    planes = [p[None, :] if row else p[:, None] for p in marks.planes]
    shape = (1, *marks.shape) if row else (*marks.shape, 1)
    return Marks(shape, planes, marks.parameter, marks.free)


def _match(plane_shape: Sequence[int], shape: Sequence[int], result: Tensor) -> list[int]:
    """Drop the dimensions of size 1 that a vector operand was given."""
    if len(shape) == result.ndim:
        return list(plane_shape)
    sizes = list(plane_shape)
    while len(sizes) > result.ndim:
        sizes.remove(1)
    return sizes


def contract(call: OperationCall, left: Marks, right: Marks, shape: tuple[int, ...]) -> Marks:
    """Tie the summed dimension of both operands and pass the outer ones on."""
    k_left, k_right = len(left.shape) - 1, len(right.shape) - 2
    computed = _computed(call, left) and _computed(call, right)
    if computed:
        _meet_computed(call, _over(left, k_left), _over(right, k_right), (left.writers, right.writers))
    if call.atoms.inside and not (left.parameter and right.parameter):
        left, right = _alike_in_heads(call, left), _alike_in_heads(call, right)
    summed_left = _summed(call, left, k_left, outer=k_left - 1)
    summed_right = _summed(call, right, k_right, outer=k_right + 1)
    for marks, other, planes in ((left, right, summed_left), (right, left, summed_right)):
        made = bool(marks.writers) and other.parameter and not other.writers  # what a layer made of learnt positions
        for plane in planes if marks.parameter and not (computed or made) else ():
            call.atoms.contract(plane)
    if left.parameter and right.parameter:
        summed_left, summed_right = _finest(call, summed_left, summed_right), _finest(call, summed_right, summed_left)
    if not left.free and not right.free:
        reads_data = left.parameter != right.parameter
        _meet(call, summed_left, [p.transpose(-1, -2) for p in summed_right], reads_data)
    operands = []
    for marks, k, summed in ((left, k_left, summed_left), (right, k_right, summed_right)):
        # A mark that varies over batch and summed dimension (a head and its width) stands for the batch entry.
        passed = [p for p in marks.planes if k not in varying(p)]
        passed += [call.atoms.tie_along(p, k) for p in summed if len(varying(p)) > 1]
        sizes = list(marks.shape)
        sizes[k] = 1
        stretched = tuple(n for n in marks.stretched if k not in varying(n))
        operands.append(Marks(tuple(sizes), passed, marks.parameter, marks.free, stretched))
        if marks.parameter and left.parameter != right.parameter:
            for plane in passed:
                call.atoms.write(plane)
    return merge(call.atoms, operands, shape, call.name)


def _computed(call: OperationCall, marks: Marks) -> bool:
    """True for what is no weight: also for queries that a layer made of parameters, for a whole batch."""
    batched = call.name.rstrip("_") in ("bmm", "baddbmm")
    return not marks.free and (not marks.parameter or (batched and bool(marks.writers)))


def _alike_in_heads(call: OperationCall, marks: Marks) -> Marks:
    """Tie what lies at the same place in the matrices of a batch, as the heads of attention are."""
    batch = range(len(marks.shape) - 2)
    planes = []
    for plane in marks.planes:
        if len(varying(plane)) > 1:
            for dim in varying(plane) & set(batch):
                plane = call.atoms.tie_along(plane, dim)
        planes.append(plane)
    return marks.copy(planes=planes)


def _over(marks: Marks, k: int) -> list[Tensor]:
    return [plane for plane in marks.planes if k in varying(plane)]


def _meet_computed(
    call: OperationCall, left: list[Tensor], right: list[Tensor], writers: tuple[frozenset[str], frozenset[str]]
) -> None:
    """Note or freeze the widths over which two computed tensors are summed: no weight can be switched off there."""
    call.atoms.heads += [*left, *right]
    if not call.atoms.inside:
        for plane in (*left, *right):
            if len(varying(plane)) == 1:
                call.atoms.freeze(plane, f"is summed over in {call.name}, a product of two computed tensors")
    elif left and right:
        planes, own = (left, writers[0]) if writers[0] else (right, writers[1])
        call.atoms.summed += [Summed(plane, own, product=True) for plane in planes]


def _summed(call: OperationCall, marks: Marks, k: int, outer: int) -> list[Tensor]:
    """Return the planes along the summed dimension, made constant along the operand's own outer dimension."""
    return [call.atoms.tie_along(p, outer) if outer in varying(p) else p for p in marks.planes if k in varying(p)]


def _finest(call: OperationCall, planes: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    """Return what of a weight that was flattened meets a vector, as for its spectral norm: channels, not their places.

    Kernel positions and channels in one dimension would all become one where a vector that knows neither ties them.
    """
    if len(planes) < 2 or len(other) != 1:
        return planes
    finest = max(planes, key=lambda plane: len(plane.unique()))
    for plane in planes:
        if plane is not finest:
            call.atoms.freeze(plane, None)
    return [finest]


def _meet(call: OperationCall, left: list[Tensor], right: list[Tensor], reads_data: bool) -> None:
    """Tie the marks of a summed dimension [.. 1 k] of two operands; with nothing to meet they are frozen."""
    for a, b in partners(left, right):
        call.atoms.tie(a, b)
    reason = "reads an input of fixed size" if reads_data else f"is summed with a tensor of fixed size in {call.name}"
    for plane in [] if left and right else left + right:
        if len(varying(plane)) > 1:  # a head and its width: it leaves as a whole
            call.atoms.tie_along(plane, -1)
        else:
            call.atoms.freeze(plane, reason)


def trilinear(call: OperationCall) -> list[Marks]:
    """`nn.Bilinear`: three tensors stretched to a common shape, multiplied, and summed over some of its dimensions."""
    operands = []
    for tensor, stretched in zip(call.args[:3], call.args[3:6], strict=True):
        marks, shape = call.marks_of(tensor), list(tensor.shape)
        for dim in sorted(stretched):
            shape.insert(dim, 1)
        places = [d for d in range(len(shape)) if d not in stretched]
        planes = [
            p.reshape([p.shape[places.index(d)] if d in places else 1 for d in range(len(shape))]) for p in marks.planes
        ]
        operands.append(Marks(tuple(shape), planes, marks.parameter, marks.free))
    summed = set(call.argument("sumdim"))
    weights = [plane for marks in operands if marks.parameter for plane in marks.planes if varying(plane) & summed]
    for plane in weights:
        call.atoms.contract(plane)
        if any(marks.fixed(d) for marks in operands if not marks.parameter for d in varying(plane) & summed):
            call.atoms.freeze(plane, "reads an input of fixed size")
    shape = torch.broadcast_shapes(*(marks.shape for marks in operands))
    found = merge(call.atoms, operands, shape, call.name)
    rest = [d for d in range(len(shape)) if d not in summed]
    passed = [p.reshape([p.shape[d] for d in rest]) for p in found.planes if not varying(p) & summed]
    return [Marks(tuple(call.results[0].shape), passed)]


def convolution(call: OperationCall) -> list[Marks]:
    """Plain, grouped, depthwise and transposed convolutions of any number of spatial dimensions."""
    x, weight = call.marks_of(call.args[0]), call.marks_of(call.args[1])
    groups, transposed = call.argument("groups"), call.argument("transposed")
    passing = _passing(call, x) if _pointwise(call) else []
    _settle_positions(call, x, {1})
    _settle_positions(call, weight, {0, 1})
    _note_sum(call, {1: 0 if transposed else 1})
    entering = _channels(x, 1)
    rows, columns = _channels(weight, 0), _channels(weight, 1)
    if columns is not None:
        call.atoms.fed.update(dict.fromkeys(call.atoms.owners(columns), x.affine))
    if groups > 1:
        out = _grouped(call, x, weight, entering, groups, transposed)
    else:
        inner, out = (rows, columns) if transposed else (columns, rows)
        _enter(call, entering, inner, x.free)
    if out is not None:
        call.atoms.write(out)
    bias = call.argument("bias")
    result = call.results[0]
    shaped = [out.reshape([-1 if d == 1 else 1 for d in range(result.ndim)])] if out is not None else []
    marks = Marks(tuple(result.shape), [*shaped, *passing])
    if bias is not None:
        marks = merge(call.atoms, [marks, _channel_vector(call.marks_of(bias), result.ndim)], marks.shape, call.name)
    weights = [weight, *([call.marks_of(bias)] if bias is not None else [])]
    names = call.atoms.names([p for given in weights for p in given.planes])
    return [Marks(marks.shape, marks.planes, layer=names, writers=names)]


def _pointwise(call: OperationCall) -> bool:
    """Return whether a convolution sums over channels alone, in each place for itself."""
    if call.argument("transposed") or call.argument("groups") > 1 or call.args[0].ndim != call.results[0].ndim:
        return False
    ones = {*call.args[1].shape[2:], *call.argument("stride")}
    return ones == {1} and not any(call.argument("padding"))


def _passing(call: OperationCall, x: Marks) -> list[Tensor]:
    """Take from the marks of an input those of its places, which are the result's, and return them.

    So are those of several channels where a place leaves in all of these at once, as streams that were stacked do.
    """
    channel, places = {1}, set(range(2, len(x.shape)))
    passing, left = [], []
    for plane in x.planes:
        along = varying(plane)
        if not along & places or along - places - channel:
            left.append(plane)
        elif not along & channel:
            passing.append(plane)
        elif call.atoms.tied_along(plane, 1):
            passing.append(plane.narrow(1, 0, 1))
        else:
            left.append(plane)
    x.planes = left
    return passing


def _settle_positions(call: OperationCall, marks: Marks, channels: set[int]) -> None:
    """Keep pixels and kernel positions."""
    settled(call, marks, set(range(len(marks.shape))) - channels, None)


def _channels(marks: Marks, dim: int) -> Tensor | None:
    """Return the marks [n] along one dimension, or None where it has a fixed size."""
    for plane in marks.planes:
        if varying(plane) == {dim}:
            return plane.reshape(-1)
    return None


def _enter(call: OperationCall, entering: Tensor | None, inner: Tensor | None, free: bool) -> None:
    if inner is not None:
        call.atoms.contract(inner)
        if entering is not None:
            call.atoms.tie(entering, inner)
        elif not free:
            call.atoms.freeze(inner, "reads an input of fixed size")
    elif entering is not None:
        call.atoms.freeze(entering, f"is summed with a tensor of fixed size in {call.name}")


def _grouped(
    call: OperationCall, x: Marks, weight: Marks, entering: Tensor | None, groups: int, transposed: bool
) -> Tensor | None:
    """Return the marks of the output channels of a grouped convolution.

    With one input channel per group (depthwise) whole groups leave. Otherwise the same positions leave in every
    group, so that the number of groups stays.
    """
    rows, columns = _channels(weight, 0), _channels(weight, 1)
    channels = x.shape[1]
    if entering is None and not x.free:
        entering = torch.full((channels,), FROZEN)
    inner = rows if transposed else columns
    if channels == groups:
        per_group = rows.reshape(groups, -1) if rows is not None else None
        if per_group is not None and entering is not None:
            call.atoms.tie(per_group, entering[:, None])
        if not transposed:
            return rows
        call.atoms.freeze(columns if columns is not None else torch.tensor([FROZEN]), "is a grouped transposed output")
        return None if rows is None else rows.repeat_interleave(weight.shape[1])
    if inner is not None:
        call.atoms.contract(inner)
    if entering is not None and inner is not None:
        by_group = entering.reshape(groups, -1)
        call.atoms.tie(by_group, inner.reshape(groups, -1) if transposed else inner[None, :])
        call.atoms.tie_along(by_group, 0)
    if transposed:
        return None if columns is None else columns.repeat(groups)
    if rows is not None and len(rows) > groups:
        call.atoms.tie_along(rows.reshape(groups, -1), 0)
    elif rows is not None:
        call.atoms.freeze(rows, "has one output channel per group")
    return rows


def _channel_vector(marks: Marks, ndim: int, dim: int = 1) -> Marks:
    """View the marks of a vector [c] as those of a tensor of `ndim` dimensions with c along `dim`."""
    shape = [1] * ndim
    shape[dim] = marks.shape[0]
    return Marks(tuple(shape), [p.reshape(shape) for p in marks.planes], marks.parameter, marks.free)


def batch_norm(call: OperationCall) -> list[Marks]:
    """Batch and instance normalisation: statistics and affine belong to the channels."""
    tensors = call.tensors()
    x = call.marks_of(tensors[0])
    vectors = [_channel_vector(call.marks_of(t), len(x.shape)) for t in tensors[1:]]
    out = merge(call.atoms, [x, *vectors], x.shape, call.name)
    # Standardised weights go through here as [1, rows, columns], so that a statistic is taken over channels.
    over = [p for p in x.planes if varying(p) - {1}] if call.argument("training") else []
    call.note(over, gain=_gain(call) if x.parameter else None)
    out.writers = _affine(call)
    return [out] + [Marks(tuple(r.shape), free=True) for r in call.results[1:]]


def _gain(call: OperationCall) -> str:
    """Return the name of the parameter that scales standardised weights, "" where none does."""
    scale = call.argument("weight")
    names = call.atoms.names(call.marks_of(scale).planes) if scale is not None else ()
    return next(iter(names)) if len(names) == 1 else ""


def weight_norm(call: OperationCall) -> list[Marks]:
    """Direction and length of each row, or along another dimension (`nn.utils.parametrizations.weight_norm`).

    The length of a row does not change by columns that are zero, so what fusing switches off leaves it alone. Where
    lengths are those of what is summed over, they are switched off themselves: a direction of zeros has none.
    """
    direction, length = (call.marks_of(t) for t in call.tensors())
    weight, lengths = call.results
    dim = call.argument("dim") % weight.ndim
    call.note([p for p in direction.planes if dim not in varying(p)], operand=0)
    out = merge(call.atoms, [length, direction], tuple(weight.shape), call.name)
    return [out, Marks(tuple(lengths.shape), list(length.planes), parameter=True)]


def layer_norm(call: OperationCall) -> list[Marks]:
    """Layer normalisation over the trailing dimensions."""
    tensors = call.tensors()
    x = call.marks_of(tensors[0])
    out = merge(call.atoms, [x, *(call.marks_of(t) for t in tensors[1:])], x.shape, call.name)
    first = len(x.shape) - len(call.argument("normalized_shape"))
    _note_affine(call, tensors[1:])
    out.writers = _affine(call)
    _note_norm(call, x, set(range(first, len(x.shape))), call.name_of(call.argument("weight")))
    return [out] + [Marks(tuple(r.shape), free=True) for r in call.results[1:]]


def group_norm(call: OperationCall) -> list[Marks]:
    """Group normalisation: the same positions leave in every group."""
    tensors, groups = call.tensors(), call.argument("group")
    x = call.marks_of(tensors[0])
    _settle_positions(call, x, {0, 1})
    for plane in x.planes:
        if varying(plane) == {1} and len(plane.flatten()) > groups:
            call.atoms.tie_along(plane.reshape(groups, -1), 0)
    vectors = [_channel_vector(call.marks_of(t), len(x.shape)) for t in tensors[1:]]
    out = merge(call.atoms, [x, *vectors], x.shape, call.name)
    out.affine = call.atoms.names([plane for vector in vectors for plane in vector.planes])
    _note_affine(call, tensors[1:])
    out.writers = out.affine
    _note_norm(call, x, {1} if x.shape[1] > groups else set(), None)  # one channel a group has its own
    return [out] + [Marks(tuple(r.shape), free=True) for r in call.results[1:]]


def _affine(call: OperationCall) -> frozenset[str]:
    """Return the names of scale and shift of a normalisation."""
    vectors = [call.argument(name) for name in ("weight", "bias")]
    return call.atoms.names([plane for v in vectors if v is not None for plane in call.marks_of(v).planes])


def _note_affine(call: OperationCall, vectors: Sequence[Tensor]) -> None:
    for tensor in vectors:
        for plane in call.marks_of(tensor).planes:
            call.atoms.affine.update(call.atoms.owners(plane))


def _note_norm(call: OperationCall, x: Marks, dims: set[int], scale: str | None) -> None:
    """Note the marks that are normalised together (none where the width is fixed)."""
    call.note([p for p in x.planes if varying(p) & dims], scale=scale)
