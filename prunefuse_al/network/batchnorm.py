"""Batch norm after surgery: estimating its statistics again, and folding it away for inference."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .. import checks
from ..data import (
    BatchLoader,
    Collate,
    check_reading,
    describe_rows,
    isolated_rng,
    map_leaves,
    nonfinite_rows,
    to_dataset,
)
from ..errors import NonFiniteError
from .copying import copied, stand_in
from .forward import Transform, call, explained, forward_for, logits_of, settled
from .freezing import frozen_norms
from .model_checks import check_model
from .precision import resolve_device

_DECIDING = frozenset(
    {Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist, Tensor.numpy}
    | {Tensor.is_nonzero, Tensor.equal, Tensor.allclose, torch.is_nonzero, torch.equal, torch.allclose}
)
"""Calls by which a computed value becomes one of Python's, which code may branch on."""

FORGOTTEN = 4.0
"""Steps of training, in multiples of what batch norms remember, after which 2 % is left of earlier statistics."""
TORCHS = 0.1  # momentum of batch norms if nothing is said


def recalibrate_batchnorm(
    model: nn.Module,
    data: Any,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    transform: Transform | None = None,
    num_workers: int = 0,
    max_rows: int | None = 10_000,
    seed: int = 0,
    collate: Collate | None = None,
    keep_frozen: bool = False,
) -> int:
    """Estimate the running statistics of every batch norm anew, in place, as averages over `data`.

    Weights pruned or put together from two networks leave activations whose statistics are not those that were
    recorded. Labels are not needed. Only batch norms go to train mode; nothing but their statistics changes.

    Args:
        model: the network.
        data: arrays, tensors or a map-style dataset.
        batch_size: rows per batch; each full batch counts the same, an incomplete last one is left out.
        device: "auto", or a torch device.
        transform: applied to each batch of inputs; the one of inference.
        num_workers: processes reading a dataset's items.
        max_rows: look at no more than so many rows, drawn at random; None takes all.
        seed: of the order of rows.
        collate: makes a batch of a list of a dataset's inputs; None stacks them.
        keep_frozen: leave out batch norms whose parameters are all frozen, and those in eval mode while `model` is in
            train mode.

    Returns:
        The number of rows used: 0 if there is no layer to estimate statistics of.

    Raises:
        InputError: an option or the data cannot be used.
        NonFiniteError: inputs or statistics with NaN or infinity; the old statistics are put back.
    """
    check_model(model)
    batch_size, num_workers = check_reading(batch_size, num_workers, transform, collate)
    max_rows = checks.maybe(checks.whole, "max_rows", max_rows, least=1)
    seed = checks.whole("seed", seed, least=0, most=2**64 - 1)
    kept = set(frozen_norms(model)) if checks.flag("keep_frozen", keep_frozen) else set()
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m not in kept]
    if not layers:
        return 0
    dataset, place = to_dataset(data), resolve_device(device)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:max_rows]
    if len(order) > batch_size:
        order = order[: len(order) // batch_size * batch_size]
    with isolated_rng(seed, place), settled(model, device=place), _estimating(layers), torch.no_grad():
        forward = forward_for(model, place, transform=transform)
        reading: dict[str, Any] = {"num_workers": num_workers, "collate": collate, "device": place}
        loader = BatchLoader(dataset, batch_size, network=model, labelled=False, **reading)
        for rows, x, _, _ in loader.batches(order):
            if len(bad := nonfinite_rows(x)):
                raise NonFiniteError(f"inputs hold NaN or infinity in {describe_rows(rows[bad], len(dataset))}")
            with explained(model, x):
                forward(model, forward.inputs(x))
        if wrong := sum(not all(bool(buffer.isfinite().all()) for buffer in layer.buffers()) for layer in layers):
            raise NonFiniteError(
                f"the statistics of {wrong} of {len(layers)} batch norms became NaN or infinite: the network's weights "
                "have diverged"
            )
    return len(order)


@contextmanager
def _estimating(layers: list[_BatchNorm]) -> Iterator[None]:
    """Have batch norms average from nothing; on failure put their statistics back."""
    before = [copy.deepcopy(list(layer.buffers())) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
        with averaging(layers):
            yield
    except BaseException:
        for layer, buffers in zip(layers, before, strict=True):
            for buffer, old in zip(layer.buffers(), buffers, strict=True):
                buffer.copy_(old)
        raise


@contextmanager
def averaging(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Have batch norms add what they see in the block to a plain average, in train mode; put momentum and mode back."""
    before = [(layer, layer.momentum, layer.training) for layer in layers]
    try:
        for layer, _, _ in before:
            layer.momentum = None
            layer.train()
        yield
    finally:
        for layer, momentum, mode in before:
            layer.momentum = momentum
            layer.train(mode)


@contextmanager
def forgetting(model: nn.Module, steps: int) -> Iterator[None]:
    """Have batch norms forget within so many steps of training what their statistics were; put momentum back.

    A layer of momentum m keeps (1 - m)^steps of them, which are those of weights that are no more: of EfficientNet's
    0.01 half is left after 70 steps, and in eval mode the network is not the one that was trained (Wu & Johnson, 2021,
    arXiv 2105.07576). With a momentum of `FORGOTTEN` / steps or more it is 2 % at most. Layers that have no statistics
    yet and the momentum of torch stay as they are.
    """
    before = {name: m.momentum for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    least = min(1.0, FORGOTTEN / steps)
    try:
        for name, momentum in before.items():
            layer = model.get_submodule(name)
            if momentum is not None and momentum < least and (momentum < TORCHS or _has_seen(layer)):
                layer.momentum = least  # type: ignore[assignment]
        yield
    finally:  # by name: a network that is thinned while it is trained has other layers then
        for name, module in model.named_modules():
            if name in before:
                module.momentum = before[name]


def _has_seen(layer: nn.Module) -> bool:
    """Return whether a batch norm has statistics of anything."""
    mean = layer.running_mean
    return isinstance(mean, Tensor) and bool(mean.any())


def fold_batchnorm(model: nn.Module, example: Any) -> nn.Module | None:
    """Return a copy for inference whose batch norms are folded into the convolution or linear layer before them.

    Args:
        model: the network; not changed.
        example: a batch of inputs as the network takes them, a tensor, or a tuple or dict of tensors.

    Returns:
        The copy, in eval mode; or None where nothing can be folded, the network decides by what it computes (rounding
        could change its mind), or the copy's outputs for `example` differ by more than rounding.
    """
    check_model(model)
    whole, layers = stand_in(model).eval(), dict(model.named_modules())
    instead: dict[int, Any] = {}
    for before, after in _pairs(whole, example):
        merged = _merged(whole.get_submodule(before), whole.get_submodule(after))
        if merged is not None:
            instead |= {id(layers[before]): merged, id(layers[after]): nn.Identity()}
    if not instead:
        return None
    folded = copied(model, instead).eval()
    return folded if _agree(whole, folded, example) else None


@torch.no_grad()
def _pairs(whole: nn.Module, example: Any) -> list[tuple[str, str]]:
    """Return the names of layers, and of the batch norms that alone read them; none where that cannot be told."""
    chain, hooks = _Chain(), []
    for name, module in whole.named_modules():
        # What a hook sees must stay; parametrised weights, new style and old, are not there to be written to.
        if _hooked(module) or is_parametrized(module):
            continue
        if isinstance(module, _BatchNorm):
            hooks += [module.register_forward_pre_hook(partial(chain.enter, name)),
                      module.register_forward_hook(chain.leave)]  # fmt: skip
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            hooks.append(module.register_forward_hook(partial(chain.see, name)))
    try:
        with chain:
            output = call(whole.forward, example)  # and not a call: hooks must not see these rows
    except Exception:  # whatever a network may raise that is called with a function mode on
        return []
    finally:
        for hook in hooks:
            hook.remove()
    return chain.pairs(output)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks)


class _Chain(TorchFunctionMode):
    """Follows which batch norm reads what a layer has made, and whether anything else does."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[str, Tensor]] = {}  # by identity, and kept, so that no other gets that
        self._norms: list[tuple[str | None, str]] = []
        self._also_read: set[str] = set()
        self._inside = self._decides = False

    def see(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        """Note what the layer called `name` has made."""
        self._made[id(output)] = name, output

    def enter(self, name: str, module: nn.Module, args: Any) -> None:
        """Note whose output the batch norm called `name` reads."""
        self._inside = True
        layer, _ = self._made.get(id(args[0]) if args else 0, (None, None))
        self._norms.append((layer, name))

    def leave(self, *_: Any) -> None:
        """Watch again: what a batch norm does with its input is known."""
        self._inside = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note who else reads what the layers have made."""
        if not self._inside:
            self._decides |= func in _DECIDING
            self._read(args, kwargs)
        return func(*args, **(kwargs or {}))

    def pairs(self, output: Any) -> list[tuple[str, str]]:
        """Return the pairs of layers that work once, one after the other, with nothing beside."""
        self._read(output)
        if self._decides:
            return []
        layers = Counter(name for name, _ in self._made.values())
        norms = Counter(name for _, name in self._norms)
        return [(a, b) for a, b in self._norms if a and layers[a] == norms[b] == 1 and a not in self._also_read]

    def _read(self, *values: Any) -> None:
        self._also_read |= {self._made[id(leaf)][0] for leaf in tree_leaves(values) if id(leaf) in self._made}


def _merged(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return None
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return fuse_conv_bn_eval(layer, norm)
    # After [n t d] a BatchNorm1d normalises t, not d; the comparison of outputs would catch it, an error would not.
    if isinstance(layer, nn.Linear) and layer.out_features == norm.num_features:
        return fuse_linear_bn_eval(layer, norm)
    return None


@torch.no_grad()
def _agree(whole: nn.Module, folded: nn.Module, example: Any) -> bool:
    for batch in (example, map_leaves(example, lambda leaf: leaf[:1])):
        try:
            # `forward` and not a call: hooks must not see these rows.
            expected, found = (logits_of(call(m.forward, batch)) for m in (whole, folded))
        except Exception:  # traced for one batch size, or whatever else a trace may have frozen
            return False
        if not _close(expected, found):
            return False
    return True


def _close(expected: Tensor, found: Tensor) -> bool:
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    return (
        math.isfinite(scale)
        and expected.shape == found.shape
        and bool(torch.allclose(expected, found, rtol=1e-4, atol=1e-5 * max(scale, 1e-3)))
    )
