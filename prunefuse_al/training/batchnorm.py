"""Batch norm after surgery: estimating its statistics again, and folding it away for inference."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .. import checks
from ..arrays import describe_rows, map_leaves, nonfinite_rows
from ..data import to_dataset
from ..errors import NonFiniteError
from ..forward import Transform, call, explained, forward_for, logits_of, settled
from ..items import Collate
from ..loading import BatchLoader, check_reading
from ..model_checks import check_model
from ..precision import resolve_device
from ..rng import isolated_rng


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

    Returns:
        The number of rows used: 0 if no layer keeps running statistics.

    Raises:
        InputError: an option or the data cannot be used.
        NonFiniteError: inputs or statistics with NaN or infinity; the old statistics are put back.
    """
    check_model(model)
    batch_size, num_workers = check_reading(batch_size, num_workers, transform, collate)
    max_rows = checks.maybe(checks.whole, "max_rows", max_rows, least=1)
    seed = checks.whole("seed", seed, least=0, most=2**64 - 1)
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    dataset, place = to_dataset(data), resolve_device(device)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:max_rows]
    if len(order) > batch_size:
        order = order[: len(order) // batch_size * batch_size]
    with isolated_rng(seed, place), settled(model, device=place), _estimating(layers), torch.no_grad():
        forward = forward_for(model, place, transform=transform)
        loader = BatchLoader(dataset, batch_size, num_workers=num_workers, collate=collate, device=place)
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
    """Have batch norms average from nothing; put momentum back, and on failure the statistics too."""
    before = [(layer.momentum, copy.deepcopy(list(layer.buffers()))) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average
            layer.train()
        yield
    except BaseException:
        for layer, (_, buffers) in zip(layers, before, strict=True):
            for buffer, old in zip(layer.buffers(), buffers, strict=True):
                buffer.copy_(old)
        raise
    finally:
        for layer, (momentum, _) in zip(layers, before, strict=True):
            layer.momentum = momentum


def fold_batchnorm(model: nn.Module, example: Any) -> nn.Module | None:
    """Return a copy for inference whose batch norms are folded into the convolution or linear layer before them.

    Args:
        model: the network; not changed.
        example: a batch of inputs as the network takes them, a tensor, or a tuple or dict of tensors.

    Returns:
        The copy, in eval mode; or None where nothing can be folded, the network cannot be traced, or the copy's outputs
        for `example` differ by more than rounding.
    """
    whole = copy.deepcopy(check_model(model)).eval()
    try:
        folded = fx.symbolic_trace(whole)
    except Exception:  # a tracer stops at anything: data-dependent control flow, foreign types, custom errors
        return None
    if not _fold(folded):
        return None
    # Hooks of the network itself (a counter of samples, for one) are called at the root, which a trace leaves out.
    for hooks in (
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
    ):
        getattr(folded, hooks).update(getattr(model, hooks))
    return folded if _agree(whole, folded, example) else None


def _fold(traced: fx.GraphModule) -> int:
    """Fold in place, and return how many batch norms went away."""
    modules, count = dict(traced.named_modules()), 0
    uses = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        before, after = str(source.target), str(node.target)
        if uses[before] != 1 or uses[after] != 1:  # a shared layer serves another place as well
            continue
        merged = _merged(modules[before], modules[after])
        if merged is None:
            continue
        traced.set_submodule(before, merged)
        modules[before] = merged
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
        count += 1
    traced.delete_all_unused_submodules()
    traced.recompile()
    return count


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
