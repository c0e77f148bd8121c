"""One pass of the proxy in which each layer, before it runs, gets the weights that suit the inputs it has by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...fusing import ChannelMap
from ...network import named_tensors
from .outcome import Mended
from .products import BatchNormed, Event, Grouped, Normed, Product, Watcher
from .remembering import Remembered, Statistics, computable, wide_of
from .ridge import Layer, refit
from .scouting import Plan, Site

_LEAST = 10
"""Positions below which nothing is learned of a layer."""


@dataclass
class Outcome:
    """What was done to layers and norms, and what was left, with the reason."""

    layers: list[Mended] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def mend(
    module: nn.Module,
    run: Callable[[Any], Any],
    inputs: Any,
    dense: Mapping[str, Tensor],
    plan: Plan,
    channel_map: ChannelMap,
    memory: Remembered,
    *,
    sequential: bool,
) -> Outcome:
    """Repair a proxy in place, in one pass of all rows through it.

    All rows go through at once, so that each layer's inputs are those of layers that are repaired by then: nothing
    needs to be run again, and nothing but the activations of one pass is held.

    Args:
        module: the thin network, in eval mode; its parameters and statistics are written to.
        run: passes inputs through it.
        inputs: the rows that `memory` knows.
        dense: tensors of the dense network by name.
        plan: what is to be repaired.
        channel_map: where the proxy's entries sit in the dense network.
        memory: what the dense network's layers were given.
        sequential: fit layers to the proxy's own inputs; else to the kept part of the dense network's.
    """
    mender = _Mender(module, dense, plan, channel_map, memory, sequential=sequential)
    with mender:
        run(inputs)
    return mender.outcome()


class _Mender(Watcher):
    def __init__(
        self,
        module: nn.Module,
        dense: Mapping[str, Tensor],
        plan: Plan,
        channel_map: ChannelMap,
        memory: Remembered,
        *,
        sequential: bool,
    ) -> None:
        self.tensors = named_tensors(module)
        super().__init__(self.tensors)
        self.dense, self.plan, self.maps, self.memory = dense, plan, channel_map.tensors, memory
        self.sequential = sequential
        self._done = Outcome(left=dict(plan.left))
        self._met: set[str] = set()

    def outcome(self) -> Outcome:
        """Return what was done, and what the proxy's pass did not come by."""
        for sites in (self.plan.products, self.plan.norms):
            for key, site in sites.items():
                if key not in self._met:
                    self._done.left.setdefault(site.name, "the proxy's pass did not come by it")
        return self._done

    def meet(self, event: Event) -> None:
        """Repair what is about to run."""
        self._met.add(event.key)
        if isinstance(event, Product) and event.key in self.plan.products:
            self._mend_product(event, self.plan.products[event.key])
        elif isinstance(event, BatchNormed) and event.key in self.plan.batch_norms:
            self._mend_batch_norm(event)
        elif isinstance(event, Normed) and event.key in self.plan.norms:
            self._mend_norm(event, self.plan.norms[event.key])

    def leave(self, event: Event, out: Any) -> None:
        """Shift what a convolution by groups gives to the mean that it had."""
        if isinstance(event, Grouped) and event.key in self.plan.grouped:
            was, now = self.memory.statistics[event.key].at(self._kept(event.bias.name)), Statistics().add(out)
            if was.mean is None or now.mean is None:
                return
            shift = (was.mean - now.mean).to(event.bias.tensor)
            event.bias.tensor.add_(shift)
            out.add_(shift.to(out).reshape([-1] + [1] * (out.ndim - 2)))
            self._done.norms.append(event.bias.name)

    def _mend_product(self, event: Product, site: Site) -> None:
        name, tensor_map = event.weight.name, self.maps[event.weight.name]
        dense, thin = self.memory.samples.pop(event.key, None), self.memory.kept.pop(event.key, None)
        if self.sequential:
            thin = self.memory.sample(event.key, site, event.inputs, 0, self.memory.rows)
        if dense is None or thin is None or len(dense) != len(thin):
            self._done.left[name] = "its inputs are not as many in the proxy as in the dense network"
            return
        if len(dense) < _LEAST:
            self._done.left[name] = f"only {len(dense)} positions were seen, and {_LEAST} are needed"
            return
        rows = slice(event.start, event.start + event.count)
        target = event.weight.tensor.movedim(event.dim, -1)[rows]  # [o ... d']
        mix = None if site.summed else computable(wide_of(self.dense[name], tensor_map, event.dim)[rows].flatten(0, -2))
        dense, thin, cut = computable(dense), computable(thin), computable(target.flatten(0, -2))
        fit = refit(Layer(dense, thin, mix, cut, site.centred), self.memory.held(site, dense.device))
        if fit.before <= 4 * torch.finfo(target.dtype).eps ** 2:  # no more than rounding
            return
        if fit.ridge is not None:
            target.copy_(fit.weight.reshape(target.shape))
        if site.bias is not None:
            self._shift(site.bias, fit.shift.reshape(target.shape[:-1]), event.start)
        self._done.layers.append(Mended(name, site.width, target.shape[-1], fit.ridge, fit.before, fit.after))

    def _shift(self, name: str, shift: Tensor, start: int) -> None:
        """Add shift [o ...], of each output and tap of a kernel, to a bias, or to the part of it that begins there."""
        bias = self.tensors[name]
        if bias.numel() != shift.numel():
            shift = shift.flatten(1).sum(1) if shift.ndim > 1 else shift
        bias[start if bias.numel() != shift.numel() else 0 :][: shift.numel()].add_(shift.flatten().to(bias))

    def _mend_batch_norm(self, event: BatchNormed) -> None:
        """Have a batch norm give the mean and variance that the dense one gives."""
        was, now = self.memory.statistics[event.key].at(self._kept(event.mean.name)), Statistics().add(event.inputs)
        if was.mean is None or now.mean is None or not bool(now.var.isfinite().all()):
            return
        mean, var = (computable(owned.tensor).double() for owned in (event.mean, event.var))
        ratio = torch.where(was.var > 0, now.var / was.var.clamp(min=1e-300), torch.ones_like(var)).clamp(min=1e-4)
        shift = now.mean - mean - (was.mean - mean) * ratio.sqrt()
        if not bool(((ratio - 1).abs() > 1e-5).any() or (shift.abs() > 1e-5 * now.var.sqrt()).any()):
            return
        event.mean.tensor.copy_(mean + shift)
        event.var.tensor.copy_(var * ratio)
        self._done.norms.append(event.mean.name.rpartition(".")[0])

    def _mend_norm(self, event: Normed, site: Site) -> None:
        """Scale and shift each channel of a norm so that it is nearest to what the dense one gave."""
        name = event.weight.name
        bare = event.bare().movedim(event.axis, -1)
        dense, thin = self.memory.samples.get(event.key), self.memory.sample(event.key, site, bare, 0, self.memory.rows)
        if dense is None or thin is None or dense.shape != thin.shape or len(dense) < _LEAST:
            self._done.left[name] = "what it gives is not as much in the proxy as in the dense network"
            return
        scale, bias = event.weight.tensor, self.tensors[site.bias] if site.bias is not None else None
        own, added = computable(scale).double(), None if bias is None else computable(bias).double()
        dense, thin = computable(dense).double(), computable(thin).double()
        fitted = _by_channel(dense, thin, own, added, self.memory.held(site, dense.device), scale.dtype)
        if fitted is not None:
            scale.copy_(fitted[0].to(scale))
            if bias is not None:
                bias.copy_(fitted[1].to(bias))
            self._done.norms.append(name)

    def _kept(self, name: str) -> Tensor | None:
        return self.maps[name].kept[0]


def _by_channel(
    dense: Tensor, thin: Tensor, scale: Tensor, bias: Tensor | None, held: Tensor, kind: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """Return scales and shifts [d'] with which thin [p d'] is nearest to dense; None where those at hand miss less."""
    own = thin * scale + (0 if bias is None else bias)
    energy = dense.square().sum(0).clamp(min=1e-300)
    if bool(((own - dense).square().sum(0) <= 4 * torch.finfo(kind).eps ** 2 * energy).all()):
        return None
    t, x = dense[~held], thin[~held]
    means = (t.mean(0), x.mean(0)) if bias is not None else (torch.zeros_like(t[0]), torch.zeros_like(x[0]))
    t, x = t - means[0], x - means[1]
    power = x.square().sum(0)
    a = (x * t).sum(0) / power.clamp(min=1e-300)
    a = torch.where(power > 0, a, scale)
    b = means[0] - a * means[1]
    missed = [(made[held] - dense[held]).square().sum() for made in (own, thin * a + b)]
    return (a, b) if bool(missed[1] < missed[0]) else None
