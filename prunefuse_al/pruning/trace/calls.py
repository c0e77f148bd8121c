"""One call of an operation, as a rule of the tracer sees it: arguments, results, and the marks known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from .atoms import Atoms, Freeze, varying
from .marks import Marks, merge, restructure


class Known(Protocol):
    """What a tracer knows of tensors."""

    def marks_of(self, tensor: Tensor) -> Marks:
        """Return a copy of what is known of a tensor; one never seen has a fixed size."""
        ...

    def restate(self, tensor: Tensor, marks: Marks) -> None:
        """Replace what is known of a tensor that was written to."""
        ...

    def name_of(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for any other tensor."""
        ...


@dataclass(frozen=True)
class Noted:
    """What a call takes a statistic or a sum over.

    Attributes:
        planes: mark planes along which it is taken; none where that does not change by pruning.
        scale: name of the parameter that may scale what is normalised so; None where there is none, or centring is not
            neutral for it, as for GroupNorm.
        operand: of a sum the number of the argument, computed from parameters, that the planes are those of: what is
            removed of it has to be switched off there, if it is not stored as zeros. None for a statistic, whose planes
            are those of the first argument.
        gain: name of the parameter that scales what was standardised, of a weight that is; "" where none does. None of
            all else.
    """

    planes: tuple[Tensor, ...] = ()
    scale: str | None = None
    operand: int | None = None
    gain: str | None = None


@cache
def arguments_of(func: OpOverload) -> Mapping[str, tuple[int, Any]]:
    """Return name -> number and default of each argument of an operation."""
    return {spec.name: (number, spec.default_value) for number, spec in enumerate(func._schema.arguments)}


@cache
def writes(func: OpOverload) -> bool:
    """True where an operation writes into its first argument."""
    arguments = func._schema.arguments
    return bool(arguments and arguments[0].alias_info and arguments[0].alias_info.is_write)


