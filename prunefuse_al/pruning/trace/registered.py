"""`register_rule`: teach the tracer an operation of your own, or one of torch that it does not understand.

A network is watched while it runs, operation by operation, to find out which channels have to leave together. An
operation that is not in the table (`operations.py`) is not understood, and what goes into it is kept whole. A rule says
what it does; whether it is right is shown by the gate every proxy passes, so that a wrong rule costs a thinning and
never makes a wrong proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
from torch._ops import OpOverload, OpOverloadPacket

from ... import checks
from ...data import alone
from ...errors import InputError, PruneFuseError, PruningError
from . import contractions, over_kept, rules
from .atoms import varying
from .calls import OperationCall, Rule
from .marks import Marks
from .operations import OPERATIONS, Op, Table, is_pointwise
from .over_kept import OverKept

OwnRule = Callable[[OperationCall], Marks | Sequence[Marks]]


@runtime_checkable
class ReadyRule(Protocol):
    """A rule that is made for several operations: `Mixes`, `Reduces`, `Normalises`."""

    over_kept: OverKept | None

    def __call__(self, call: OperationCall) -> Sequence[Marks]:
        """Return marks for each result."""
        ...


@dataclass(frozen=True)
class _OverDimensions:
    """A rule for what works along some dimensions of its first tensor.

    Attributes:
        dims: one dimension or several, counted from the end where negative.

    Raises:
        InputError: `dims` are no dimensions.
    """

    dims: int | tuple[int, ...]

    def __post_init__(self) -> None:
        given = tuple(self.dims) if isinstance(self.dims, list | tuple) else (self.dims,)
        what = "a dimension or a tuple of them, for example -1 or (-2, -1)"
        name = f"{type(self).__name__}: dims"
        if not given:
            raise checks.refused(name, self.dims, what)
        checks.settle(self, dims=tuple(checks.whole(name, dim, what=what) for dim in given))

    def _along(self, source: Marks) -> list[int]:
        """Return the dimensions of a tensor, from 0."""
        dims, ndim = self.dims if isinstance(self.dims, tuple) else (self.dims,), len(source.shape)
        if not all(-ndim <= dim < ndim for dim in dims):
            raise IndexError(f"{self} is no rule for {list(source.shape)}")
        return [dim % ndim for dim in dims]


class Mixes(_OverDimensions):
    """A rule for `register_rule`: what is at one place along `dims` depends on all places, so that none leaves.

    As a Fourier transform, a sort, or smoothing does. Only the first tensor passes on channels that lie along other
    dimensions; what else the operation reads is kept whole.

    Attributes:
        dims: one dimension of the first tensor or several, counted from the end where negative.

    Raises:
        InputError: `dims` are no dimensions.
    """

    over_kept = None

    def __call__(self, call: OperationCall) -> list[Marks]:
        """Return marks for each result."""
        source = _first(call)
        call.kept_whole(source, *self._along(source))
        return [
            Marks(tuple(result.shape), list(source.planes), source.parameter, source.free) for result in call.results
        ]


class Reduces(_OverDimensions):
    """A rule for `register_rule`: one number in the place of many, which may be fewer: a mean, a norm, the largest.

    The dimensions are gone from the result, or of size 1 in it. What the operation reads beside the first tensor is
    kept whole.

    Attributes:
        dims: one dimension of the first tensor or several, counted from the end where negative.

    Raises:
        InputError: `dims` are no dimensions.
    """

    over_kept = staticmethod(over_kept.left_out)

    def __call__(self, call: OperationCall) -> list[Marks]:
        """Return marks for each result."""
        source = _first(call)
        return rules.statistic_over(call, source, self._along(source))


class Normalises(_OverDimensions):
    """A rule for `register_rule`: point by point, but for a statistic over `dims`, which may be over fewer: RMSNorm.

    Everything the operation reads beside the first tensor is broadcast against it, as scale and shift are.

    Attributes:
        dims: one dimension of the first tensor or several, counted from the end where negative.

    Raises:
        InputError: `dims` are no dimensions.
    """

    over_kept = staticmethod(over_kept.filled_with_zeros)

    def __call__(self, call: OperationCall) -> list[Marks]:
        """Return marks for each result."""
        source = call.marks()[0]
        dims = set(self._along(source))
        call.note([plane for plane in source.planes if varying(plane) & dims])
        return [call.together(*call.marks()) for _ in call.results]


def _first(call: OperationCall) -> Marks:
    """Return the marks of the first tensor; whatever else goes in is kept whole."""
    source, *others = call.marks()
    for other in others:
        call.kept_whole(other)
    return source


def _elementwise(call: OperationCall) -> list[Marks]:
    return [call.together(*call.marks()) for _ in call.results]


READY: Mapping[str, Op] = MappingProxyType(
    {"elementwise": Op((), _elementwise), "linear": Op((), contractions.linear, over_kept.switched_off)}
)
"""Rules that have a name of their own."""
WHAT = (
    '"elementwise", "linear", the name of an operation that has a rule, for example "mm", Mixes(dims), Reduces(dims), '
    "Normalises(dims), or a function (call) -> marks"
)


class RegisteredRule:
    """A rule that was registered. `remove` takes it back, and so does the end of a `with` block."""

    def __init__(self, op: Op) -> None:
        self._op = op

    def remove(self) -> None:
        """Take the rule back: what was known of the operation before is known again. A second time does nothing."""
        with alone():
            _REGISTERED[:] = [op for op in _REGISTERED if op is not self._op]

    def __enter__(self) -> RegisteredRule:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


_BUILT_IN: Table = MappingProxyType({name: op for op in OPERATIONS for name in op.names})
_REGISTERED: list[Op] = []
"""What users registered in this process, the last one for a name first in force."""


def known_operations() -> Table:
    """Return what is known of each operation now, by name; what is registered later does not change it."""
    with alone():
        return {**_BUILT_IN, **{name: op for op in _REGISTERED for name in op.names}}


def register_rule(operation: str, rule: str | ReadyRule | OwnRule, *, replace: bool = False) -> RegisteredRule:
    """Teach `prune` an operation: what it does to channels, so that layers around it can be thinned.

    It holds for the whole process, until the handle that is returned is removed. While another thread prunes, this
    waits.

    Args:
        operation: its name as torch calls it, "namespace::name", for example that given to
            `torch.library.custom_op`; of torch's own operations, "aten", the bare name will do. A report names it where
            it says that something is not understood.
        rule: what the operation does.

            * "elementwise": tensors of shapes that broadcast are combined point by point, as by an activation.
            * "linear": as `torch.nn.functional.linear`, of (input [.. k], weight [m k], bias [m] or None).
            * the name of an operation that has a rule, for example "mm": as that one, which takes and returns the same
              types in the same order.
            * `Mixes(dims)`, `Reduces(dims)`, `Normalises(dims)`: what works along dimensions.
            * a function of one argument, an `OperationCall`, that returns `Marks` for each result: what is known of
              which channels lie where. It reads `call.marks()`, those of each tensor argument, and combines them by
              `call.together(a, b)` (point by point), `call.moved(function, a)` (positions that move about, as
              `function` moves them) and `call.kept_whole(a, *dims)`.
        replace: take the place of the rule that the operation has.

    Returns:
        A handle: `remove()` takes the rule back; in a `with` statement the end of the block does.

    Raises:
        InputError: no operation of torch has this name, or it has a rule already, or `rule` is none, or one for other
            arguments; the operation writes into its arguments, or is never seen because torch breaks it down.

    `prune` raises a `PruningError` where a rule does not fit what the operation returns. A rule that fits but is wrong
    gives no wrong proxy: the gate refuses it, and the layers are kept whole. Multiply-accumulates of the operation are
    in reports if torch knows them (`torch.utils.flop_counter.register_flop_formula`).

    Example:
        >>> import torch
        >>> from prunefuse_al import prune
        >>> @torch.library.custom_op("doctest_lib::scaled_swish", mutates_args=())
        ... def scaled_swish(x: torch.Tensor, scale: float) -> torch.Tensor:
        ...     return x * torch.sigmoid(scale * x)
        >>> class Swish(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.ops.doctest_lib.scaled_swish(x, 2.0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), Swish(), torch.nn.Linear(64, 3))
        >>> with register_rule("doctest_lib::scaled_swish", "elementwise"):
        ...     prune(net, torch.zeros(2, 8), 0.5).module[0]
        Linear(in_features=8, out_features=32, bias=True)

        A rule of one's own, for an operation that turns [n c h w] into [n h w c]:

        >>> def channels_last(call):
        ...     (image,) = call.marks()
        ...     return call.moved(lambda t: t.permute(0, 2, 3, 1), image)
    """
    name, overloads = _named(operation)
    replace = checks.flag("replace", replace)
    with alone():
        known = known_operations()
        made = _made(rule, overloads, known)
        if not replace and (name in known or any(is_pointwise(each) for each in overloads)):
            raise checks.refused(
                "operation", operation, "an operation that has no rule yet; pass replace=True to replace that"
            )
        op = Op((name,), _checked(made), made.over_kept, made.centres)
        _REGISTERED.append(op)
    return RegisteredRule(op)


def _named(operation: object) -> tuple[str, list[OpOverload]]:
    """Return the name of an operation in the table and its overloads, or raise `InputError`."""
    what = 'the name of an operation of torch, for example "mylib::scaled_swish", defined before its rule'
    if not isinstance(operation, str):
        raise checks.refused("operation", operation, what)
    every = _overloads(operation)
    if not every:
        raise checks.refused("operation", operation, what)
    overloads = [each for each in every if not each._schema.is_mutable]  # without the forms that are given `out=`
    if not overloads:
        raise checks.refused("operation", operation, "one that returns new tensors: this one writes into its arguments")
    if all(each.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd) for each in overloads):
        raise checks.refused(
            "operation", operation, "one that torch runs as a whole: give rules to those that it breaks this one into"
        )
    return operation.removeprefix("aten::"), overloads


def _overloads(operation: str) -> list[OpOverload]:
    """Return the forms of an operation, none where torch has none of that name."""
    namespace, _, name = operation.rpartition("::")
    packet = getattr(getattr(torch.ops, namespace or "aten"), name, None) if name.isidentifier() else None
    return [getattr(packet, each) for each in packet.overloads()] if isinstance(packet, OpOverloadPacket) else []


def _made(rule: object, overloads: Sequence[OpOverload], known: Table) -> Op:
    """Return what a rule that a user gave says of an operation, or raise `InputError`."""
    if isinstance(rule, str):
        if rule in READY:
            return READY[rule]
        return _same_as(rule, overloads, known)
    if isinstance(rule, ReadyRule) and not isinstance(rule, type):
        return Op((), lambda call: list(rule(call)), rule.over_kept)
    return Op((), checks.function("rule", rule, WHAT))


def _same_as(other: str, overloads: Sequence[OpOverload], known: Table) -> Op:
    """Return the entry of another operation, which takes and returns the same types."""
    op, theirs = known.get(other.removeprefix("aten::")), _overloads(other)
    if (op is None or op.rule is rules.rectified) and any(is_pointwise(each) for each in theirs):
        return READY["elementwise"]
    if op is None or not theirs:
        raise checks.refused("rule", other, WHAT)
    fitting = {own: next((each for each in theirs if _types(each) == _types(own)), None) for own in overloads}
    for own, their in fitting.items():
        if their is None:
            raise InputError(
                f"rule={other!r} is that of {theirs[0]._schema}, and {own._schema} takes or returns other types; pass "
                "a rule for what it takes, for example a function (call) -> marks"
            )
    return Op((), _read_as(op.rule, fitting), None if op.over_kept is None else _replayed_as(op.over_kept), op.centres)


def _types(func: OpOverload) -> tuple[list[str], list[str]]:
    schema = func._schema
    return [str(each.type) for each in schema.arguments], [str(each.type) for each in schema.returns]


def _read_as(rule: Rule, fitting: Mapping[OpOverload, OpOverload | None]) -> Rule:
    """Return a rule that reads the arguments of one operation as those of another."""

    def read(call: OperationCall) -> list[Marks]:
        their = fitting.get(call.func)
        if their is None:  # a form that was defined after the rule
            return rules.unknown(call)
        as_theirs = replace(call, func=their, args=_filled(call.func, call.args), new_debts=call.new_debts)
        found = rule(as_theirs)
        call.noted = as_theirs.noted
        return found

    return read


def _replayed_as(over: OverKept) -> OverKept:
    return lambda call: over(replace(call, args=_filled(call.func, call.args)))


def _filled(func: OpOverload, args: Sequence[Any]) -> tuple[Any, ...]:
    """Return the arguments that stand by position, with defaults for those that were left out."""
    specs = [spec for spec in func._schema.arguments if not spec.kwarg_only]
    return (*args, *(spec.default_value for spec in specs[len(args) :]))


def _checked(op: Op) -> Rule:
    """Return the rule that runs that of an entry, and says by name what is wrong with what it returns."""

    def run(call: OperationCall) -> list[Marks]:
        try:
            given: Marks | Sequence[Marks] = op.rule(call)
        except PruneFuseError:
            raise
        except Exception as error:  # whatever a user's code raises
            raise PruningError(
                f"the rule that is registered for {call.name} failed: {type(error).__name__}: {error}; correct it, or "
                "remove() it"
            ) from error
        found = [given] if isinstance(given, Marks) else given
        shapes = [tuple(result.shape) for result in call.results]
        if not isinstance(found, list | tuple) or not all(isinstance(marks, Marks) for marks in found):
            raise _misfit(call, f"returned {checks.shown(given)}, which are no marks", shapes)
        if [marks.shape for marks in found] != shapes or not all(_broadcasts(marks) for marks in found):
            raise _misfit(call, f"returned marks of {[list(marks.shape) for marks in found]}", shapes)
        if call.noted is not None and op.over_kept is None:
            raise _misfit(call, "notes a statistic, and has no `over_kept` that takes it over fewer channels", shapes)
        return list(found)

    return run


def _broadcasts(marks: Marks) -> bool:
    shape = marks.shape
    return all(
        plane.ndim == len(shape) and all(m in (1, n) for m, n in zip(plane.shape, shape, strict=True))
        for plane in marks.planes
    )


def _misfit(call: OperationCall, what: str, shapes: Sequence[tuple[int, ...]]) -> PruningError:
    return PruningError(
        f"the rule that is registered for {call.name} {what}; the operation returned "
        f"{[list(shape) for shape in shapes]}: register the rule that fits"
    )
