"""Watch one forward pass and find out which channels of which tensors live or die together."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ...costs import operation_flops
from ...network import Arguments, answers, beside_logits, copied, named_answers, named_tensors
from ..places import place_within
from ..quietly import draws_put_back
from .atoms import Atoms
from .calls import Noted, OperationCall
from .marks import Marks
from .operations import Op, Table, name_of, understood
from .registered import known_operations


@dataclass(frozen=True)
class Statistic:
    """One call of an operation that takes a statistic or a sum over channels.

    Attributes:
        op: what is known of the operation.
        name: which of its names it ran under.
        module: name of the module that ran it.
        noted: what it was taken over.
    """

    op: Op
    name: str
    module: str
    noted: Noted

    def __str__(self) -> str:
        return f"{self.name} in {self.module or 'the network itself'}"


@dataclass(frozen=True)
class Sighting:
    """A marked dimension of known size that a module owns or saw: evidence for what its width attributes mean."""

    module: str
    dim: int
    plane: Tensor


@dataclass(frozen=True)
class Answer:
    """A tensor that the network answered with: its name, its shape, where its channels lie.

    Attributes:
        name: the place at which it stands, see `named_answers`.
        shape: of the tensor.
        planes: its mark planes.
        beside: it stands beside the logits, as an embedding does, and may be thinned.
    """

    name: str
    shape: tuple[int, ...]
    planes: tuple[Tensor, ...]
    beside: bool


@dataclass
class Trace:
    """What one forward pass told.

    Attributes:
        atoms: positions and their ties.
        statistics: statistics and sums over channels, in the order they ran in eval mode.
        sightings: sizes of dimensions.
        answers: what the network answered with, in eval mode.
        finite: none of that was NaN or infinite.
        recurrent: names of recurrent layers, whose gates are sums.
        flops: operations counted by torch's formulas, in eval mode.
        read: names of the tensors that an operation read.
        draws: where random numbers were drawn in eval mode.
        fused: it runs other operations where nothing watches: attention, or recurrent layers, in one.
        table: what was known of each operation.
    """

    atoms: Atoms
    statistics: list[Statistic] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    finite: bool = True
    recurrent: frozenset[str] = frozenset()
    flops: int = 0
    read: set[str] = field(default_factory=set)
    draws: list[str] = field(default_factory=list)
    fused: bool = False
    table: Table = field(default_factory=known_operations)


class Tracer(TorchDispatchMode):
    """Carries marks through every operation below autograd."""

    def __init__(self, trace: Trace, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.modules = [""]
        self._named = {id(t): name for name, t in reversed(tensors.items())}
        # By identity, and forgotten with the tensor: activations would be several times the network, and the ids of
        # freed ones are used again.
        self._seen = WeakIdKeyDictionary()
        for name, tensor in tensors.items():
            planes = trace.atoms.planes(trace.atoms.registered[name], tensor.ndim)
            self._seen[tensor] = Marks(tuple(tensor.shape), planes, parameter=True)
            self._sight(self._seen[tensor], name.rpartition(".")[0])
        for name, tensor in _plain_tensors(model):
            if tensor not in self._seen:
                self._seen[tensor] = Marks(tuple(tensor.shape), origin=name)

    def marks_of(self, tensor: Tensor) -> Marks:
        """Return a copy of what is known of a tensor; one never seen has a fixed size."""
        found: Marks | None = self._seen.get(tensor)
        return Marks(tuple(tensor.shape)) if found is None else found.copy()

    def restate(self, tensor: Tensor, marks: Marks) -> None:
        """Replace what is known of a tensor that was written to."""
        self._seen[tensor] = marks

    def name_of(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for any other tensor."""
        return self._named.get(id(tensor)) if tensor is not None else None

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        call = OperationCall(name_of(func), func, args, kwargs, results, self.trace.atoms, self.modules[-1], self)
        self.trace.flops += operation_flops(func, args, kwargs, out)
        read = call.tensors()
        op = understood(self.trace.table, func, reads_tensors=bool(read))
        frozen, owed = len(self.trace.atoms.frozen), len(self.trace.atoms.debts)
        found = op.rule(call)
        self.trace.atoms.locate(frozen, owed, self._place)
        self.trace.read.update(name for tensor in read if (name := self.name_of(tensor)) is not None)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.trace.draws.append(self._place())
        if op.over_kept is not None:
            self.trace.statistics.append(Statistic(op, call.name, call.module, call.noted or Noted()))
        debts = frozenset(call.new_debts).union(*(self._seen[t].debts for t in read if t in self._seen))
        for result, marks in zip(results, found, strict=True):
            marks.debts |= debts
            self._seen[result] = marks
            self._sight(marks, call.module)
        return out

    def _place(self) -> str:
        """Return the line of the network's code that is running, else the module."""
        return place_within(watched.__code__) or self.modules[-1] or "the network itself"

    def _sight(self, marks: Marks, module: str) -> None:
        for plane in marks.planes:
            for dim in range(plane.ndim):
                if plane.shape[dim] > 1:
                    self.trace.sightings.append(Sighting(module, dim, plane))

    def answered(self, output: Any) -> list[Answer]:
        """Keep what the network answers with, but for what stands beside the logits, and return what is known of it."""
        beside, found = beside_logits(output), []
        for name, leaf in named_answers(output).items():
            marks = self.marks_of(leaf)
            found.append(Answer(name, marks.shape, tuple(marks.planes), name in beside))
            for plane in marks.planes if name not in beside else ():
                self.trace.atoms.freeze(plane, None)
            for debt in marks.debts:
                due = self.trace.atoms.debts[debt]
                self.trace.atoms.freeze(due.marks, due.reason)
        return found


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are mere attributes of modules, such as positions that were computed once."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}" if path else name, value


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    train_mode: bool = False,
    also: Arguments | None = None,
    inside: bool = False,
) -> Trace:
    """Run a copy of `model` in eval mode and return the ties among its channels.

    Args:
        model: the dense network; not touched.
        args: positional inputs.
        kwargs: inputs by name.
        train_mode: run it in train mode as well, for parts that only train (auxiliary heads).
        also: inputs on which to run it as well, for branches that only these take.
        inside: the width of attention heads may be thinned, see `Atoms`; else they leave as a whole.
    """
    return watched(copied(model).eval(), (args, kwargs), train_mode=train_mode, also=also, inside=inside)