@dataclass
class OperationCall:
    """One operation that ran while a network was watched. A rule is given one and returns marks for each result.

    What a user's own rule needs are `tensors`, `argument`, `marks`, `results`, and the three verbs that say what
    becomes of channels: `together`, `moved` and `kept_whole`.

    Attributes:
        name: as torch calls it: "namespace::name"; of torch's own operations, "aten", the bare name.
        func: the operation.
        args: its arguments.
        kwargs: its arguments by name.
        results: every tensor that it returned.
        atoms: positions of parameters and buffers, and their ties.
        module: name of the module that ran it.
        known: what is known of tensors.
    """

    name: str
    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: list[Tensor]
    atoms: Atoms
    module: str
    known: Known
    noted: Noted | None = None
    new_debts: set[int] = field(default_factory=set)

    def tensors(self) -> list[Tensor]:
        """Return all tensor arguments, lists of tensors opened."""
        return list(self._tensors)

    @cached_property
    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor))

    def argument(self, name: str) -> Any:
        """Return an argument by its name in the operation's schema; its default where it was not given."""
        position, default = arguments_of(self.func).get(name, (0, None))
        if name not in arguments_of(self.func):
            return None
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def marks(self) -> list[Marks]:
        """Return what is known of every tensor argument."""
        return [self.marks_of(tensor) for tensor in self.tensors()]

    def marks_of(self, tensor: Tensor) -> Marks:
        """Return a copy of what is known of a tensor; one never seen has a fixed size."""
        return self.known.marks_of(tensor)

    def together(self, *operands: Marks) -> Marks:
        """Say that tensors are combined point by point, as by `+`: channels that meet leave together.

        Args:
            operands: of shapes that broadcast.
        """
        shape = torch.broadcast_shapes(*(operand.shape for operand in operands))
        return merge(self.atoms, operands, tuple(shape), self.name)

    def moved(self, function: Callable[[Tensor], Tensor], operand: Marks) -> Marks:
        """Say that positions only move about, as by `transpose` or slicing.

        Args:
            function: does to a tensor of the shape of `operand` what the operation does.
            operand: marks of what is moved.
        """
        shape = function(torch.empty(operand.shape, dtype=torch.int64, device="cpu")).shape
        (found,) = restructure(function, operand, [torch.empty(shape, device="meta")])
        return found

    def kept_whole(self, operand: Marks, *dims: int) -> Marks:
        """Say that positions along some dimensions depend on each other, or stay for another reason: none leaves.

        Args:
            operand: marks of a tensor.
            dims: numbers of dimensions, counted from the end where negative; none are all of them.
        """
        ndim = len(operand.shape)
        along = {dim % ndim for dim in dims} if dims else set(range(ndim))
        freeze_planes(self, operand, along, "is kept whole by")
        return operand

    def name_of(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for any other tensor."""
        return self.known.name_of(tensor)

    def restate(self, tensor: Tensor, marks: Marks) -> None:
        """Replace what is known of a tensor that was written to."""
        self.known.restate(tensor, marks)

    @property
    def in_place(self) -> bool:
        """True where it writes into its first argument."""
        return writes(self.func)

    def dims(self, ndim: int) -> list[int]:
        """Return the `dim` argument as a list of non-negative dimensions (all of them when it is not given)."""
        dim = self.argument("dim")
        dims = range(ndim) if dim is None or dim == [] else ([dim] if isinstance(dim, int) else dim)
        return [d % ndim for d in dims]

    def note(
        self,
        planes: Sequence[Tensor],
        *,
        scale: str | None = None,
        operand: int | None = None,
        gain: str | None = None,
    ) -> None:
        """Note what this call takes a statistic or a sum over; see `Noted`."""
        self.noted = Noted(tuple(planes), scale, operand, gain)

    def debt(self, marks: Tensor, reason: str) -> int:
        """Return the number of a new debt: marks to freeze if what owes it is ever used in an output."""
        self.atoms.debts.append(Freeze(marks, reason))
        return len(self.atoms.debts) - 1

    def owe(self, marks: Tensor, reason: str) -> None:
        """Freeze marks if a result of this operation is ever used in an output of the network."""
        self.new_debts.add(self.debt(marks, reason))


Rule = Callable[[OperationCall], list[Marks]]


def freeze_planes(call: OperationCall, source: Marks, dims: set[int], what: str) -> None:
    """Freeze and drop the planes of `source` that vary along any of `dims`."""
    for plane in source.planes:
        if varying(plane) & dims:
            call.atoms.freeze(plane, f"{what} {call.name}")
    source.planes = [plane for plane in source.planes if not varying(plane) & dims]


def settled(call: OperationCall, source: Marks, dims: set[int], what: str | None) -> None:
    """Keep positions along some dimensions; a channel that has marks of its own at each of them leaves as a whole.

    Args:
        call: the operation.
        source: loses the planes that lie along `dims` alone, and has others with size 1 there.
        dims: numbers of dimensions.
        what: what becomes of them in the operation, for the report; None where that is in the nature of the axis.
    """
    left = []
    for plane in source.planes:
        along = varying(plane) & dims
        if along and along == varying(plane):
            call.atoms.freeze(plane, None if what is None else f"{what} {call.name}")
            continue
        for dim in along:
            plane = call.atoms.tie_along(plane, dim)
        left.append(plane)
    source.planes = left
    source.stretched = tuple(n for n in source.stretched if not varying(n) & dims)


def like(result: Tensor, planes: list[Tensor], source: Marks, stretched: tuple[Tensor, ...] = ()) -> Marks:
    """Return the marks of a result: new planes, and what else is known of where it came from."""
    kept = (source.parameter, source.free, stretched)
    found = Marks(tuple(result.shape), planes, *kept, layer=source.layer, origin=source.origin)
    found.affine, found.writers = source.affine, source.writers
    return found
