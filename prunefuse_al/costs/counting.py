"""Multiply-accumulates of a network, counted by running it, and counters of the rows that pass through one."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache as cached
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry, shape_wrapper

from ..data import alone
from ..network import copied

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one forward call, two rows long."""
Cache = dict[tuple[str, str, bool], tuple[float, float]]
"""Network, shape of a row, and whether it trains -> multiply-accumulates of the row, there and back."""
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters; shared ones count once."""
    return sum(p.numel() for p in module.parameters())


def _of_groups(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Return the operations of a product of rows [n k] with one of several matrices each [e k m], from the shapes."""
    rows: int = math.prod(x[-2:] if len(weights) == 2 else x)
    return 2 * rows * int(weights[-1])


# Of shapes, for what torch has no formula of its own; releases of it that have no such operation have none to count.
_FORMULAS: Mapping[Any, Callable[..., int]] = MappingProxyType(
    {getattr(torch.ops.aten, name): _of_groups for name in ("_grouped_mm",) if hasattr(torch.ops.aten, name)}
)


def operation_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Return the floating-point operations of one call seen by a dispatch mode, by the formulas of torch's counter."""
    own = _FORMULAS.get(func._overloadpacket)
    formula = flop_registry.get(func._overloadpacket) or (None if own is None else shape_wrapper(own))
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def macs(module: nn.Module, example: Any, *, training: bool = True) -> tuple[float, float]:
    """Count multiply-accumulates of one forward and one backward pass, per row of `example`.

    Matrix products, convolutions and attention are counted (torch's `FlopCounterMode`, halved); elementwise work is
    not. Recurrent layers are run step by step for the count, so they are counted too.

    Args:
        module: the network; a deep copy is run, so nothing about it changes.
        example: a tensor [b ...], or a tuple or dict of them taken as positional or keyword arguments.
        training: run the copy in train mode (parts that only train count as well) or in eval mode.

    Returns:
        Forward and backward multiply-accumulates per row. Backward is what the parameters that require a
        gradient need, 0.0 if none does.
    """
    if isinstance(example, dict):
        call: Call = ((), example)
    else:
        call = (example if isinstance(example, tuple) else (example,), {})
    return _call_macs(copied(module).train(training), call, backward=True)


