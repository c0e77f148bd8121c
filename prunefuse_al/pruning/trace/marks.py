"""Mark planes: which atoms the positions of a tensor belong to, and how planes of several tensors combine.

A plane is an int64 tensor that broadcasts to the tensor it describes. A feature map [n c h w] whose channels come
from one convolution has a single plane [1 c 1 1]; flattened to [n c*h*w] the plane is [1 c*h*w], each mark repeated
h*w times. A dimension of size > 1 along which no plane differs has a fixed size (the batch, pixels, tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .atoms import FROZEN, NEUTRAL, Atoms, narrowed, varying


@dataclass
class Marks:
    """What is known of one tensor.

    Attributes:
        shape: shape of the tensor.
        planes: mark planes, each broadcastable to `shape`.
        parameter: it is computed from parameters and buffers alone.
        free: it was made inside forward from sizes alone, so that it adapts to any width.
        stretched: for each axis that was expanded from size 1 or repeated, the number along it at each position,
            broadcastable to `shape`: 0 1 2 0 1 2 once 3 heads were viewed as one dimension with 2 rows. Where only
            these numbers differ the tensor is the same, so that it adapts to what is left along that axis.
        debts: numbers of the freezes that are due if the tensor is ever used in an output.
        layer: weight and bias of the layer that gave it, while nothing came after but a scale of each channel.
        origin: the attribute of a module that it was taken from, of a tensor that is neither parameter nor buffer.
        affine: scale and shift of the normalisation that gave it, while what came after (ReLU, pooling) gives as much
            less as these are smaller.
        writers: names of the tensors that gave it: weight and bias of a layer, scale and shift of a normalisation.
            Where these are zero it is, as long as what came after leaves zeros alone.
    """

    shape: tuple[int, ...]
    planes: list[Tensor] = field(default_factory=list)
    parameter: bool = False
    free: bool = False
    stretched: tuple[Tensor, ...] = ()
    debts: frozenset[int] = frozenset()
    layer: frozenset[str] = frozenset()
    origin: str = ""
    affine: frozenset[str] = frozenset()
    writers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        planes = [narrowed(plane) for plane in self.planes]
        self.free = self.free or (bool(planes) and all(bool((p == NEUTRAL).all()) for p in planes))
        self.planes = [plane for plane in planes if bool((plane > FROZEN).any())]
        self.stretched = tuple(n for n in map(narrowed, self.stretched) if len(varying(n)) == 1)

    def copy(self, shape: tuple[int, ...] | None = None, planes: list[Tensor] | None = None) -> Marks:
        """Return the same marks, which are not looked through again, with another shape and planes of one."""
        out = object.__new__(Marks)
        out.__dict__.update(self.__dict__)
        out.shape = self.shape if shape is None else shape
        out.planes = list(self.planes if planes is None else planes)
        return out

    def fixed(self, dim: int) -> bool:
        """True where the tensor has positions along `dim` that stay, all or those of an axis it was stretched by."""
        if self.free or self.shape[dim] == 1:
            return False
        return all(plane.shape[dim] == 1 for plane in self.planes)

    def copied_from(self, dim: int) -> Tensor | None:
        """Return for each position along `dim` the first one of the same numbers; None where nothing is stretched."""
        numbers = [n.flatten() for n in self.stretched if dim in varying(n)]
        if not numbers:
            return None
        _, alike = torch.unique(torch.stack(numbers), dim=1, return_inverse=True)
        first = torch.full((len(alike),), len(alike)).scatter_reduce(0, alike, torch.arange(len(alike)), "amin")
        return first[alike]

    def full(self, plane: Tensor) -> Tensor:
        """Return the plane with one mark for each position."""
        return plane.expand(self.shape)

    def aligned(self, ndim: int) -> Marks:
        """Return the same with leading dimensions of size 1, as broadcasting does."""
        lead = (1,) * (ndim - len(self.shape))
        planes, numbers = ([p.reshape(lead + tuple(p.shape)) for p in given] for given in (self.planes, self.stretched))
        out = self.copy(lead + tuple(self.shape), planes)
        out.stretched = tuple(numbers)
        return out


def merge(atoms: Atoms, operands: Sequence[Marks], shape: Sequence[int], where: str) -> Marks:
    """Combine tensors point by point: aligned marks are tied, marks that meet a fixed size are frozen.

    Args:
        atoms: receives the ties.
        operands: the tensors, broadcastable to `shape`.
        shape: shape of the result.
        where: name of the operation, for the report.
    """
    aligned = [operand.aligned(len(shape)) for operand in operands]
    for i, left in enumerate(aligned):
        for j, right in enumerate(aligned):
            if i != j:
                _freeze_on_fixed(atoms, left, right, where)
            if i < j:
                _tie_planes(atoms, left.planes, right.planes)
    planes: list[tuple[int, Tensor]] = []
    marked = [(number, plane) for number, operand in enumerate(aligned) for plane in operand.planes]
    for number, plane in sorted(marked, key=lambda item: (-len(varying(item[1])), aligned[item[0]].parameter)):
        _absorb(planes, number, plane)
    return Marks(
        tuple(shape),
        [plane for _, plane in planes],
        all(o.parameter or o.free for o in operands),
        bool(operands) and all(o.free for o in operands),
        shared_stretches(aligned),
    )


def shared_stretches(operands: Sequence[Marks]) -> tuple[Tensor, ...]:
    """Return the numbers along stretched axes that every operand adapts to: it has them too, or size 1, or any size."""
    found: list[Tensor] = []
    for operand in operands:
        for numbers in operand.stretched or _sizes_alone(operand):
            (dim,) = varying(numbers)
            others = [o for o in operands if o.shape[dim] > 1 and not o.free]
            if all(_any_equal(numbers, o.stretched) for o in others) and not _any_equal(numbers, found):
                found.append(numbers)
    return tuple(found)


def _any_equal(numbers: Tensor, others: Iterable[Tensor]) -> bool:
    return any(torch.equal(numbers, other) for other in others)


def _sizes_alone(marks: Marks) -> list[Tensor]:
    """Return the numbers along every dimension of a tensor that was made from sizes alone."""
    dims = [dim for dim, size in enumerate(marks.shape) if marks.free and size > 1]
    return [positions(marks.shape, dim) for dim in dims]


def positions(shape: Sequence[int], dim: int) -> Tensor:
    """Return the number of each position along one dimension, broadcastable to `shape`."""
    return torch.arange(shape[dim]).view([-1 if d == dim else 1 for d in range(len(shape))])


def _freeze_on_fixed(atoms: Atoms, left: Marks, right: Marks, where: str) -> None:
    for number, plane in enumerate(left.planes):
        fixed = set()
        for dim in (d for d in varying(plane) if right.fixed(d)):
            first = right.copied_from(dim)
            if first is None:
                fixed.add(dim)
            else:  # the same leave of what each position was copied to
                atoms.tie(plane, plane.index_select(dim, first))
        if not fixed:
            continue
        if fixed == varying(plane):
            plain = f" ({right.origin}, which is no buffer; see register_buffer)" if right.origin else ""
            atoms.freeze(plane, f"meets a tensor of fixed size{plain} in {where}")
            plane = torch.where(plane > FROZEN, FROZEN, plane)
        else:  # of several dimensions that a channel spans: it leaves as a whole
            for dim in fixed:
                plane = atoms.tie_along(plane, dim)
        left.planes[number] = plane


def _tie_planes(atoms: Atoms, left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
    for a, b in partners(left, right):
        shared = varying(a) & varying(b)
        if shared and shared != varying(a) and shared == varying(b):
            atoms.tie_if_free(a, b)
        elif shared and shared != varying(b) and shared == varying(a):
            atoms.tie_if_free(b, a)
        elif shared:
            atoms.tie(a, b)


def partners(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the pairs of planes to tie, one of each tensor.

    Where both have several (the number of a head and a place within it, viewed as one dimension), heads go with heads
    and places with places: with planes that change and stay at the same positions.
    """
    pairs = [(a, b) for a in left for b in right]
    if min(len(left), len(right)) < 2:
        return pairs
    alike = [_same_pattern(a, b) for a, b in pairs]
    sure = [pair for pair, same in zip(pairs, alike, strict=True) if same]
    settled = {id(plane) for pair in sure for plane in pair}
    return sure + [(a, b) for a, b in pairs if not {id(a), id(b)} <= settled]


