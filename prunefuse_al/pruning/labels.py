"""Label planes: which atoms the positions of a tensor belong to, and how planes of several tensors combine.

A plane is an int64 tensor that broadcasts to the tensor it describes. A feature map [n c h w] whose channels come
from one convolution has a single plane [1 c 1 1]; flattened to [n c*h*w] the plane is [1 c*h*w], each label repeated
h*w times. A dimension of size > 1 along which no plane differs has a fixed size (the batch, pixels, tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .atoms import FROZEN, NEUTRAL, Atoms, narrowed, varying


@dataclass
class Labels:
    """What is known of one tensor.

    Attributes:
        shape: shape of the tensor.
        planes: label planes, each broadcastable to `shape`.
        parameter: it is computed from parameters and buffers alone.
        free: it was made inside forward from sizes alone, so that it adapts to any width.
        stretched: dimensions that were expanded from size 1, which adapt as well.
        debts: numbers of the freezes that are due if the tensor is ever used in an output.
        layer: weight and bias of the layer that gave it, while nothing came after but a scale of each channel.
    """

    shape: tuple[int, ...]
    planes: list[Tensor] = field(default_factory=list)
    parameter: bool = False
    free: bool = False
    stretched: frozenset[int] = frozenset()
    debts: frozenset[int] = frozenset()
    layer: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        planes = [narrowed(plane) for plane in self.planes]
        self.free = self.free or (bool(planes) and all(bool((p == NEUTRAL).all()) for p in planes))
        self.planes = [plane for plane in planes if bool((plane > FROZEN).any())]

    def copy(self, shape: tuple[int, ...] | None = None, planes: list[Tensor] | None = None) -> Labels:
        """Return the same labels, which are not looked through again, with another shape and planes of one."""
        out = object.__new__(Labels)
        out.__dict__.update(self.__dict__)
        out.shape = self.shape if shape is None else shape
        out.planes = list(self.planes if planes is None else planes)
        return out

    def fixed(self, dim: int) -> bool:
        """True where the tensor has a size along `dim` that pruning cannot change."""
        if self.free or self.shape[dim] == 1 or dim in self.stretched:
            return False
        return all(plane.shape[dim] == 1 for plane in self.planes)

    def full(self, plane: Tensor) -> Tensor:
        """Return the plane with one label for each position."""
        return plane.expand(self.shape)

    def aligned(self, ndim: int) -> Labels:
        """Return the same with leading dimensions of size 1, as broadcasting does."""
        lead = (1,) * (ndim - len(self.shape))
        out = self.copy(lead + tuple(self.shape), [plane.reshape(lead + tuple(plane.shape)) for plane in self.planes])
        out.stretched = frozenset(dim + len(lead) for dim in self.stretched)
        return out


def merge(atoms: Atoms, operands: Sequence[Labels], shape: Sequence[int], where: str) -> Labels:
    """Combine tensors point by point: aligned labels are tied, labels that meet a fixed size are frozen.

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
    labelled = [(number, plane) for number, operand in enumerate(aligned) for plane in operand.planes]
    for number, plane in sorted(labelled, key=lambda item: -len(varying(item[1]))):
        _absorb(planes, number, plane)
    return Labels(
        tuple(shape),
        [plane for _, plane in planes],
        all(o.parameter or o.free for o in operands),
        bool(operands) and all(o.free for o in operands),
    )


def _freeze_on_fixed(atoms: Atoms, left: Labels, right: Labels, where: str) -> None:
    for number, plane in enumerate(left.planes):
        fixed = {d for d in varying(plane) if right.fixed(d)}
        if not fixed:
            continue
        if fixed == varying(plane):
            atoms.freeze(plane, f"meets a tensor of fixed size in {where}")
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
    """True where two planes vary along the same dimensions and have equal labels at the same positions."""
    if not varying(a) or varying(a) != varying(b):
        return False
    both = torch.stack([p.flatten() for p in torch.broadcast_tensors(a, b)])
    count = torch.unique(both, dim=1).shape[1]
    return bool(len(torch.unique(a)) == count and len(torch.unique(b)) == count)


def _absorb(planes: list[tuple[int, Tensor]], operand: int, plane: Tensor) -> None:
    """Add a plane to a list unless one of another operand varies along the same dimensions (and more) already."""
    for position, (owner, other) in enumerate(planes):
        if owner != operand and varying(plane) <= varying(other):
            if varying(plane) == varying(other):  # neutral positions of one may be labelled in the other
                planes[position] = owner, torch.where(other == NEUTRAL, plane, other)
            return
    planes.append((operand, plane))


def restructure(operation: Callable[[Tensor], Tensor | Sequence[Tensor]], labels: Labels) -> list[list[Tensor]]:
    """Run a structural operation (view, permute, slice, ...) on every plane: exact by construction.

    Returns:
        For each result of the operation, its planes.
    """
    results: list[list[Tensor]] = []
    for plane in labels.planes:
        try:
            out = operation(labels.full(plane))
        except RuntimeError:  # a view that merges dimensions needs a label for each position in memory
            out = operation(labels.full(plane).contiguous())
        outs = [out] if isinstance(out, Tensor) else list(out)
        results = results or [[] for _ in outs]
        for planes, value in zip(results, outs, strict=True):
            planes.append(value)
    return results
