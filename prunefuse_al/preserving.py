"""Make a fused network compute exactly what its proxy computes, through normalisations over channels too.

Batch normalisation needs nothing: it treats each channel alone. LayerNorm takes its statistics over channels, so the
extra channels of the dense network change them. Where all that writes into a normalised stream is linear, and only
LayerNorm reads it, an exact reparametrisation exists: silence the extra channels (zero rows), centre the writers over
the proxy's channels (LayerNorm subtracts the mean, so it does not see it), and fold what the silent channels do to the
variance, a factor n_proxy / n_dense, into scale and epsilon. RMSNorm needs no centring. For GroupNorm, which also
averages over positions, centring is not neutral, and no such form is known.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .channel_map import ChannelMap, Stream, named_tensors

EPSILONS = {"eps", "epsilon", "variance_epsilon", "layer_norm_epsilon"}


def fused_copy(
    model: nn.Module, proxy: nn.Module, channel_map: ChannelMap, *, cross: float, preserve: bool
) -> nn.Module:
    """Return a copy of `model` with the proxy's values at the positions they came from.

    Args:
        model: the dense network; not touched.
        proxy: the thin network; not touched.
        channel_map: the map of the proxy.
        cross: factor on the weights that carry signal from other channels into the proxy's.
        preserve: also adjust what normalisations over channels see.
    """
    state = channel_map.scatter(named_tensors(proxy), named_tensors(model), cross=cross)
    state, eps = reparametrise(state, channel_map) if preserve else (state, {})
    out = copy.deepcopy(model)
    done: set[int] = set()
    for name, tensor in named_tensors(out).items():
        if id(tensor) not in done:  # of tied names the first is the one that is adjusted
            done.add(id(tensor))
            tensor.grad = None
            tensor.data = state[name].to(tensor.dtype)
    for path, share in eps.items():
        module = out.get_submodule(path)
        for name in EPSILONS & vars(module).keys():
            value = getattr(module, name)
            setattr(module, name, value * share if isinstance(value, float) else value)
    return out


def epsilons(model: nn.Module) -> dict[str, float]:
    """Return "module:name" -> value of every `eps`: fusing scales some, and a state dictionary does not hold them."""
    return {
        f"{path}:{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name in EPSILONS and isinstance(value, float)
    }


def set_epsilons(model: nn.Module, values: Mapping[str, float]) -> None:
    """Put back what `epsilons` returned for a network of the same architecture."""
    for place, value in values.items():
        path, _, name = place.partition(":")
        setattr(model.get_submodule(path), name, value)


def reparametrise(state: Mapping[str, Tensor], channel_map: ChannelMap) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Adjust a fused dense state so that normalisations see what they see in the proxy.

    Args:
        state: dense tensors after `ChannelMap.scatter(..., cross=0)`; not changed.
        channel_map: the map of the proxy; its `streams` say what to adjust.

    Returns:
        The new state, and module name -> factor on its `eps`.
    """
    out = dict(state)
    eps: dict[str, float] = {}
    for stream in channel_map.streams:
        size, kept = _widths(stream, channel_map)
        if kept is None:
            continue
        for name, dim in stream.writers:
            out[name] = _write_only_kept(out[name], dim, kept, centred=stream.centred)
        share = len(kept) / size
        eps.update({module: share for module, _ in stream.norms})
        for scale in {scale for _, scale in stream.norms}:
            values = out[scale].clone()
            index = kept.to(values.device)
            values[index] = values[index] * share**0.5
            out[scale] = values
    return out, eps


def _widths(stream: Stream, channel_map: ChannelMap) -> tuple[int, Tensor | None]:
    tensor_map = channel_map.tensors[stream.norms[0][1]]
    return tensor_map.shape[-1], tensor_map.kept[-1]


def _write_only_kept(tensor: Tensor, dim: int, kept: Tensor, *, centred: bool) -> Tensor:
    """Return the writer with its rows outside `kept` silenced and the kept ones, if `centred`, at mean zero."""
    moved, index = tensor.movedim(dim, 0), kept.to(tensor.device)
    out = torch.zeros_like(moved)
    rows = moved[index]
    out[index] = rows - rows.mean(0) if centred else rows
    return out.movedim(0, dim)