def _same_pattern(a: Tensor, b: Tensor) -> bool:
    """True where two planes vary along the same dimensions and have equal marks at the same positions."""
    if not varying(a) or varying(a) != varying(b):
        return False
    both = torch.stack([p.flatten() for p in torch.broadcast_tensors(a, b)])
    count = torch.unique(both, dim=1).shape[1]
    return bool(len(torch.unique(a)) == count and len(torch.unique(b)) == count)


def _absorb(planes: list[tuple[int, Tensor]], operand: int, plane: Tensor) -> None:
    """Add a plane to a list unless one of another operand varies along the same dimensions (and more) already."""
    for position, (owner, other) in enumerate(planes):
        if owner != operand and varying(plane) <= varying(other):
            if varying(plane) == varying(other):  # neutral positions of one may be marked in the other
                planes[position] = owner, torch.where(other == NEUTRAL, plane, other)
            return
    planes.append((operand, plane))


Structural = Callable[[Tensor], Tensor | Sequence[Tensor]]


def restructure(operation: Structural, source: Marks, results: Sequence[Tensor]) -> list[Marks]:
    """Run a structural operation (view, permute, slice, ...) on every plane: exact by construction.

    Returns:
        What is known of each result of the operation.
    """
    planes, numbers = (_carried_out(operation, source, given) for given in (source.planes, source.stretched))
    return [
        Marks(
            tuple(result.shape),
            [plane[place] for plane in planes],
            source.parameter,
            source.free,
            tuple(number[place] for number in numbers),
            layer=source.layer,
            origin=source.origin,
            affine=source.affine,
            writers=source.writers,
        )
        for place, result in enumerate(results)
    ]


def _carried_out(operation: Structural, source: Marks, planes: Iterable[Tensor]) -> list[Sequence[Tensor]]:
    """Return for each plane what the operation makes of it: one or several."""
    found: list[Sequence[Tensor]] = []
    for plane in planes:
        try:
            out = operation(source.full(plane))
        except RuntimeError:  # a view that merges dimensions needs a mark for each position in memory
            out = operation(source.full(plane).contiguous())
        found.append([out] if isinstance(out, Tensor) else out)
    return found
