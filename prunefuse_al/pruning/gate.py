"""The gate every proxy passes before anyone sees it: it runs, it trains, and it is a sub-network of the dense one.

That tensors can be cut out and put back bit for bit is true of almost every wrong pruning. What shows a right one is
the function: with generic weights, and everything that flows from removed channels into kept ones switched off, the
dense network must compute what the proxy computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..costs import batch_rows, operation_flops
from ..errors import PruningError
from ..fusing import ChannelMap, copy_channels, put_back
from ..network import (
    Arguments,
    copied,
    first_output,
    frozen_tensors,
    named_tensors,
    output_shapes,
    perturbed,
    with_rows,
)
from .groups import Structure
from .quietly import answer_of, first_line
from .trace import KeptStatistics, visible_operations

# (precision, relative distance that is rounding): single precision settles nearly all; what it cannot, double does.
PRECISIONS = ((torch.float32, 1e-4), (torch.float64, 1e-6))
NOISE = 65_537  # a prime, so that a block of noise that is repeated never falls in step with rows


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        reason: why the proxy is refused, or "" if it passed.
        channel_map: the map, with the streams or copies that make preserving fusion exact.
        preserve_distance: relative distance of the preserving fusion, generic weights where nothing is frozen.
        exact: that distance is rounding.
        macs: multiply-accumulates of the proxy, per row.
    """

    reason: str
    channel_map: ChannelMap
    preserve_distance: float = 0.0
    exact: bool = False
    macs: int = 0


def inspect(
    model: nn.Module,
    proxy: nn.Module,
    channel_map: ChannelMap,
    structure: Structure,
    arguments: Arguments,
    kept: np.ndarray,
) -> Verdict:
    """Run every check; the first that fails gives the reason. Neither network is changed.

    Args:
        model: the dense network.
        proxy: the thin one that `channel_map` cuts out of it.
        channel_map: with all that may make preserving fusion exact; the verdict has what does.
        structure: the reading of the dense network.
        arguments: example inputs.
        kept: bool [components], which channels stay.
    """
    thin = copied(proxy)  # for every check in turn, each of which overwrites what the one before left
    reason = _runs(thin, structure.trace.answers, arguments) or _trains(model, thin, arguments)
    if reason:
        return Verdict(reason, channel_map)
    generator = torch.Generator().manual_seed(0)
    rows = 3 if _batch_norms(model) else 2  # of two, BatchNorm without positions would make +1 and -1
    inputs = perturbed(with_rows(arguments, rows), generator)
    verdict = Verdict("", channel_map)
    for dtype, tolerance in PRECISIONS:
        try:
            verdict = _Comparison(model, thin, inputs, dtype, tolerance).verdict(channel_map, structure, kept)
        except Exception as error:
            what = f"cannot be checked in {str(dtype).removeprefix('torch.')}: {first_line(error)}"
            verdict = Verdict(f"the proxy {what}", channel_map)
        if not verdict.reason:
            break
    frozen = frozen_tensors(model)
    return verdict if verdict.reason or not frozen else _with_frozen(verdict, model, thin, inputs, frozen)


def _with_frozen(
    verdict: Verdict, model: nn.Module, thin: nn.Module, inputs: Arguments, frozen: frozenset[str]
) -> Verdict:
    """Return the verdict with the distance of a preserving fusion that leaves what is frozen as it is."""
    own = {name: tensor.detach() for name, tensor in named_tensors(model).items() if name in frozen}
    for dtype, tolerance in PRECISIONS:
        comparison = _Comparison(model, thin, inputs, dtype, tolerance, verdict.channel_map.extract(own))
        distance = comparison.distance(verdict.channel_map)
        if distance < tolerance:
            break
    return replace(verdict, preserve_distance=distance, exact=verdict.exact and distance < tolerance)


