"""Multiply-accumulates of a network, counted by running it, and counters of the rows that pass through one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one forward call, two rows long."""


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters; shared ones count once."""
    return sum(p.numel() for p in module.parameters())


def operation_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Return the floating-point operations of one call seen by a dispatch mode, by the formulas of torch's counter."""
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def macs(module: nn.Module, example: Any, *, training: bool = True) -> tuple[float, float]:
    """Count multiply-accumulates of one forward and one backward pass, per row of `example`.

    Matrix products, convolutions and attention are counted (torch's `FlopCounterMode`, halved); elementwise work is
    not. Recurrent layers are run through their step-by-step implementation for the count, so they are counted too.

    Args:
        module: the network; a deep copy is run, so nothing about it changes.
        example: a tensor [b ...], or a tuple or dict of them taken as positional or keyword arguments.
        training: run the copy in train mode (parts that only train count as well) or in eval mode.

    Returns:
        Forward and backward multiply-accumulates per row. Backward is what the parameters that require a
        gradient need, 0.0 if none does.
    """
    if isinstance(example, dict):
        return _call_macs(_counting_copy(module, training), ((), example))
    return _call_macs(_counting_copy(module, training), (example if isinstance(example, tuple) else (example,), {}))


def _counting_copy(module: nn.Module, training: bool = True) -> nn.Module:
    """Return a copy to run; recurrent layers only show their matrix products in double precision on a CPU."""
    model = copy.deepcopy(module).train(training)
    return model.cpu().double() if _recurrent(model) else model


def _recurrent(model: nn.Module) -> bool:
    return any(isinstance(m, nn.RNNBase) for m in model.modules())


def _call_macs(model: nn.Module, call: Call) -> tuple[float, float]:
    """Run one call on a copy; dropout and the like draw from a forked generator."""
    # A trainer may have moved the network to the call's device and back again by now.
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    convert = _cpu_double if _recurrent(model) else partial(_moved, device=device)
    args, kwargs = tree_map(convert, call)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.inference_mode(False), torch.enable_grad():
        with FlopCounterMode(display=False) as forward, sdpa_kernel(SDPBackend.MATH):
            output = model(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        with FlopCounterMode(display=False) as backward:
            if outputs:
                torch.stack([leaf.float().sum() for leaf in outputs]).sum().backward()
    rows = batch_rows(args, kwargs)
    return forward.get_total_flops() / 2 / rows, backward.get_total_flops() / 2 / rows


def _moved(leaf: Any, device: torch.device) -> Any:
    return leaf.detach().to(device) if isinstance(leaf, Tensor) else leaf


def _cpu_double(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().cpu().double() if leaf.is_floating_point() else leaf.cpu()


def batch_rows(args: Any, kwargs: Any) -> int:
    """Return the first dimension of the first tensor among the arguments, 1 if there is none."""
    first = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()), None)
    return 1 if first is None else int(first.shape[0])


def signature(module: nn.Module) -> str:
    """Return a digest of class, parameter names, shapes and what is frozen: networks that cost the same share it."""
    parts = [(name, tuple(p.shape), p.requires_grad) for name, p in module.named_parameters()]
    return hashlib.sha256(repr((type(module).__qualname__, parts)).encode()).hexdigest()


class PassCounter:
    """Counts the rows that pass through a network, in training and in inference apart, per shape of a row.

    Works with any training loop: a pre-hook on the network counts, and goes along when the loop deep-copies it.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bool], int] = {}
        self.calls: dict[str, Call] = {}

    def hook(self) -> Callable[..., None]:
        """Return a forward pre-hook (`with_kwargs=True`) that counts into this object."""
        # Closures over plain dicts: copy.deepcopy takes functions as they are, so copies of the network count here too.
        rows, calls = self.rows, self.calls

        def count(module: nn.Module, args: Any, kwargs: Any) -> None:
            size = batch_rows(args, kwargs)
            if not size:
                return
            key = _row_key(args, kwargs, size)
            training = module.training and torch.is_grad_enabled()
            rows[key, training] = rows.get((key, training), 0) + size
            if key not in calls:
                calls[key] = tree_map(lambda leaf: _two_rows(leaf, size), (args, kwargs))

        count._torchdynamo_disable = True  # type: ignore[attr-defined]  # or a compiled network re-compiles at each count
        return count

    def taken(self) -> PassCounter:
        """Return what was counted so far and start again; hooks go on counting into this object."""
        counted = PassCounter()
        counted.rows, counted.calls = dict(self.rows), dict(self.calls)
        self.rows.clear()
        self.calls.clear()
        return counted

    @property
    def samples(self) -> int:
        """Rows that passed, training and inference together."""
        return sum(self.rows.values())

    def total_macs(self, module: nn.Module, cache: dict[tuple[str, str], tuple[float, float]]) -> tuple[int, int]:
        """Return forward and backward multiply-accumulates that `module` needs for the rows counted here.

        `module` need not be the network that was counted. `cache` remembers counts per network and row shape.
        """
        if not self.rows:
            return 0, 0
        network, forward, backward = signature(module), 0.0, 0.0
        unknown = [key for key in self.calls if (network, key) not in cache]
        if unknown:
            model = _counting_copy(module)  # one for all: texts may come in many lengths
            cache.update({(network, key): _call_macs(model, self.calls[key]) for key in unknown})
        for (key, training), n in self.rows.items():
            per_forward, per_backward = cache[network, key]
            forward += n * per_forward
            backward += n * per_backward * training
        return round(forward), round(backward)


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