def watched(
    model: nn.Module,
    arguments: Arguments,
    *,
    train_mode: bool = False,
    also: Arguments | None = None,
    inside: bool = False,
) -> Trace:
    """Run `model` itself, which is in eval mode, and return the ties among its channels; see `trace`."""
    tensors = named_tensors(model)
    kinds = nn.RNNBase, nn.RNNCellBase
    recurrent = frozenset(name for name, module in model.named_modules() if isinstance(module, kinds))
    result = Trace(Atoms(tensors, inside=inside), recurrent=recurrent)
    tracer = Tracer(result, model, tensors)
    passes = [(False, arguments)]
    passes += [] if also is None else [(False, also)]
    passes += [(True, arguments)] if train_mode else []
    for number, (training, given) in enumerate(passes):
        seen = (list(result.statistics), result.flops, result.answers, list(result.draws))
        attending = _Attending()
        with visible_operations(model), torch.no_grad(), _module_stack(model, tracer.modules), attending, tracer:
            model.train(training)  # some compute what they keep then
            del result.statistics[len(seen[0]) :]  # which is not replayed
            output = model(*given[0], **given[1])
        result.fused |= attending.seen or any(isinstance(module, _FUSED) for module in model.modules())
        result.answers = tracer.answered(output)
        if number:  # what is compared is the first pass
            result.statistics, result.flops, result.answers, result.draws = seen
        else:
            result.finite = all(bool(leaf.isfinite().all()) for leaf in answers(output))
    return result


_FUSED = nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer


class _Attending(TorchFunctionMode):
    """Notes whether attention was asked of torch, which has several ways to compute it."""

    seen = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.seen = self.seen or func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def visible_operations(model: nn.Module | None = None) -> Iterator[None]:
    """Run everything as plain operations: no fused attention, no fused recurrent kernels, no random draws kept.

    Where `model` is known to have no recurrent layers, libraries that fuse those stay on: they are quicker.
    """
    fused = model is not None and not any(isinstance(m, nn.RNNBase) for m in model.modules())
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(draws_put_back())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # torch warns about TF32 on other hardware when oneDNN is switched
        if not fused:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@contextlib.contextmanager
def _module_stack(model: nn.Module, modules: list[str]) -> Iterator[None]:
    def leave(*_: Any) -> None:
        modules.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: modules.append(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
