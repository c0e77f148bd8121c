"""`fuse`: put a trained proxy back into the dense network, at exactly the positions its weights came from."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from .channel_map import ChannelMap, check_cross
from .errors import FusionError
from .preserving import reparametrise


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
    to the *cross* weights, which carry signal from other channels into the proxy's channels (and the head), is a choice:

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
        NonFiniteError: never; non-finite values are copied as they are.
        InputError: `cross` is none of the above.

    Example:
        >>> from prunefuse_al import prune
        >>> net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
        >>> proxy, x = prune(net, torch.zeros(2, 8), 0.5), torch.randn(5, 8)
        >>> torch.allclose(fuse(net, proxy)(x), proxy.module(x), atol=1e-6)
        True
    """
    factor = check_cross(cross)
    dense_state, proxy_state = _state(model), _state(proxy.module)
    if dense_state.keys() != proxy.channel_map.tensors.keys():
        raise FusionError(
            f"fuse(): network and proxy differ in {sorted(dense_state.keys() ^ proxy.channel_map.tensors.keys())[:5]}; "
            "pass the network the proxy was cut from"
        )
    state = proxy.channel_map.scatter(proxy_state, dense_state, cross=factor)
    eps: dict[str, float] = {}
    if cross == "preserve":
        state, eps = reparametrise(state, proxy.channel_map)
    target = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in _state(target, tied=False).items():
            tensor.grad = None
            tensor.data = state[name]
    for path, share in eps.items():
        module = target.get_submodule(path)
        if isinstance(getattr(module, "eps", None), float):
            module.eps = module.eps * share  # type: ignore[assignment, operator]
    return target


def _state(module: nn.Module, *, tied: bool = True) -> dict[str, Tensor]:
    """Return parameters and buffers by name; with `tied`, shared ones stand under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=not tied)),
        **dict(module.named_buffers(remove_duplicate=not tied)),
    }
