"""Make a fused network compute exactly what its proxy computes, through normalisations over channels too.

Batch normalisation needs nothing: it treats each channel alone. LayerNorm and GroupNorm take statistics over
channels, so the extra channels of the dense network change them. Where all that writes into a normalised stream is
linear, an exact reparametrisation exists: silence the extra channels (zero rows), centre the writers over the
proxy's channels (a norm that subtracts the mean does not see it), and fold what the silent channels do to the
variance, a factor n_proxy / n_dense, into scale and epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .channel_map import ChannelMap, Stream


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
            out[name] = _write_only_kept(out[name], dim, kept, stream)
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


def _write_only_kept(tensor: Tensor, dim: int, kept: Tensor, stream: Stream) -> Tensor:
    """Return the writer with its rows outside `kept` silenced and the kept ones centred in each group."""
    moved = tensor.movedim(dim, 0)
    rows = moved[kept.to(tensor.device)]
    if stream.centred:
        parts = rows.reshape(stream.groups, -1, *rows.shape[1:])
        rows = (parts - parts.mean(1, keepdim=True)).reshape(rows.shape)
    out = torch.zeros_like(moved)
    out[kept.to(tensor.device)] = rows
    return out.movedim(0, dim)
