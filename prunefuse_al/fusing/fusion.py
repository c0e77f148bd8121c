"""`fuse`: put a trained proxy back into the dense network, at exactly the positions its weights came from."""

from __future__ import annotations

import warnings
from collections.abc import Set
from dataclasses import replace
from typing import Protocol

from torch import nn

from .. import checks
from ..errors import FallbackWarning, FusionError
from ..network import check_model, frozen_tensors, named_tensors
from .channel_map import ChannelMap, check_cross
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


def fuse(model: nn.Module, proxy: Fusible, *, cross: str | float = "preserve") -> nn.Module:
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
            they keep s times their value.

    Returns:
        A new module of the class of `model`, on its device and in its mode; the weights that train in `model` train.

    Raises:
        FusionError: the proxy does not fit `model`.
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
    factor = check_cross(cross)
    check_model(model)
    if not isinstance(getattr(proxy, "channel_map", None), ChannelMap) or not isinstance(proxy.module, nn.Module):
        raise checks.refused("proxy", proxy, "the Proxy that prune(model, ...) returned, whole: not its .module")
    names = named_tensors(model).keys() ^ proxy.channel_map.tensors.keys()
    if names:
        raise FusionError(
            f"fuse(): network and proxy differ in {sorted(names)[:5]}; pass the network the proxy was cut from"
        )
    target, held = fused_copy(model, proxy.module, proxy.channel_map, cross=factor, preserve=cross == "preserve")
    frozen = frozen_tensors(model)
    if cross != "preserve":  # only that one promises a function, to which statistics belong
        held = replace(held, names=held.names - dict(model.named_buffers(remove_duplicate=False)).keys())
    if held.names and (held.copied or not _known_as_exact(proxy, frozen, cross)):
        warnings.warn(_of_frozen(model, len(frozen), held, cross), FallbackWarning, stacklevel=2)
    return target


def _known_as_exact(proxy: Fusible, frozen: Set[str], cross: str | float) -> bool:
    """Tell whether pruning has measured that the same frozen tensors make no difference to the preserved function."""
    report = getattr(proxy, "pruning_report", None)
    return cross == "preserve" and report is not None and report.preserve_exact and set(report.frozen) == frozen


def _of_frozen(model: nn.Module, frozen: int, held: Held, cross: str | float) -> str:
    """Return what to say of frozen tensors that `cross` would have changed."""
    text = (
        f"fuse(cross={cross!r}): {frozen} tensors are frozen and keep the values of the dense network. Those of "
        f"{_modules(held.names, model)} would have to change for "
    )
    if cross != "preserve":
        return text + f"cross={cross!r} to hold there; unfreeze them before prune() if they are meant to"
    start = ", and the others were fused as by cross='copy'" if held.copied else ": it is only near to it"
    return text + (
        f"target(x) to equal proxy(x){start}. Fine-tune the target (fit_target does); pass cross='copy' to ask for "
        "that start, or unfreeze them before prune() to have the proxy's function: requires_grad_(True), and train() "
        "for a BatchNorm"
    )


def _modules(names: Set[str], model: nn.Module, shown: int = 5) -> str:
    """Return the modules that tensors belong to, the first few by name."""
    order = dict.fromkeys(name.rpartition(".")[0] for name in named_tensors(model) if name in names)
    first = ", ".join(repr(path) if path else "the network itself" for path in list(order)[:shown])
    return first if len(order) <= shown else f"{first} and {len(order) - shown} more modules"
