"""`fuse`: put a trained proxy back into the dense network, at exactly the positions its weights came from."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from . import checks
from .channel_map import ChannelMap, check_cross, named_tensors
from .errors import FusionError
from .model_checks import check_model
from .preserving import fused_copy


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

    Args:
        model: the dense network; not touched.
        proxy: what `prune(model, ...)` returned, trained or not; not touched.
        cross: "preserve": they start at zero, so that target(x) == proxy(x) to rounding in eval mode, and train on
            from there. Normalisations over channels are adjusted as well where that is exact; where it is not, the
            report states the distance. "copy": they keep the dense network's values (the paper's fusion). A number s:
            they keep s times their value.

    Returns:
        A new module of the class of `model`, on its device and in its mode; all weights train.

    Raises:
        FusionError: the proxy does not fit `model`.
        InputError: `cross` is none of the above, or `proxy` no `Proxy`.
        UnsupportedModelError: `model` is no network.

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
    return fused_copy(model, proxy.module, proxy.channel_map, cross=factor, preserve=cross == "preserve")
