"""`fuse`: put a trained proxy back into the dense network, at exactly the positions its weights came from."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import nn

from .. import checks
from ..errors import FallbackWarning, FusionError, warn
from ..network import afresh, check_model, copied, frozen_tensors, looks_trained, named_tensors
from .channel_map import ChannelMap
from .delta import delta
from .preserving import Held, fused_copy


class Fusible(Protocol):
    """What `fuse` needs of a proxy: `prunefuse_al.Proxy` is one."""

    @property
    def module(self) -> nn.Module:
        """The thin network."""
        ...

    @property
    def channel_map(self) -> ChannelMap:
        """Where its entries sit in the dense one."""
        ...


class Fusion(Protocol):
    """A way back into the dense network: `Preserve` and `Copy` are ours, any other may be passed as ``cross=``."""

    @property
    def exact(self) -> bool:
        """Whether target(x) == proxy(x) wherever that can be, so that its BatchNorm statistics are right."""
        ...

    def __call__(self, dense: nn.Module, proxy: Fusible) -> nn.Module:
        """Return a network with the tensors of `dense`, which it may change and return."""
        ...


def fuse(model: nn.Module, proxy: Fusible, *, cross: str | float | Fusion = "preserve") -> nn.Module:
    """Put a proxy's weights back into the dense network it was cut from (PruneFuse step 4, arXiv 2603.26138).

    Values of the proxy go to the positions they came from; everything else keeps the values of `model`. What happens
    to the *cross* weights, which carry signal from other channels into the proxy's channels (and the head), is a
    choice.

    What is frozen in `model` keeps the values of `model`, whatever the choice: parameters that require no gradient, and
    the statistics of a BatchNorm whose parameters are all frozen, or which is in eval mode while `model` is in train
    mode. Where frozen weights stand in the way of "preserve", all else is fused as "copy" does, and a warning says so.

    Args:
        model: the dense network; not touched.
        proxy: what `prune(model, ...)` returned, trained or not; not touched.
        cross: "preserve": they start at zero, so that target(x) == proxy(x) to rounding in eval mode, and train on
            from there. Normalisations over channels are adjusted as well where that is exact; where it is not, the
            report states the distance. "copy": they keep the dense network's values (the paper's fusion). A number s:
            they keep s times their value. "delta": all keep the dense network's values, and what the proxy learned
            since it was cut or repaired is added at its positions: for networks that were trained before; of a proxy
            that was not repaired it equals "copy". "auto": "delta" if `model` looks trained (`network.looks_trained`),
            else "preserve". Or an object of your own, see `fusing.Fusion`: it is given a copy of `model`, and what is
            frozen is put back after it.

    Returns:
        A new module of the class of `model`, on its device and in its mode; the weights that train in `model` train.

    Raises:
        FusionError: the proxy does not fit `model`, or a `Fusion` of your own returned no such network.
        InputError: `cross` is none of the above, or `proxy` no `Proxy`.
        UnsupportedModelError: `model` is no network.

    Warns:
        FallbackWarning: something frozen stayed as it is that `cross` would have changed.

    Example:
        >>> import torch
        >>> from prunefuse_al import prune
        >>> net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
        >>> proxy, x = prune(net, torch.zeros(2, 8), 0.5), torch.randn(5, 8)
        >>> torch.allclose(fuse(net, proxy)(x), proxy.module(x), atol=1e-6)
        True
    """
    check_model(model)
    fusion = fusion_of(cross, trained=looks_trained(model))
    if not isinstance(getattr(proxy, "channel_map", None), ChannelMap) or not isinstance(proxy.module, nn.Module):
        raise checks.refused("proxy", proxy, "the Proxy that prune(model, ...) returned, whole: not its .module")
    names = named_tensors(model).keys() ^ proxy.channel_map.tensors.keys()
    if names:
        raise FusionError(
            f"fuse(): network and proxy differ in {sorted(names)[:5]}; pass the network the proxy was cut from"
        )
    if isinstance(fusion, Preserve | Copy | Delta):
        return fusion(model, proxy)
    return _fused_by(fusion, model, proxy)


def fusion_of(cross: str | float | Fusion, *, trained: bool = False) -> Fusion:
    """Return the way back that `cross` names: "preserve", "copy", "delta" or a factor; one that was given, as it is.

    Args:
        cross: "auto" is "delta" for a network that was trained before, and "preserve" for one at initialisation.
        trained: whether it was.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(cross, str) and cross == "auto":
        return NAMED["delta" if trained else "preserve"]
    if isinstance(cross, str) and cross in NAMED:
        return NAMED[cross]
    if callable(cross) and not isinstance(cross, type):
        if not isinstance(getattr(cross, "exact", None), bool):
            raise checks.refused("cross", cross, "a Fusion: a function of (dense, proxy) with an attribute `exact`")
        return cross
    what = '"preserve", "copy" or a finite number, "delta", "auto", or a Fusion of your own'
    return Copy(float(checks.number("cross", cross, what=what)))