class _Comparison:
    """One comparison of target and proxy on the same generic values, in one precision.

    What is frozen, whose values in the proxy are handed in by name, keeps its own values in both.
    """

    def __init__(
        self,
        model: nn.Module,
        thin: nn.Module,
        inputs: Arguments,
        dtype: torch.dtype,
        tolerance: float,
        frozen: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.model, self.dtype, self.tolerance, self.frozen = model, dtype, tolerance, frozen
        self.inputs = _converted(inputs, dtype)
        self.thin = _converted_network(thin, dtype)
        _make_generic(self.thin, frozen.keys())
        _set(self.thin, frozen)
        _calibrate(self.thin, self.inputs)
        _set(self.thin, frozen)
        counter = _FlopCounter()
        with counter:
            self.expected = _run(self.thin, self.inputs)
        self.macs = round(counter.flops / 2 / batch_rows(*self.inputs))

    def verdict(self, channel_map: ChannelMap, structure: Structure, kept: np.ndarray) -> Verdict:
        """Show that the proxy is a sub-network, and find what makes the preserving fusion exact.

        Copies cannot show the first, because a copy of the right channel would hide that the wrong one is read.
        """
        plain = replace(channel_map, streams=(), copies={})
        copied, streamed = replace(channel_map, streams=()), replace(channel_map, copies={})

        def fits(found: ChannelMap, distance: float, exact: bool) -> Verdict:
            return Verdict("", found, distance, exact, self.macs)

        replay = KeptStatistics(structure.trace, lambda marks: kept[structure.components[marks]])
        refused: str | None = None  # None: not asked yet
        if channel_map.copies:
            target = self._target(plain)
            refused = self._refused(target, replay)
            copy_channels(target, channel_map)
            if not refused and (distance := self._distance(target)) < self.tolerance:
                return fits(copied, distance, True)
            del target
        for candidate in (streamed, plain) if channel_map.streams else (plain,):
            distance = self.distance(candidate)
            if distance < self.tolerance:
                return fits(candidate, distance, True)
        if refused is None:
            refused = self._refused(self._target(plain), replay)
        if not refused:
            return fits(plain, math.inf if math.isnan(distance) else distance, False)
        if math.isnan(distance):
            return Verdict("the proxy cannot be checked: with generic weights answers are NaN or infinite", plain)
        return Verdict(f"{refused}: relative distance {distance:.2g} with generic weights", plain)

    def _refused(self, target: nn.Module, replay: KeptStatistics) -> str:
        """Return why a target that looks at the proxy's channels only does not give what the proxy does, or ""."""
        try:
            distance = self._distance(target, replay)
        except PruningError as error:
            return f"the proxy cannot be checked, {error}"
        return "" if distance < self.tolerance else "the proxy is not a sub-network"

    def distance(self, channel_map: ChannelMap) -> float:
        """Return the relative distance between the preserving fusion and the proxy."""
        return self._distance(self._target(channel_map))

    def _target(self, channel_map: ChannelMap) -> nn.Module:
        """Return the preserving fusion; its dense copy is the only one that is alive."""
        dense = _converted_network(copied(self.model), self.dtype)
        _make_generic(dense, self.frozen.keys())
        put_back(dense, self.thin, channel_map, cross=0.0, preserve=True, frozen=self.frozen.keys())
        return dense

    def _distance(self, target: nn.Module, mode: KeptStatistics | None = None) -> float:
        """Return the relative distance, NaN where one of the two answers with NaN or infinity."""
        with mode or nullcontext():
            found = _run(target, self.inputs)
        if found.shape != self.expected.shape:
            return math.inf
        # Measured on what differs between rows: a large constant part would hide any difference.
        expected = self.expected
        scale = max(float((expected - expected.mean(0)).abs().max()), 1e-6 * float(expected.abs().max())) or 1.0
        distance = float((found - expected).abs().max()) / scale
        return distance if math.isfinite(distance) else math.nan


def _runs(thin: nn.Module, answers: list[tuple[int, ...]], arguments: Arguments) -> str:
    """Return why the proxy does not run, as a user runs it, like the dense network did, or ""."""
    try:
        found = output_shapes(answer_of(thin.eval(), arguments))
    except Exception as error:  # whatever a user's code raises
        return f"the proxy does not run: {first_line(error)}"
    return "" if found == answers else f"the proxy gives {found} where the network gives {answers}"


def _trains(model: nn.Module, thin: nn.Module, arguments: Arguments) -> str:
    """Return why the proxy cannot be trained where the dense network can, or ""."""
    try:
        _backward(thin, arguments)
    except Exception as error:
        try:
            _backward(copied(model), arguments)
        except Exception:  # not on these inputs, which may be too small for an auxiliary head
            return ""
        return f"the proxy does not run in train mode: {first_line(error)}"
    return ""


def _backward(module: nn.Module, arguments: Arguments) -> None:
    module.train()
    args, kwargs = with_rows(arguments, 2)
    with visible_operations(module):
        outputs = [t for t in tree_leaves(module(*args, **kwargs)) if isinstance(t, Tensor) and t.requires_grad]
        if outputs:
            torch.stack([t.float().square().mean() for t in outputs]).sum().backward()
    module.zero_grad()


class _FlopCounter(TorchDispatchMode):
    """Counts operations as the tracer does: of a network whose every operation is visible."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.flops += operation_flops(func, args, kwargs or {}, out)
        return out


def _converted_network(out: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `out` itself, in eval mode and another precision."""
    if dtype == torch.float64 and any(p.device.type == "mps" for p in out.parameters()):  # has no double precision
        out = out.cpu()
    return out.to(dtype).eval()


def _converted(inputs: Arguments, dtype: torch.dtype) -> Arguments:
    convert = lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    args, kwargs = tree_map(convert, inputs)
    return args, kwargs


def _make_generic(module: nn.Module, frozen: Set[str] = frozenset()) -> None:
    """Give a network values, in place, that have no special structure (no zeros, ones or ties); `frozen` stay."""
    block = 2 * torch.rand(NOISE, generator=torch.Generator().manual_seed(1)) - 1
    first = {id(t): (name, t) for name, t in named_tensors(module).items() if t.is_floating_point()}
    with torch.no_grad():
        for number, (name, tensor) in enumerate(first.values()):
            if name in frozen:
                continue
            noise = block.to(tensor).roll(-977 * number)
            if sum(size > 1 for size in tensor.shape) > 1 and tensor.numel():  # one dimension: a scale, maybe of 1e-6
                scale = _scale(tensor)
                tensor.data = tensor.contiguous()  # an expanded one cannot be written to
                _add_noise(tensor.view(-1), noise * (0.5 * (scale or 1 / math.sqrt(tensor[0].numel()))))
                continue
            noise = noise.repeat(-(-tensor.numel() // NOISE))[: tensor.numel()].view(tensor.shape)
            tensor.data = 0.5 + noise.abs() if "var" in name else tensor * (1 + 0.3 * noise) + 0.2 * noise


def _scale(tensor: Tensor) -> float:
    """Return the root of the mean square; of a mask, of what is finite in it: what is not stays as it is."""
    norm = float(torch.linalg.vector_norm(tensor))
    if norm == math.inf:
        norm = float(torch.linalg.vector_norm(tensor[tensor.isfinite()]))
    return norm / math.sqrt(tensor.numel())


@torch.no_grad()
def _set(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give tensors of a network values, by name, in place."""
    tensors = named_tensors(module)
    for name, value in values.items():
        tensors[name].copy_(value)


def _add_noise(values: Tensor, noise: Tensor) -> None:
    """Add a block of noise, again and again, to a vector, in place."""
    whole = len(values) // len(noise)
    values[: whole * len(noise)].view(whole, len(noise)).add_(noise)
    values[whole * len(noise) :].add_(noise[: len(values) - whole * len(noise)])


def _calibrate(module: nn.Module, inputs: Arguments) -> None:
    """Set BatchNorm statistics to those of the inputs, so that differences between rows reach the output."""
    norms = _batch_norms(module)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    _run(module, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Return the layers that keep statistics of batches."""
    kind = nn.modules.batchnorm._NormBase
    return [m for m in module.modules() if isinstance(m, kind) and m.running_mean is not None]


def _run(module: nn.Module, inputs: Arguments) -> Tensor:
    args, kwargs = inputs
    with visible_operations(module), torch.no_grad():
        return first_output(module(*args, **kwargs))
