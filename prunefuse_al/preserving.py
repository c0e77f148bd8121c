"""Make a fused network compute exactly what its proxy computes, through normalisations over channels too.

Batch normalisation needs nothing: it treats each channel alone. LayerNorm, GroupNorm and other statistics over channels
see the extra channels of the dense network, in one of two ways that are exact:

* Where a width is a multiple of the proxy's, the extra channels start as copies of the proxy's, each equally often:
  mean, variance and norms stay as they are, and every value of the proxy goes back bit for bit.
* Where all that writes into a normalised stream is linear, and only LayerNorm or RMSNorm reads it: silence the extra
  channels (zero rows), centre the writers over the proxy's channels (LayerNorm subtracts the mean, so it does not see
  it), and fold what the silent channels do to the variance, a factor n_proxy / n_dense, into scale and epsilon. RMSNorm
  needs no centring. Scales of single channels on the way (layer scale) are made equal first. For GroupNorm, which also
  averages over positions, centring is not neutral.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .channel_map import ChannelMap, Stream, named_tensors
from .copying import copied

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
    channel_map.check(named_tensors(proxy), named_tensors(model))
    with torch.inference_mode(False):  # tensors made in it could not be trained
        out = copied(model)
        put_back(out, proxy, channel_map, cross=cross, preserve=preserve)
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


def put_back(dense: nn.Module, proxy: nn.Module, channel_map: ChannelMap, *, cross: float, preserve: bool) -> None:
    """Write the proxy's values into `dense`, in place, one tensor at a time; see `fused_copy`."""
    values, state = named_tensors(proxy), _each_once(dense)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.grad = None
            if 0 in tensor.stride():  # expanded: cannot be written to
                tensor.data = tensor.contiguous()
            channel_map.place(name, values[name], tensor, cross=cross)
        if preserve:
            copy_channels(dense, channel_map)
            _reparametrise(dense, state, channel_map)


def copy_channels(dense: nn.Module, channel_map: ChannelMap) -> None:
    """Let the extra channels of a network that has the proxy's values start as copies, in place."""
    state = _each_once(dense)
    with torch.no_grad():
        for key, pairs in channel_map.copies.items():
            name, _, dim = key.rpartition(":")
            if name in state:
                tensor = state[name]
                target, source = pairs.to(tensor.device)
                tensor.index_copy_(int(dim), target, tensor.index_select(int(dim), source))


def _each_once(dense: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network by the first of their names."""
    first = {id(tensor): (name, tensor) for name, tensor in reversed(named_tensors(dense).items())}
    return dict(first.values())


def _reparametrise(dense: nn.Module, state: Mapping[str, Tensor], channel_map: ChannelMap) -> None:
    """Adjust writers, scales and epsilons of every stream, so that normalisations see what they see in the proxy."""
    for stream in channel_map.streams:
        size, kept = _widths(stream, channel_map)
        if kept is None:
            continue
        if stream.centred:
            _share_out_scales(stream, state, kept)
        for name, dim in stream.writers:
            _write_only_kept(state[name], dim, kept, centred=stream.centred)
        share = len(kept) / size
        for scale in {scale for _, scale in stream.norms}:
            state[scale][kept.to(state[scale].device)] *= share**0.5
        for path in {path for path, _ in stream.norms}:
            module = dense.get_submodule(path)
            for name in EPSILONS & vars(module).keys():
                value = getattr(module, name)
                setattr(module, name, value * share if isinstance(value, float) else value)


def _share_out_scales(stream: Stream, state: Mapping[str, Tensor], kept: Tensor) -> None:
    """Make scales of channels (layer scale) equal over `kept`, by moving what they differ by into what they scale.

    What is scaled unequally after it was centred would not be centred any more.
    """
    dims = dict(stream.writers)
    for name, dim, scaled in stream.scales:
        index = kept.to(state[name].device)
        scale = state[name].index_select(dim, index)
        typical = scale.square().mean().sqrt()
        if typical > 0:
            for writer in dims.keys() & set(scaled):
                tensor, own = state[writer], dims[writer]
                factor = (scale.flatten() / typical).view([-1 if d == own else 1 for d in range(tensor.ndim)])
                tensor.index_copy_(own, index, tensor.index_select(own, index) * factor)
            state[name].index_copy_(dim, index, typical.expand_as(scale).contiguous())


def _widths(stream: Stream, channel_map: ChannelMap) -> tuple[int, Tensor | None]:
    tensor_map = channel_map.tensors[stream.norms[0][1]]
    return tensor_map.shape[-1], tensor_map.kept[-1]


def _write_only_kept(tensor: Tensor, dim: int, kept: Tensor, *, centred: bool) -> None:
    """Silence the rows of a writer outside `kept` and, if `centred`, put the kept ones at mean zero."""
    index = kept.to(tensor.device)
    rows = tensor.index_select(dim, index)
    tensor.zero_()
    tensor.index_copy_(dim, index, rows - rows.mean(dim, keepdim=True) if centred else rows)