def _fused_by(fusion: Fusion, model: nn.Module, proxy: Fusible) -> nn.Module:
    """Return what a user's own way back makes, which must be another network of the same tensors, frozen ones kept."""
    dense = copied(model)
    target = fusion(dense, proxy)
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in named_tensors(model).items()}
    fits = isinstance(target, nn.Module) and target is not proxy.module
    if not fits or own != {name: (tensor.shape, tensor.dtype) for name, tensor in named_tensors(target).items()}:
        found = type(target).__name__ if target is not proxy.module else "the proxy's own module"
        raise FusionError(
            f"fuse(cross={fusion!r}): it returned {found}; a Fusion returns a network with the tensors of the dense one"
        )
    frozen, dense_tensors, changed = frozen_tensors(model), named_tensors(model), []
    with torch.no_grad():
        for name, tensor in named_tensors(target).items():
            if name in frozen and not torch.equal(tensor, dense_tensors[name]):
                tensor.copy_(dense_tensors[name])
                changed.append(name)
    if changed:
        warn(
            f"fuse(cross={fusion!r}): {len(changed)} tensors are frozen in the dense network and keep its values, such "
            f"as {changed[0]!r}; unfreeze them before prune() if they are meant to change",
            FallbackWarning,
        )
    return afresh(target, proxy.channel_map.computed)


@dataclass(frozen=True)
class Preserve:
    """The proxy's function: weights that carry signal from other channels start at zero, and train on from there."""

    exact: ClassVar[bool] = True

    def __call__(self, dense: nn.Module, proxy: Fusible) -> nn.Module:
        """Return a new network that computes what the proxy does, to rounding, wherever that can be."""
        target, held = fused_copy(dense, proxy.module, proxy.channel_map, cross=0.0, preserve=True)
        frozen = frozen_tensors(dense)
        if held.names and (held.copied or not _known_as_exact(proxy, frozen)):
            start = ", and the others were fused as by cross='copy'" if held.copied else ": it is only near to it"
            warn(
                f"{_of_frozen(dense, len(frozen), held, 'preserve')}target(x) to equal proxy(x){start}. Fine-tune the "
                "target (fit_target does); pass cross='copy' to ask for that start, or unfreeze them before prune() to "
                "have the proxy's function: requires_grad_(True), and train() for a BatchNorm",
                FallbackWarning,
            )
        return target


@dataclass(frozen=True)
class Copy:
    """The paper's fusion: mapped entries take the proxy's values, all others keep the dense network's.

    Attributes:
        scale: factor on the weights that carry signal from other channels into the proxy's, and into the head.
    """

    scale: float = 1.0
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.settle(self, scale=float(checks.number("scale", self.scale, what="a finite factor")))

    def __call__(self, dense: nn.Module, proxy: Fusible) -> nn.Module:
        """Return a new network with the proxy's values in their places."""
        target, held = fused_copy(dense, proxy.module, proxy.channel_map, cross=self.scale, preserve=False)
        # Only "preserve" promises a function, to which statistics belong.
        names = held.names - dict(dense.named_buffers(remove_duplicate=False)).keys()
        if names:
            cross = "copy" if self.scale == 1 else self.scale
            text = _of_frozen(dense, len(frozen_tensors(dense)), replace(held, names=names), cross)
            warn(
                f"{text}cross={cross!r} to hold there; unfreeze them before prune() if they are meant to",
                FallbackWarning,
            )
        return target


@dataclass(frozen=True)
class Delta:
    """The dense network plus what the proxy learned, at the proxy's positions; see `delta`.

    A pretrained network so starts no further from its knowledge than the proxy's training led away from it.

    Attributes:
        weight: how much of what was learned is added; 0 leaves the dense network. None is 1, or where a selector fuses,
            what fits the labelled rows best (0, a quarter, a half, three quarters, or all of it).
    """

    weight: float | None = None
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        what = "how much of what was learned is added, such as 1"
        checks.settle(self, weight=checks.maybe(checks.number, "weight", self.weight, what=what))

    def __call__(self, dense: nn.Module, proxy: Fusible) -> nn.Module:
        """Return a new network with what the proxy learned added in its places."""
        target, frozen = copied(dense), frozen_tensors(dense)
        own, learned = named_tensors(target), named_tensors(proxy.module)
        weight = 1.0 if self.weight is None else float(self.weight)
        values = delta(own, learned, proxy.channel_map, getattr(proxy, "repaired", None), weight=weight)
        changed = frozenset(name for name in frozen if not torch.equal(values[name], own[name]))
        with torch.no_grad():
            for name in own.keys() - frozen:
                own[name].copy_(values[name])
        afresh(target, proxy.channel_map.computed)
        parameters = changed - dict(dense.named_buffers(remove_duplicate=False)).keys()
        if parameters:
            warn(
                f"{_of_frozen(dense, len(frozen), Held(parameters), 'delta')}what the proxy learned there to be added; "
                "unfreeze them before prune() if they are meant to",
                FallbackWarning,
            )
        return target


NAMED: dict[str, Fusion] = {"preserve": Preserve(), "copy": Copy(), "delta": Delta()}


def _known_as_exact(proxy: Fusible, frozen: Set[str]) -> bool:
    """Tell whether pruning has measured that the same frozen tensors make no difference to the preserved function."""
    report = getattr(proxy, "pruning_report", None)
    return report is not None and report.preserve_exact and set(report.frozen) == frozen


def _of_frozen(model: nn.Module, frozen: int, held: Held, cross: str | float) -> str:
    """Return the beginning of what to say of frozen tensors that `cross` would have changed."""
    return (
        f"fuse(cross={cross!r}): {frozen} tensors are frozen and keep the values of the dense network. Those of "
        f"{_modules(held.names, model)} would have to change for "
    )


def _modules(names: Set[str], model: nn.Module, shown: int = 5) -> str:
    """Return the modules that tensors belong to, the first few by name."""
    order = dict.fromkeys(name.rpartition(".")[0] for name in named_tensors(model) if name in names)
    first = ", ".join(repr(path) if path else "the network itself" for path in list(order)[:shown])
    return first if len(order) <= shown else f"{first} and {len(order) - shown} more modules"
