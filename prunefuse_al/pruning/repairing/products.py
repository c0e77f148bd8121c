"""What a network does with its parameters, seen below autograd: products, normalisations, convolutions by groups."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FIRST_OPERAND = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
_BATCH_NORMS = frozenset(
    {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"}
    | {"_native_batch_norm_legit", "_native_batch_norm_legit_no_training"}
)


@dataclass(frozen=True, eq=False)
class Owned:
    """A parameter or buffer, and what its network calls it."""

    name: str
    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """A layer at work that sums over its inputs with a parameter: linear, or a convolution without groups.

    Attributes:
        key: name of the weight and the number of its use in this pass.
        weight: the whole parameter.
        dim: its dimension that is summed over.
        start: the first of its outputs that are used: rows (dimension 0), where not these are summed over.
        count: how many are used.
        inputs: what is summed over, [... d].
        bias: what is added, where it is a parameter that the operation takes.
    """

    key: str
    weight: Owned
    dim: int
    start: int
    count: int
    inputs: Tensor
    bias: Owned | None


@dataclass(frozen=True, eq=False)
class BatchNormed:
    """A batch norm at work: its running statistics, and what it is given, [b c ...]."""

    key: str
    mean: Owned
    var: Owned
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class Normed:
    """A LayerNorm, RMSNorm or GroupNorm at work.

    Attributes:
        key: as of a product.
        weight: its scale, [d].
        bias: its shift, [d], or None.
        axis: of what it returns, to which both belong.
        bare: runs it without either, and returns what that gives.
    """

    key: str
    weight: Owned
    bias: Owned | None
    axis: int
    bare: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Grouped:
    """A convolution by groups at work, which mixes no channels of different groups, and its bias."""

    key: str
    bias: Owned


Event = Product | BatchNormed | Normed | Grouped


class Owners:
    """Finds the parameter or buffer of a network in whose memory a tensor lies; of tied ones the first name counts."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._in: dict[int, dict[tuple[int, int], Owned]] = {}
        for name, tensor in tensors.items():
            if tensor.numel() and tensor.layout is torch.strided:
                end = tensor.data_ptr() + (_reach(tensor) + 1) * tensor.element_size()
                within = self._in.setdefault(tensor.untyped_storage().data_ptr(), {})
                within.setdefault((tensor.data_ptr(), end), Owned(name, tensor))

    def of(self, tensor: object) -> Owned | None:
        """Return what `tensor` is or is a view of, None where it is computed."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or not tensor.numel():
            return None
        for (start, end), owned in self._in.get(tensor.untyped_storage().data_ptr(), {}).items():
            if start <= tensor.data_ptr() < end:
                return owned
        return None


def _reach(tensor: Tensor) -> int:
    """Return how far the last element lies from the first one, in elements."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


