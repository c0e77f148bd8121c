"""Atoms: one number for each position along each dimension of each floating parameter and buffer.

Atoms that must live or die together are tied; atoms that must stay are tied to atom 0. Ties are collected as plain
pairs while the network is watched and resolved once, by connected components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FROZEN = 0  # the atom of everything that is kept whole
NATURAL = "reads an input"  # how reasons begin for which no change of the code is a remedy
NEUTRAL = -1  # a position that ties to nothing, such as a tensor of zeros made inside forward


@dataclass(frozen=True)
class Axis:
    """One dimension of one named tensor; its atoms are `start` ... `start + size - 1`."""

    name: str
    dim: int
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Freeze:
    """Marks that are kept whole, and why; None where that is in the nature of the axis."""

    marks: Tensor
    reason: str | None


@dataclass(frozen=True, eq=False)
class Addition:
    """Marks of two computed tensors that were added, and the name of the module that did it."""

    module: str
    left: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class Summed:
    """A width over which computed values are summed, so that no weight can be switched off for what is removed of it.

    Attributes:
        marks: of what one tensor has along that width.
        writers: names of the tensors that gave it, see `Marks`.
        product: it meets another computed tensor there, as queries meet keys; else a statistic is taken over it.
    """

    marks: Tensor
    writers: frozenset[str]
    product: bool


class Atoms:
    """The atoms of a network, the ties among them, and why some are frozen.

    Args:
        tensors: parameters and buffers by name.
        inside: where computed tensors meet, as the queries, keys and values of attention heads, the width of each may
            be thinned; else heads leave as a whole.
    """

    def __init__(self, tensors: dict[str, Tensor], *, inside: bool = False) -> None:
        self.inside = inside
        self.heads: list[Tensor] = []  # marks of widths over which two computed tensors are summed
        self.summed: list[Summed] = []
        self.axes: list[Axis] = []
        self.registered: dict[str, str] = {}  # name -> the first name of the same tensor, which owns the atoms
        self._of_tensor: dict[str, list[Axis]] = {}
        self._pairs: list[np.ndarray] = []
        self._shared: list[tuple[Tensor, Tensor]] = []  # marks [lines, m] and [m], see tie_if_free
        self.frozen: list[Freeze] = []
        self.contracted: set[int] = set()  # axis numbers that are summed over
        self.written: set[int] = set()  # axis numbers along which a layer gives out
        self.debts: list[Freeze] = []  # due if what was computed from them is used
        self.scaled: dict[str, set[str]] = {}  # a tensor that scales what a layer gives -> weight and bias of the layer
        self.fed: dict[int, frozenset[str]] = {}  # axis number -> scale and shift of what alone it is given, see Marks
        self.sums: list[Addition] = []
        self.affine: set[int] = set()  # axis numbers of the scale and shift of a normalisation
        self.total = 1
        first: dict[int, str] = {}
        for name, tensor in tensors.items():
            self.registered[name] = first.setdefault(id(tensor), name)
            if name != self.registered[name]:
                continue
            self._of_tensor[name] = []
            if tensor.is_floating_point():
                for dim, size in enumerate(tensor.shape):
                    if size > 1:
                        self._add(Axis(name, dim, self.total, size))
        self._starts = np.array([axis.start for axis in self.axes], dtype=np.int64)
        self._end = self.total  # of those that belong to tensors
        self.padded: list[Freeze] = []  # positions that forward made: they stay if it makes a fixed number of them

    def _add(self, axis: Axis) -> None:
        self.axes.append(axis)
        self._of_tensor[axis.name].append(axis)
        self.total += axis.size

    def made(self, number: int) -> Tensor:
        """Return so many new atoms, of positions that are made inside forward and belong to no tensor."""
        self.total += number
        return torch.arange(self.total - number, self.total)

    def planes(self, name: str, ndim: int) -> list[Tensor]:
        """Return one mark plane for each axis of a tensor, broadcastable to its shape."""
        return [
            torch.arange(axis.start, axis.start + axis.size).view([-1 if d == axis.dim else 1 for d in range(ndim)])
            for axis in self._of_tensor[name]
        ]

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Tie two broadcastable mark tensors position by position; neutral positions tie to nothing."""
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        one, other = a.numpy(), b.numpy()  # which is quicker where there are few
        if one.size and min(one.min(), other.min()) > FROZEN:  # as mostly
            mask = one != other
            if mask.any():
                self._pairs.append(np.stack([one[mask], other[mask]]))
            return
        fixed = ((one == FROZEN) & (other > FROZEN)) | ((other == FROZEN) & (one > FROZEN))
        if fixed.any():
            self.freeze(torch.from_numpy(np.maximum(one, other)[fixed]), "is joined with positions of fixed size")
        mask = (one > FROZEN) & (other > FROZEN) & (one != other)
        if mask.any():
            self._pairs.append(np.stack([one[mask], other[mask]]))

    def tie_if_free(self, plane: Tensor, shared: Tensor) -> None:
        """Tie a plane to one that varies along fewer dimensions, so that every line of `plane` shares its marks.

        Where it turns out that each line leaves as a whole (the width of an attention head, scaled or rotated by what
        all heads share), tying would make all lines one: then what is shared is kept whole instead.
        """
        dims = varying(shared)
        order = [d for d in range(plane.ndim) if d not in dims] + sorted(dims)
        a, b = torch.broadcast_tensors(plane, shared)
        m = int(np.prod([a.shape[d] for d in dims]))
        self._shared.append((a.permute(order).reshape(-1, m), b.permute(order).reshape(-1, m)[0]))

    def tie_along(self, plane: Tensor, dim: int) -> Tensor:
        """Tie all marks along `dim` and return one representative of each line (size 1 along `dim`)."""
        first = plane.narrow(dim, 0, 1)
        self.tie(plane, first)
        return first

    def tied_along(self, plane: Tensor, dim: int) -> bool:
        """Return whether all marks along `dim` leave together already."""
        own = self._resolve()[plane.clamp(min=FROZEN).numpy()]
        return bool((own == np.take(own, [0], axis=dim)).all())

    def freeze(self, marks: Tensor, reason: str | None) -> None:
        """Keep marks whole; `reason` None means that this is in the nature of the axis."""
        marks = torch.unique(marks[marks > FROZEN])
        if len(marks):
            self.frozen.append(Freeze(marks, reason))

    def locate(self, frozen: int, debts: int, place: Callable[[], str]) -> None:
        """Add where it happened to the reasons of what was frozen, and of what is owed, after so many before."""
        for found, start in ((self.frozen, frozen), (self.debts, debts)):
            for number in range(start, len(found)):
                reason = found[number].reason
                if reason is not None and not reason.startswith(NATURAL) and (where := place()):
                    found[number] = Freeze(found[number].marks, f"{reason}, at {where}")

    def contract(self, marks: Tensor) -> None:
        """Note that the axes these marks belong to are summed over."""
        self.contracted.update(self.owners(marks))

    def write(self, marks: Tensor) -> None:
        """Note that the axes these marks belong to are given out by a layer."""
        self.written.update(self.owners(marks))

    def meet(self, module: str, left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Note that a module added two computed tensors with these planes."""
        if left and right:
            one, other = (torch.cat([plane.flatten() for plane in planes]).unique() for planes in (left, right))
            self.sums.append(Addition(module, one, other))

    def names(self, planes: Iterable[Tensor]) -> frozenset[str]:
        """Return the names of the tensors that marks belong to."""
        return frozenset(self.axes[number].name for plane in planes for number in self.owners(plane))

    def owners(self, marks: Tensor) -> set[int]:
        """Return the numbers of the axes that positive marks belong to; what was made inside forward has none."""
        flat = marks.numpy()
        flat = flat[(flat > FROZEN) & (flat < self._end)]
        if not flat.size:
            return set()
        first, last = (int(np.searchsorted(self._starts, end, side="right")) - 1 for end in (flat.min(), flat.max()))
        if first == last:  # as mostly: a look at every mark takes long
            return {first}
        return set((np.searchsorted(self._starts, np.unique(flat), side="right") - 1).tolist())

    def components(self) -> tuple[np.ndarray, dict[int, str]]:
        """Resolve the ties.

        Returns:
            The component of each atom, where the component of atom 0 holds everything frozen; and axis number -> first
            reason that it, or something tied to it, was frozen.
        """
        self._settle_shared()
        components = self._resolve()
        reasons: dict[int, str] = {}
        for freeze in self.frozen:
            if freeze.reason is not None:
                tied = np.flatnonzero(np.isin(components, components[freeze.marks.numpy()]))
                for number in self.owners(torch.from_numpy(tied)):
                    reasons.setdefault(number, freeze.reason)
        frozen = [components[freeze.marks.numpy()] for freeze in self.frozen]
        if frozen:
            components[np.isin(components, np.concatenate(frozen))] = components[FROZEN]
        return components, reasons

    def _resolve(self) -> np.ndarray:
        pairs = np.concatenate(self._pairs, axis=1) if self._pairs else np.zeros((2, 0), dtype=np.int64)
        graph = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(self.total,) * 2)
        return np.asarray(connected_components(graph, directed=False)[1])

    def _settle_shared(self) -> None:
        if not self._shared:
            return
        components = self._resolve()
        for lines, shared in self._shared:
            own = components[lines.clamp(min=FROZEN).numpy()]
            if (own == own[:, :1]).all() and (own != own[0]).any():
                self.freeze(shared, "is shared by blocks that leave as a whole")
            else:
                self.tie(lines, shared[None, :])
        self._shared = []


def varying(plane: Tensor) -> frozenset[int]:
    """Return the dimensions along which a mark plane differs."""
    return frozenset(d for d, size in enumerate(plane.shape) if size > 1)


def narrowed(plane: Tensor, dims: Iterable[int] | None = None) -> Tensor:
    """Shrink a plane to size 1 along every dimension on which all its marks agree."""
    steps = plane.stride()
    for dim in range(plane.ndim) if dims is None else dims:
        if plane.shape[dim] > 1:
            if steps[dim] == 0:
                plane = plane.narrow(dim, 0, 1)
                continue
            values, before = plane.numpy(), (slice(None),) * dim
            ends = (*before, slice(0, 1)), (*before, slice(-1, None))
            first, last = (values[end] for end in ends)
            # Two positions settle most cases without a look at all of them.
            if np.array_equal(first, last) and (values == first).all():
                plane = plane.narrow(dim, 0, 1)
    return plane
