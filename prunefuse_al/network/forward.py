"""From a batch as it was read to logits: moving, transforming, casting, calling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data import isolated_rng, leaves, map_leaves
from ..errors import InputError, PruneFuseError
from .kinds import WHOLE, Kinds, as_floating, ways
from .precision import home_device

Transform = Callable[[Any], Any]


@dataclass(frozen=True)
class Forward:
    """How batches of one dataset go through one network.

    Floating inputs are converted to the network's dtype after the transform. Whole numbers and bools stay what they are
    where the network takes them: ids, lengths, masks. Where it does not, a table for linear layers for one, whole
    numbers become floating ones of the same values, in as few of several inputs as possible; a number that would be
    rounded is refused. So is `uint8` there, because pictures in 0..255 want to be scaled, not just cast. A bool becomes
    a number only where it is the one input; an input that the network calls a mask never becomes one of another kind.

    What the network takes is found out once for each combination of kinds, by passing it two rows (or where those do
    not do, the batch) in eval mode, without gradients, without the network's hooks, and with all random states put
    back. It is a matter of the network and of kinds, so it is the same in training, scoring, pruning and counting.

    Attributes:
        network: whose inputs they are.
        device: where the network is.
        dtype: floating dtype of the network's parameters.
        transform: applied to the batch on the device, before the conversion.
        autocast: dtype of mixed precision, or None.
        channels_last: 4-D batches are laid out with channels last.
        found: in which kinds the network takes batches, by the kinds they have.
    """

    network: nn.Module = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    transform: Transform | None = None
    autocast: torch.dtype | None = None
    channels_last: bool = False
    found: dict[Any, Kinds] = field(default_factory=dict, repr=False, compare=False)

    def moved(self, x: Any) -> Any:
        """Return a batch on the device, otherwise as it was read."""
        return map_leaves(x, lambda leaf: leaf.to(self.device, non_blocking=True))

    def inputs(self, x: Any) -> Any:
        """Return a batch as the network takes it."""
        x = self._transformed(self.moved(x))
        return _in_kinds(x, self._kinds(x), self._cast)

    def __call__(self, model: Callable[..., Any], inputs: Any) -> Any:
        """Return the network's raw output for prepared inputs."""
        if self.autocast is None:
            return call(model, inputs)
        with torch.autocast(self.device.type, dtype=self.autocast):
            return call(model, inputs)

    def _transformed(self, x: Any) -> Any:
        if self.transform is None:
            return x
        try:
            return self.transform(x)
        except (PruneFuseError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            if not isinstance(x, tuple | Mapping):
                raise
            raise InputError(
                f"the transform failed on a batch of {len(x)} inputs, {describe(x)}: {error}. Each entry of a "
                f"{type(x).__name__} is an input of the network: pass labels beside them, as in fit(X, y), and none in "
                f"query(X, k); or give a transform that takes a {type(x).__name__}"
            ) from error

    def _cast(self, leaf: Tensor, kind: torch.dtype) -> Tensor:
        if leaf.is_floating_point() or not kind.is_floating_point:
            leaf = leaf.to(kind)
        elif leaf.dtype == torch.uint8:
            raise InputError(
                f"the network takes {self.dtype} and the batch is uint8 {list(leaf.shape)}: scale pictures with a "
                "transform, for example TorchTrainer(transform=t, eval_transform=t) with t = lambda x: x / 255"
            )
        else:
            leaf = as_floating(leaf, kind)
        if self.channels_last and leaf.ndim == 4 and leaf.shape[1] > 1:
            return leaf.contiguous(memory_format=torch.channels_last)
        return _row_major(leaf)

    # ---- which kinds the network takes ----

    def _kinds(self, x: Any) -> Kinds:
        given = leaves(x)
        for leaf in given:
            if not isinstance(leaf, Tensor):
                raise InputError(
                    f"the transform returned {type(leaf).__name__}; it must return tensors, one row per sample"
                )
        names = tuple(x) if isinstance(x, Mapping) else ()
        key = (names, *((leaf.dtype, leaf.ndim) for leaf in given))
        if key not in self.found:
            tried = ways(given, self.dtype)
            self.found[key] = tried[0] if len(tried) == 1 else self._first(x, tried)
        return self.found[key]

    def _first(self, x: Any, tried: list[Kinds]) -> Kinds:
        """Return the first kinds in which the network takes a batch.

        Raises:
            InputError: there are none, or it wants a mask of another kind.
        """
        complaints: list[Exception] = []
        for part in (map_leaves(x, _two_rows), x):  # not every input has a row for each sample: a graph's edges
            complaints = []
            for kinds in tried:
                complaint = self._complaint(_in_kinds(part, kinds, Tensor.to))
                if complaint is None:
                    return kinds
                complaints.append(complaint)
                if "mask" in str(complaint).lower():  # which as floating numbers would be added, not applied
                    break
        said = list(dict.fromkeys(str(complaint) or type(complaint).__name__ for complaint in complaints))
        what = said[0] if len(said) == 1 else f"{said[0]}; as {_name(self.dtype)}: {said[-1]}"
        raise failure(self.network, x, what) from complaints[0]

    def _complaint(self, inputs: Any) -> Exception | None:
        """Return what the network has against inputs; None where it takes them."""
        with settled(self.network, device=self.device), isolated_rng(0, self.device), torch.no_grad():
            try:
                self(self.network.forward, inputs)  # and not a call of the network: its hooks must not see these rows
            except torch.OutOfMemoryError:
                raise
            except Warning:  # made an error by the user, who is warned again by the real call
                return None
            except Exception as error:  # whatever its code raises at what it cannot take
                return error
        return None


def _row_major(leaf: Tensor) -> Tensor:
    """Return a contiguous tensor with the strides that say so; nothing is copied.

    Where every dimension has several entries, the strides of what is contiguous are those already.

    Pictures of one channel may say 1 where the stride does not matter and then pass for channels-last; given such, the
    backward pass of torch 2.14's CPU convolutions (oneDNN) writes out of bounds for widths that no 8 divides.
    """
    return leaf.flatten().view(leaf.shape) if 1 in leaf.shape and leaf.is_contiguous() else leaf


def forward_for(
    model: nn.Module,
    device: torch.device,
    *,
    transform: Transform | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
) -> Forward:
    """Return how to call `model`."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return Forward(model, device, dtype, transform, autocast, channels_last)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Return `model` of a tensor, or of a tuple or dict of tensors as its arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def as_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what `call` passes as these arguments: a tensor, or a tuple or dict of tensors."""
    if kwargs:
        return kwargs
    return args[0] if len(args) == 1 else args


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a network returned.

    In this order: a tensor is the logits; else `output.logits`; else `output["logits"]`; else the first tensor of the
    tuple, list or dict (searched in depth).

    Raises:
        InputError: no tensor was found.
    """
    if isinstance(output, Tensor):
        return output
    named = getattr(output, "logits", None)
    if named is None and isinstance(output, Mapping):
        named = output.get("logits")
    if isinstance(named, Tensor):
        return named
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    for part in parts:
        try:
            return logits_of(part)
        except InputError:
            continue
    raise InputError(f"the network returned {type(output).__name__} without a tensor in it; it must return logits")


@contextmanager
def explained(model: nn.Module, x: Any) -> Iterator[None]:
    """Turn torch's complaint about a batch into an `InputError` with its shapes, keeping the cause."""
    try:
        yield
    except (PruneFuseError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise failure(model, x, str(error)) from error


def failure(model: nn.Module, x: Any, said: str) -> InputError:
    """Return the error that a network failed on a batch, with what was said."""
    first = next((repr(m) for m in model.modules() if not list(m.children()) and list(m.parameters())), "none")
    return InputError(
        f"the network failed on a batch {describe(x)}: {said}. Its first layer with weights is {first}: "
        f"give it inputs of that shape and kind, or a transform that makes them{_hint(x, said)}"
    )


def _hint(x: Any, said: str) -> str:
    kinds = [leaf.dtype for leaf in leaves(x) if isinstance(leaf, Tensor)]
    if "mask" in said.lower() and WHOLE.intersection(kinds):
        return "; a mask stays of whole numbers, for others would be added: convert it to what the network wants"
    if torch.bool in kinds and len(kinds) > 1:
        return (
            "; a bool beside other inputs stays one, for it may be a mask: convert data of 0 and 1 to floating numbers"
        )
    return ""


def describe(x: Any) -> str:
    """Return for example ``"float32 [2, 3, 32, 32]"`` for a batch."""
    if isinstance(x, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in x.items()) + "}"
    return " and ".join(
        f"{_name(t.dtype)} {list(t.shape)}" if isinstance(t, Tensor) else type(t).__name__ for t in leaves(x)
    )


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _in_kinds(x: Any, kinds: Kinds, cast: Callable[[Tensor, torch.dtype], Tensor]) -> Any:
    kind = iter(kinds)
    return map_leaves(x, lambda leaf: cast(leaf, next(kind)))


def _two_rows(leaf: Tensor) -> Tensor:
    return leaf[:2] if leaf.ndim else leaf


@contextmanager
def laid_out(model: nn.Module, *, channels_last: bool) -> Iterator[None]:
    """Have the weights of a network's convolutions lie with channels last for the block, if asked; then as before."""
    relaid = [p for p in model.parameters() if p.ndim == 4 and p.is_contiguous()] if channels_last else []
    try:
        for p in relaid:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for p in relaid:
            p.data = p.data.contiguous()


@contextmanager
def lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a network on `device` for the block, unless it is spread over several; then put it and its modes back."""
    home = home_device(model)
    with modes_kept(model):
        try:
            if home is not None and home != device:
                model.to(device)
            yield
        finally:
            if home is not None and home != device:
                model.to(home)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put the mode of every module back after the block: the user may have put some in eval mode on purpose."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def settled(*models: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Have networks in eval mode on `device` for the block; then put devices and modes back as they were."""
    with ExitStack() as stack:
        for model in models:
            if model is not None:
                stack.enter_context(lent(model, device))
                model.eval()
        yield