class Watcher(TorchDispatchMode):
    """Sees every operation of a pass; `meet` is called before what is understood, `leave` after it with its result.

    Args:
        tensors: the parameters and buffers of the network that is watched, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners = Owners(tensors)
        self._uses: Counter[str] = Counter()

    def meet(self, event: Event) -> None:
        """Take note of what is about to run; parameters may be written to."""

    def leave(self, event: Event, out: Any) -> None:
        """Take note of what came of it; what came may be written to."""

    def see(self, func: Any, args: tuple[Any, ...], event: Event | None, out: Any) -> None:
        """Take note of any operation, after it ran."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        event = self._read(func, args, kwargs)
        if event is not None:
            self.meet(event)
        out = func(*args, **kwargs)
        if event is not None:
            self.leave(event, out)
        self.see(func, args, event, out)
        return out

    def _key(self, owned: Owned) -> str:
        self._uses[owned.name] += 1
        return f"{owned.name}#{self._uses[owned.name]}"

    def _read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Event | None:
        name = func.overloadpacket.__name__
        if name in _FIRST_OPERAND:
            return self._matmul(args, _FIRST_OPERAND[name], scaled=bool(kwargs))
        if name == "linear":  # of devices with a kernel of their own for it
            bias = self.owners.of(args[2]) if len(args) > 2 else None
            return self._product(self.owners.of(args[1]), args[1], -1, args[0], bias)
        if name in ("convolution", "_convolution"):
            return self._convolution(args)
        if name in _BATCH_NORMS:
            mean, var = self.owners.of(args[3]), self.owners.of(args[4])
            return BatchNormed(self._key(mean), mean, var, args[0]) if mean and var else None
        return self._normed(name, func, args)

    def _matmul(self, args: tuple[Any, ...], first: int, *, scaled: bool) -> Event | None:
        left, right = args[first], args[first + 1]
        bias = self.owners.of(args[0]) if first and not scaled else None
        for operand, axis, other in ((right, -2, left), (left, -1, right.mT)):
            owned = self.owners.of(operand)
            if owned is None:
                continue
            if operand.ndim == 3:
                if len(operand) > 1 and operand.stride(0):  # one matrix for each of a batch
                    return None
                operand = operand[0]
            return self._product(owned, operand, axis, other, bias)
        return None

    def _convolution(self, args: tuple[Any, ...]) -> Event | None:
        x, weight, given, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        bias = self.owners.of(given)
        if groups > 1:
            return Grouped(self._key(bias), bias) if bias is not None else None
        owned = self.owners.of(weight)
        return self._product(owned, weight, 0 if transposed else 1, x.movedim(1, -1), bias)

    def _product(
        self, owned: Owned | None, operand: Tensor, axis: int, inputs: Tensor, bias: Owned | None
    ) -> Product | None:
        """Return the product of inputs [... d] with a view of a parameter, `axis` of which is summed over."""
        if owned is None:
            return None
        weight, size, stride = owned.tensor, operand.shape[axis], operand.stride(axis)
        dims = [k for k in range(weight.ndim) if (weight.shape[k], weight.stride(k)) == (size, stride)]
        if operand.shape == weight.shape and operand.stride() == weight.stride():  # as it lies
            dims = [axis % weight.ndim]
        if len(dims) != 1 or weight.ndim < 2:
            return None
        start, count = 0, weight.shape[0 if dims[0] else 1]
        if operand.numel() != weight.numel():  # some rows of it
            start, rest = divmod(int(operand.storage_offset() - weight.storage_offset()), weight.stride(0))
            count, more = divmod(operand.numel() * weight.shape[0], weight.numel())
            if rest or more or dims[0] == 0 or start + count > weight.shape[0]:
                return None
        return Product(self._key(owned), owned, dims[0], start, count, inputs, bias)

    def _normed(self, name: str, func: Any, args: tuple[Any, ...]) -> Normed | None:
        if name == "native_layer_norm" and len(args[1]) == 1:
            x, shape, weight, bias, eps = args
            bare, axis = partial(func, x, shape, None, None, eps), -1
        elif name == "native_group_norm":
            x, weight, bias, *rest = args
            bare, axis = partial(func, x, None, None, *rest), 1
        elif name == "_fused_rms_norm" and len(args[1]) == 1:
            (x, shape, weight, *rest), bias = args, None
            bare, axis = partial(func, x, shape, None, *rest), -1
        else:
            return None
        scale = self.owners.of(weight)
        if scale is None or scale.tensor.shape != weight.shape:
            return None
        return Normed(self._key(scale), scale, self.owners.of(bias), axis, lambda: bare()[0])


def is_view(func: Any) -> bool:
    """Tell whether an operation only gives another view of what it is given."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def parameters_in(args: Any, owners: Owners) -> set[str]:
    """Return the names of the parameters and buffers among the arguments of an operation."""
    return {owned.name for leaf in tree_leaves(args) if (owned := owners.of(leaf)) is not None}


@contextlib.contextmanager
def plain_operations(*models: nn.Module) -> Iterator[None]:
    """Have encoder layers and recurrent layers run by operations that can be seen; without gradients."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.no_grad())
        if any(isinstance(module, nn.RNNBase) for model in models for module in model.modules()):
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="TF32 acceleration")  # of other hardware, when oneDNN is switched
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
