"""The gate every proxy passes before anyone sees it: it runs, it trains, and it is a sub-network of the dense one.

That tensors can be cut out and put back bit for bit is true of almost every wrong pruning. What shows a right one is
the function: with generic weights, and everything that flows from removed channels into kept ones switched off, the
dense network must compute what the proxy computes.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..channel_map import ChannelMap, named_tensors
from ..preserving import fused_copy
from .example import Arguments, first_output, output_shapes, perturbed, with_rows
from .plan import Structure
from .statistics import KeptStatistics
from .tracing import visible_operations

TOLERANCE = 1e-6  # relative, in double precision


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        reason: why the proxy is refused, or "" if it passed.
        channel_map: the map, with those streams that make preserving fusion exact.
        preserve_distance: relative distance of the preserving fusion, generic weights.
    """

    reason: str
    channel_map: ChannelMap
    preserve_distance: float = 0.0


def inspect(
    model: nn.Module, proxy: nn.Module, channel_map: ChannelMap, structure: Structure, arguments: Arguments, kept: Any
) -> Verdict:
    """Run every check; the first that fails gives the reason. Neither network is changed."""
    reason = _runs(model, proxy, arguments) or _trains(model, proxy, arguments)
    if reason:
        return Verdict(reason, channel_map)
    generator = torch.Generator().manual_seed(0)
    dense, thin = _generic(model, generator), _generic(proxy, generator)
    inputs = perturbed(with_rows(arguments, 3), generator)
    try:
        _calibrate(thin, inputs)
        expected = _run(thin, inputs)
    except Exception as error:
        return Verdict(f"the proxy cannot run in double precision for the check: {_first_line(error)}", channel_map)
    for candidate in {len(m.streams): m for m in (replace(channel_map, streams=()), channel_map)}.values():
        distance = _distance(fused_copy(dense, thin, candidate, cross=0.0, preserve=True), inputs, expected)
        if distance < TOLERANCE:
            return Verdict("", candidate, distance)
    plain = replace(channel_map, streams=())
    preserving = fused_copy(dense, thin, plain, cross=0.0, preserve=False)
    distance = _distance(preserving, inputs, expected)
    replay = KeptStatistics(structure.trace.statistics, lambda labels: kept[structure.components[labels]])
    if _distance(preserving, inputs, expected, replay) < TOLERANCE:
        return Verdict("", plain, distance)
    return Verdict(f"the proxy is not a sub-network: relative distance {distance:.2g} with generic weights", plain)


def _runs(model: nn.Module, proxy: nn.Module, arguments: Arguments) -> str:
    """Return why the proxy does not run like the dense network at two batch sizes, or ""."""
    dense, thin = copy.deepcopy(model).eval(), copy.deepcopy(proxy).eval()
    for rows in (2, 3):
        args, kwargs = with_rows(arguments, rows)
        with visible_operations(), torch.no_grad():
            expected = output_shapes(dense(*args, **kwargs))
            try:
                found = output_shapes(thin(*args, **kwargs))
            except Exception as error:
                return f"the proxy does not run: {_first_line(error)}"
        if found != expected:
            return f"the proxy gives {found} where the network gives {expected}"
    return ""


def _trains(model: nn.Module, proxy: nn.Module, arguments: Arguments) -> str:
    """Return why the proxy cannot be trained where the dense network can, or ""."""
    try:
        _backward(proxy, arguments)
    except Exception as error:
        try:
            _backward(model, arguments)
        except Exception:  # not on these inputs, which may be too small for an auxiliary head
            return ""
        return f"the proxy does not run in train mode: {_first_line(error)}"
    return ""


def _backward(module: nn.Module, arguments: Arguments) -> None:
    module = copy.deepcopy(module).train()
    args, kwargs = with_rows(arguments, 2)
    with visible_operations():
        outputs = [t for t in tree_leaves(module(*args, **kwargs)) if isinstance(t, Tensor) and t.requires_grad]
        if outputs:
            torch.stack([t.float().square().mean() for t in outputs]).sum().backward()


def _generic(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a double-precision copy with values that have no special structure (no zeros, ones or ties)."""
    out = copy.deepcopy(module)
    if any(p.device.type == "mps" for p in out.parameters()):  # has no double precision
        out = out.cpu()
    out = out.double().eval()
    with torch.no_grad():
        done: set[int] = set()
        for name, tensor in named_tensors(out).items():
            if not tensor.is_floating_point() or id(tensor) in done:
                continue
            done.add(id(tensor))
            noise = 2 * torch.rand(tensor.shape, generator=generator).to(tensor) - 1
            scale = float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0
            if tensor.ndim > 1:
                scale = scale or 1 / math.sqrt(tensor[0].numel())
                tensor.data = tensor + 0.5 * scale * noise
            elif "var" in name:
                tensor.data = 0.5 + noise.abs()
            else:
                tensor.data = tensor * (1 + 0.3 * noise) + 0.2 * noise
    return out


def _calibrate(module: nn.Module, inputs: Arguments) -> None:
    """Set BatchNorm statistics to those of the inputs, so that differences between rows reach the output."""
    norms = [
        m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.9
        norm.train()
    _run(module, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _run(module: nn.Module, inputs: Arguments) -> Tensor:
    args, kwargs = inputs
    with visible_operations(), torch.no_grad():
        return first_output(module(*args, **kwargs))


def _distance(module: nn.Module, inputs: Arguments, expected: Tensor, mode: KeptStatistics | None = None) -> float:
    with mode or nullcontext():
        found = _run(module, inputs)
    # Measured on what differs between rows: a large constant part would hide any difference.
    scale = max(float((expected - expected.mean(0)).abs().max()), 1e-6 * float(expected.abs().max())) or 1.0
    distance = float((found - expected).abs().max()) / scale
    return distance if math.isfinite(distance) else math.inf


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
