"""What each operation does to marks: a table from operation names to rules.

To teach the tracer a new operation, add its name to one of the sets below or write a rule and enter it in `RULES`.
A rule receives a `Call` and returns the marks of each result. An operation in no table is not understood: its marks
are frozen (kept whole) and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .atoms import FROZEN, NEUTRAL, Atoms, varying
from .marks import Marks, merge, positions, restructure, shared_stretches
from .shuffles import tie_shuffled


@dataclass
class Statistic:
    """One call that takes a statistic over channels: LayerNorm, GroupNorm, or a plain mean, sum, variance, ...

    Attributes:
        operation: bare name of the operation.
        module: name of the module that ran it.
        planes: mark planes of the input along which the statistic is taken; none where that does not change by
            pruning.
        scale: name of the scale of a LayerNorm; GroupNorm has none here, as centring is not neutral for it.
        operand: not a statistic but a sum: the number of the tensor argument, computed from parameters, whose planes
            are summed over. What is removed of it has to be switched off there, if it is not stored as zeros.
    """

    operation: str
    module: str
    planes: tuple[Tensor, ...]
    scale: str | None = None
    operand: int | None = None


@dataclass
class Call:
    """One operation: its arguments, results and the marks known of them."""

    atoms: Atoms
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]
    marks_of: Callable[[Tensor], Marks]
    name_of: Callable[[Tensor | None], str | None]
    module: str
    statistics: list[Statistic]
    restate: Callable[[Tensor, Marks], None]
    new_debts: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Bare name of the operation, for example "convolution"."""
        return str(self.func._schema.name.split("::")[-1])

    def argument(self, name: str) -> Any:
        """Return an argument by its name in the operation's schema."""
        for position, spec in enumerate(self.func._schema.arguments):
            if spec.name == name:
                given = self.args[position] if position < len(self.args) else self.kwargs.get(name, spec.default_value)
                return given
        return None

    def debt(self, marks: Tensor, reason: str) -> int:
        """Return the number of a new debt: marks to freeze if what owes it is ever used in an output."""
        self.atoms.debts.append((marks, reason))
        return len(self.atoms.debts) - 1

    def owe(self, marks: Tensor, reason: str) -> None:
        """Freeze marks if a result of this operation is ever used in an output of the network."""
        self.new_debts.add(self.debt(marks, reason))

    def tensors(self) -> list[Tensor]:
        """Return all tensor arguments, lists of tensors opened."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def dims(self, ndim: int) -> list[int]:
        """Return the `dim` argument as a list of non-negative dimensions (all of them when it is not given)."""
        dim = self.argument("dim")
        dims = range(ndim) if dim is None or dim == [] else ([dim] if isinstance(dim, int) else dim)
        return [d % ndim for d in dims]


Rule = Callable[[Call], list[Marks]]

VIEWS = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze",
    "slice", "select", "narrow", "split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "chunk",
    "unsafe_chunk", "unbind", "roll", "flip", "repeat", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold",
    "movedim", "diagonal", "tril", "triu", "alias",
}  # fmt: skip
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
SAME = {
    "clone", "detach", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy", "view_as", "native_dropout",
    "to", "type_as", "_conj", "alias_copy",
}  # fmt: skip
SPATIAL = {
    "max_pool2d_with_indices": 2, "max_pool1d": 1, "max_pool2d": 2, "max_pool3d_with_indices": 3, "avg_pool1d": 1,
    "avg_pool2d": 2, "avg_pool3d": 3, "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_avg_pool1d": 1,
    "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3, "mkldnn_max_pool2d": 2,
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2,
    "upsample_linear1d": 1, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "upsample_nearest3d": 3,
    "upsample_trilinear3d": 3, "reflection_pad1d": 1, "reflection_pad2d": 2, "replication_pad1d": 1,
    "replication_pad2d": 2, "im2col": 2,
}  # fmt: skip
POINTWISE = {  # not tagged as such by torch
    "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "hardtanh", "hardtanh_", "_prelu_kernel",
}  # fmt: skip
FILLS = {"bernoulli_", "uniform_", "normal_", "random_", "zero_", "fill_", "exponential_"}
STATISTICS = {
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "logsumexp", "norm",
    "linalg_vector_norm",
}  # fmt: skip
REDUCTIONS = STATISTICS | {
    "argmax", "argmin", "any", "all", "_softmax", "_log_softmax", "_safe_softmax", "cumsum",
}  # fmt: skip


def structural(call: Call) -> list[Marks]:
    """View, permute, slice, ...: executed on the planes themselves."""
    source = call.marks_of(call.tensors()[0])
    if call.func._overloadname == "dtype":
        return unknown(call)
    stand_in = call.tensors()[0]

    def run(plane: Tensor) -> Tensor | Sequence[Tensor]:
        swap = lambda leaf: plane if leaf is stand_in else leaf  # noqa: E731
        out: Tensor | Sequence[Tensor] = call.func(*tree_map(swap, call.args), **call.kwargs)
        return out

    if call.name in RESHAPES:
        source.planes = [tie_shuffled(call.atoms, p, source.shape, call.results[0].shape) for p in source.planes]
    found = restructure(run, source, call.results)
    if call.name in ("expand", "repeat"):
        found[0].stretched += _copies(source.aligned(call.results[0].ndim).shape, call.results[0].shape)
    return found


def _copies(old: Sequence[int], new: Sequence[int]) -> tuple[Tensor, ...]:
    """Return for each dimension that was expanded or repeated the number of the copy at each position."""
    grown = [dim for dim, size in enumerate(new) if size > old[dim] > 0]
    return tuple(positions(new, dim) // old[dim] for dim in grown)


def same(call: Call) -> list[Marks]:
    """Copies and casts: every result has the marks of the first tensor."""
    source = call.marks_of(call.tensors()[0])
    return [like(result, list(source.planes), source, source.stretched) for result in call.results]


def pointwise(call: Call) -> list[Marks]:
    """Arithmetic and activations: aligned marks are tied."""
    operands = [call.marks_of(t) for t in call.tensors()]
    if call.name.endswith("_") and call.tensors()[0]._is_view() and operands[0].free:
        # The tensor that is written through the view does not learn of these marks.
        return unknown(call)
    layer = _scaled_layer(call, operands) if call.name.rstrip("_") == "mul" else frozenset()
    found = [merge(call.atoms, operands, tuple(result.shape), call.name) for result in call.results]
    for marks in found:
        marks.layer = layer
    return found


def _scaled_layer(call: Call, operands: Sequence[Marks]) -> frozenset[str]:
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


def gated(call: Call) -> list[Marks]:
    """`glu`: one half of a dimension times the sigmoid of the other."""
    source, result = call.marks_of(call.args[0]), call.results[0]
    halves = restructure(lambda plane: plane.chunk(2, call.argument("dim")), source, [result, result])
    return [merge(call.atoms, halves, tuple(result.shape), call.name)]


def restrided(call: Call) -> list[Marks]:
    """`as_strided_` at the same shape only changes the memory layout; anything else is not understood."""
    source = call.tensors()[0]
    return same(call) if list(source.shape) == list(call.argument("size")) else unknown(call)


def joined(call: Call) -> list[Marks]:
    """`cat` and `stack`: planes of the same other dimensions are joined; a fixed size counts as frozen."""
    given = [t for t in call.tensors() if t.numel() or t.ndim > 1]
    sources = [call.marks_of(t) for t in given]
    result, dim = call.results[0], (call.argument("dim") or 0) % call.results[0].ndim
    own = {dim} if call.name == "cat" else set()
    systems = sorted({varying(p) - own for s in sources for p in s.planes}, key=sorted)
    planes = [_join(call, sources, frozenset(system), dim) for system in systems]
    parameter, free = all(s.parameter for s in sources), all(s.free for s in sources)
    stretched = [n for n in shared_stretches(sources) if n.shape[dim] == 1] if call.name == "cat" else []
    if len({id(t) for t in given}) == 1 and result.numel():  # one tensor again and again
        stretched.append(positions(result.shape, dim) // (result.shape[dim] // len(given)))
    return [Marks(tuple(result.shape), planes, parameter, free, tuple(stretched))]


def _join(call: Call, sources: list[Marks], system: frozenset[int], dim: int) -> Tensor:
    parts, uneven = [], False
    for source in sources:
        own = [p for p in source.planes if (varying(p) - {dim} if call.name == "cat" else varying(p)) == system]
        filler = torch.tensor(NEUTRAL if source.free else FROZEN)
        parts.append((own[0] if own else filler).expand(source.shape))
        uneven = uneven or (bool(own) and dim in varying(own[0]))
        for other in own[1:]:
            call.atoms.tie(own[0], other)
    if call.name == "stack":
        return torch.stack(parts, dim)
    plane = torch.cat(parts, dim)
    # Tokens joined to tokens: their widths shrink together, so one mark for all of them.
    return plane if uneven or not system else call.atoms.tie_along(plane, dim)


def reduction(call: Call) -> list[Marks]:
    """Sums, means, softmax, ...: marks of other dimensions pass, those of a reduced one meet their end.

    A statistic over channels (their mean, their norm) is taken over fewer channels in the proxy, which is noted. A
    softmax over channels, or the number of the largest, means something else with fewer: then they are frozen if the
    result is ever used. Where a reduced dimension is one of several that a channel spans (the width of a head), the
    channel leaves as a whole.
    """
    source = call.marks_of(call.tensors()[0])
    ndim = len(source.shape)
    dims = call.dims(ndim) if ndim else []
    passed, over = [], []
    for plane in source.planes:
        reduced = varying(plane) & set(dims)
        if not reduced:
            passed.append(plane)
        elif len(varying(plane)) > len(reduced):
            for dim in reduced:
                plane = call.atoms.tie_along(plane, dim)
            passed.append(plane)
        elif call.name in STATISTICS and len(reduced) == 1:
            over.append(plane)
        else:
            call.owe(plane, f"is reduced over by {call.name}")
    if call.name in STATISTICS:
        call.statistics.append(Statistic(call.name, call.module, tuple(over)))
    numbers = [n for n in source.stretched if not varying(n) & set(dims)]
    if call.results and call.results[0].ndim != ndim:
        passed, numbers = (
            [p.reshape([n for d, n in enumerate(p.shape) if d not in dims]) for p in given]
            for given in (passed, numbers)
        )
    results = [like(result, list(passed), source, tuple(numbers)) for result in call.results]
    if call.name in ("max", "min"):
        for places in results[1:]:
            places.debts = frozenset(call.debt(plane, f"is counted along by {call.name}") for plane in over)
    return results


def spatial(call: Call) -> list[Marks]:
    """Pooling and resizing: only the trailing dimensions change."""
    source = call.marks_of(call.tensors()[0])
    trailing = {len(source.shape) - 1 - i for i in range(SPATIAL[call.name])}
    freeze_planes(call, source, trailing, "is resized by")
    return [like(result, list(source.planes), source) for result in call.results]


def pad(call: Call) -> list[Marks]:
    """Constant padding: padded positions along a marked dimension have a fixed place, so they are frozen."""
    source = call.marks_of(call.tensors()[0])
    amounts, ndim = call.argument("pad"), len(source.shape)
    planes = []
    for plane in source.planes:
        own = [a if ndim - 1 - i // 2 in varying(plane) else 0 for i, a in enumerate(amounts)]
        padded = torch.nn.functional.pad(plane, own, value=FROZEN)
        planes.append(padded)
    return [like(call.results[0], planes, source)]


def factory(call: Call) -> list[Marks]:
    """zeros, ones, arange, rand, ...: made from sizes alone."""
    return [Marks(tuple(result.shape), free=True) for result in call.results]


def unknown(call: Call) -> list[Marks]:
    """Not understood: everything that goes in is kept whole."""
    for tensor in call.tensors():
        for plane in call.marks_of(tensor).planes:
            call.atoms.freeze(plane, f"goes through {call.name}, which is not understood")
    return [Marks(tuple(result.shape)) for result in call.results]


def freeze_planes(call: Call, source: Marks, dims: set[int], what: str) -> None:
    """Freeze and drop the planes of `source` that vary along any of `dims`."""
    for plane in source.planes:
        if varying(plane) & dims:
            call.atoms.freeze(plane, f"{what} {call.name}")
    source.planes = [plane for plane in source.planes if not varying(plane) & dims]


def like(result: Tensor, planes: list[Tensor], source: Marks, stretched: tuple[Tensor, ...] = ()) -> Marks:
    """Return the marks of a result: new planes, and what else is known of where it came from."""
    return Marks(tuple(result.shape), planes, source.parameter, source.free, stretched, layer=source.layer)