def _call_macs(model: nn.Module, call: Call, *, backward: bool) -> tuple[float, float]:
    """Run one call on a copy, there and, if asked, back; dropout and the like draw from a forked generator."""
    # A trainer may have moved the network to the call's device and back again by now.
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = tree_map(partial(_moved, device=device), call)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with alone(), torch.random.fork_rng(devices=list(devices)), torch.inference_mode(False), torch.enable_grad():
        with _Operations() as there, sdpa_kernel(SDPBackend.MATH), _step_by_step(model):
            output = model(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        with _Operations() as back:
            if backward and outputs:
                torch.stack([leaf.float().sum() for leaf in outputs]).sum().backward()
    rows = batch_rows(args, kwargs)
    return there.get_total_flops() / 2 / rows, back.get_total_flops() / 2 / rows


class _Operations(FlopCounterMode):
    """torch's counter without its hooks on every module of the process, which other threads would run into."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=dict(_FORMULAS))
        self.mod_tracker: Any = _OneModule()


class _OneModule(contextlib.AbstractContextManager["_OneModule"]):
    """What is counted is counted as a whole."""

    parents = frozenset({"Global"})

    def __exit__(self, *_: object) -> None:
        return None


def _step_by_step(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    return _StepByStep() if any(isinstance(m, nn.RNNBase) for m in model.modules()) else contextlib.nullcontext()


class _StepByStep(TorchFunctionMode):
    """While active, recurrent layers run step by step, in double precision on the CPU: kernels that do all steps at
    once cannot be looked into. All else, and what these layers give and take, keeps its precision.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Convert what a recurrent layer gets and gives, pass on all other calls."""
        if func not in _RECURRENT:
            return func(*args, **(kwargs or {}))
        found = func(*tree_map(_cpu_double, args), **tree_map(_cpu_double, dict(kwargs or {})))
        return tree_map(lambda leaf: leaf.to(args[0].device, args[0].dtype), found)


def _moved(leaf: Any, device: torch.device) -> Any:
    return leaf.detach().to(device) if isinstance(leaf, Tensor) else leaf


def _cpu_double(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.cpu().double() if leaf.is_floating_point() else leaf.cpu()


def batch_rows(args: Any, kwargs: Any) -> int:
    """Return the first dimension of the first tensor among the arguments, 1 if there is none."""
    if isinstance(args, tuple) and args and isinstance(args[0], Tensor) and args[0].dim():  # the usual call, kept cheap
        return int(args[0].shape[0])
    first = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()), None)
    return 1 if first is None else int(first.shape[0])


def signature(module: nn.Module) -> str:
    """Return a digest of class, parameter names, shapes and what is frozen: networks that cost the same share it."""
    parts = [(name, tuple(p.shape), p.requires_grad) for name, p in module.named_parameters()]
    return hashlib.sha256(repr((type(module).__qualname__, parts)).encode()).hexdigest()


@dataclass(frozen=True)
class Total:
    """Multiply-accumulates of all rows that passed, and why they are not all that there were, or ""."""

    forward: int = 0
    backward: int = 0
    uncounted: str = ""


class PassCounter:
    """Counts the rows that pass through a network, in training and in inference apart, per shape of a row.

    Works with any training loop: a pre-hook on the network counts, and goes along when the loop deep-copies it.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bool], int] = {}
        self.calls: dict[str, Call] = {}
        self.sizes: dict[str, int] = {}
        self.failed: dict[str, int] = {}

    def hook(self) -> Callable[..., None]:
        """Return a forward pre-hook (`with_kwargs=True`) that counts into this object."""
        # Closures over plain dicts: copy.deepcopy takes functions as they are, so copies of the network count here too.
        rows, calls, sizes, failed = self.rows, self.calls, self.sizes, self.failed

        def count(module: nn.Module, args: Any, kwargs: Any) -> None:
            try:
                size = batch_rows(args, kwargs)
                if not size:
                    return
                key = _row_key(args, kwargs, size)
                if key not in calls:
                    calls[key], sizes[key] = tree_map(lambda leaf: _two_rows(leaf, size), (args, kwargs)), size
                training = module.training and torch.is_grad_enabled()
                rows[key, training] = rows.get((key, training), 0) + size
            except Exception as error:  # what has no rows that can be told may be what the network takes
                failed[_reason(error)] = failed.get(_reason(error), 0) + 1

        count._torchdynamo_disable = True  # type: ignore[attr-defined]  # or a compiled network re-compiles at each count
        return count

    def taken(self) -> PassCounter:
        """Return what was counted so far and start again; hooks go on counting into this object."""
        counted = PassCounter()
        for name, own in vars(self).items():
            vars(counted)[name] = dict(own)
            own.clear()
        return counted

    def as_calls_of(self, call: Call) -> PassCounter:
        """Return a counter of as many rows, there and back, as if they had passed in calls like this one."""
        size, other = batch_rows(*call), PassCounter()
        key = _row_key(*call, size)
        other.calls[key], other.sizes[key] = tree_map(lambda leaf: _two_rows(leaf, size), call), size
        for (_, training), n in self.rows.items():
            other.rows[key, training] = other.rows.get((key, training), 0) + n
        return other

    @property
    def samples(self) -> int:
        """Rows that passed, training and inference together."""
        return sum(self.rows.values())

    def total_macs(self, module: nn.Module, cache: Cache) -> Total:
        """Return the multiply-accumulates that `module` needs for the rows counted here; nothing is ever raised.

        `module` need not be the network that was counted. `cache` remembers counts per network and row shape.
        """
        network, forward, backward, reason = signature(module), 0.0, 0.0, next(iter(self.failed), "")
        first = cached(lambda: copied(module))  # one for all: texts may come in many lengths
        for (key, training), n in sorted(self.rows.items(), key=lambda row: not row[0][1]):
            found = cache.get((network, key, training)) or cache.get((network, key, True))
            counted = found or self._counted(module, first, key, backward=training)
            if isinstance(counted, str):
                reason = reason or counted
                continue
            cache[network, key, training] = counted
            forward += n * counted[0]
            backward += n * counted[1] * training
        return Total(round(forward), round(backward), reason)

    def _counted(
        self, module: nn.Module, first: Callable[[], nn.Module], key: str, *, backward: bool
    ) -> tuple[float, float] | str:
        """Return the multiply-accumulates per row of shape `key`, or why they cannot be counted.

        Tried in train mode, where all parts of a network are at work, with two rows, on the copy that `first` makes;
        then on new copies, with as many rows as there were, for code may be written for that number, and in eval mode.
        """
        reason, call, size = "", self.calls[key], self.sizes[key]
        for training, rows in ((True, 2), (True, size), (False, size)):
            try:
                model = copied(module) if reason else first()
                return _call_macs(model.train(training), _repeated(call, rows), backward=backward)
            except Exception as error:  # whatever a network may raise: what it was run for has gone well
                reason = reason or _reason(error)
        return reason


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _repeated(call: Call, size: int) -> Call:
    """Return a call of two rows as one of `size`."""
    repeated: Call = tree_map(
        lambda leaf: leaf[torch.arange(size, device=leaf.device) % 2] if batch_rows(leaf, {}) == 2 else leaf, call
    )
    return call if size == 2 else repeated


def _row_key(args: Any, kwargs: Any, size: int) -> str:
    """Return a text that is equal for calls whose rows have the same shapes and types."""
    if not kwargs and len(args) == 1 and isinstance(args[0], Tensor):  # the usual call, kept cheap
        return f"{tuple(args[0].shape[1:])} {args[0].dtype}"
    return repr(tree_map(lambda leaf: _row_shape(leaf, size), (args, kwargs)))


def _row_shape(leaf: Any, size: int) -> Any:
    if not isinstance(leaf, Tensor):
        return type(leaf).__name__
    return (tuple(leaf.shape[1:] if leaf.dim() and leaf.shape[0] == size else leaf.shape), str(leaf.dtype))


def _two_rows(leaf: Any, size: int) -> Any:
    """Return a private copy of two rows, enough for BatchNorm in train mode; other arguments as they are."""
    if not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] != size:
        return leaf
    with torch.inference_mode(False):
        pair = leaf.detach()[torch.arange(2, device=leaf.device) % size]
        return pair.clone() if not pair.is_inference() else torch.empty_like(pair).copy_(pair)
