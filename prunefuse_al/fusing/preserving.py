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

Sums over computed values, as the products of queries with keys or the squares of a norm, read extra channels by no
weight that could be switched off: what writes those starts at zero (`Silence`).

Weights that are stored as directions and lengths keep their values where a length is shared by channels (`lengths.py`).

What the user froze is never written. Where that stands in the way of weights alone (a frozen layer goes on reading
channels that the proxy has not got), the proxy's function is out of reach, and switching the other weights off would
only lose what they know: they keep their values, as in ``cross="copy"``. Where it stands in the way of statistics, the
rest is adjusted: the kept channels are the proxy's, up to scale and offset of a normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..network import afresh, copied, frozen_tensors, named_tensors
from .channel_map import ChannelMap, Silence, Stream
from .lengths import shared_lengths

EPSILONS = {"eps", "epsilon", "variance_epsilon", "layer_norm_epsilon"}


@dataclass(frozen=True)
class Held:
    """Frozen tensors that fusing would have changed, which it left as they are.

    Attributes:
        names: of these tensors.
        copied: they put the proxy's function out of reach, so all else was fused as by ``cross="copy"``.
    """

    names: frozenset[str] = frozenset()
    copied: bool = False


def fused_copy(
    model: nn.Module, proxy: nn.Module, channel_map: ChannelMap, *, cross: float, preserve: bool
) -> tuple[nn.Module, Held]:
    """Return a copy of `model` with the proxy's values at the positions they came from, and what of it was frozen.

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
        held = put_back(out, proxy, channel_map, cross=cross, preserve=preserve, frozen=frozen_tensors(model))
    return afresh(out, channel_map.computed), held


def in_the_way(model: nn.Module, proxy: nn.Module, channel_map: ChannelMap, frozen: Set[str]) -> frozenset[str]:
    """Return those of `frozen` because of which the kept channels of a target cannot compute what the proxy's do.

    They carry signal from other channels, or (statistics of a frozen batch norm) differ from the proxy's.
    """
    writer = _Writer({name: t for name, t in _each_once(model).items() if name in frozen}, frozen)
    with torch.inference_mode(False), torch.no_grad():
        _place(writer, named_tensors(proxy), channel_map, cross=0.0)
    return frozenset(writer.held)


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


def put_back(
    dense: nn.Module,
    proxy: nn.Module,
    channel_map: ChannelMap,
    *,
    cross: float,
    preserve: bool,
    frozen: Set[str] = frozenset(),
) -> Held:
    """Write the proxy's values into `dense`, in place, one tensor at a time, but for `frozen`; see `fused_copy`."""
    obstacles = in_the_way(dense, proxy, channel_map, frozen) if preserve else frozenset()
    if obstacles:
        cross, preserve = 1.0, False
    writer = _Writer(_each_once(dense), frozen)
    with torch.no_grad():
        for name, tensor in writer.state.items():
            tensor.grad = None
            if 0 in tensor.stride() and name not in frozen:  # expanded: cannot be written to
                tensor.data = tensor.contiguous()
        _place(writer, named_tensors(proxy), channel_map, cross=cross)
        if preserve:
            _adjust(dense, writer, channel_map)
    return Held(obstacles | writer.held, bool(obstacles))


class _Writer:
    """Changes tensors of a network in place, all but the frozen ones, and notes which of those would have changed."""

    def __init__(self, state: Mapping[str, Tensor], frozen: Set[str]) -> None:
        self.state, self.frozen = state, frozen
        self.held: set[str] = set()

    def change(self, name: str, how: Callable[[Tensor], object]) -> None:
        tensor = self.state[name]
        if name not in self.frozen:
            how(tensor)
            return
        wanted = tensor.detach().clone()
        how(wanted)
        if not torch.equal(wanted, tensor):
            self.held.add(name)


def _place(writer: _Writer, values: Mapping[str, Tensor], channel_map: ChannelMap, *, cross: float) -> None:
    for name in writer.state:
        writer.change(name, partial(channel_map.place, name, values[name], cross=cross))


def copy_channels(dense: nn.Module, channel_map: ChannelMap) -> None:
    """Let the extra channels of a network that `silence` was asked of start as copies, in place."""
    done = tuple(replace(silenced, factor=1.0) for silenced in channel_map.silences)
    with torch.no_grad():
        _adjust(dense, _Writer(_each_once(dense), frozenset()), replace(channel_map, streams=(), silences=done))


def silence(dense: nn.Module, channel_map: ChannelMap) -> None:
    """Silence what a map says of a network that has the proxy's values, in place; `put_back` may have done so."""
    with torch.no_grad():
        _silence(_Writer(_each_once(dense), frozenset()), channel_map)


def _adjust(dense: nn.Module, writer: _Writer, channel_map: ChannelMap) -> None:
    """Change what normalisations over channels see of a network that has the proxy's values, in place."""
    lengths = shared_lengths(dense, writer.state, channel_map)
    _start_as_copies(writer, channel_map)
    _silence(writer, channel_map)
    _reparametrise(dense, writer, channel_map)
    for shared in lengths:
        writer.change(shared.name, partial(shared.restored, writer.state))


def _start_as_copies(writer: _Writer, channel_map: ChannelMap) -> None:
    for key, pairs in channel_map.copies.items():
        name, _, dim = key.rpartition(":")
        if name in writer.state:
            writer.change(name, partial(_copy_along, dim=int(dim), pairs=pairs))
    for gain, share in _less(channel_map).items():
        if gain in writer.state:
            writer.change(gain, partial(Tensor.mul_, other=share))


def _less(channel_map: ChannelMap) -> dict[str, float]:
    """Return how much less what scales standardised weights, or what these read, is: once, if several read it."""
    found = {}
    for key, names in channel_map.gains.items():
        name, _, dim = key.rpartition(":")
        tensor_map = channel_map.tensors[name]
        found.update(dict.fromkeys(names, tensor_map.proxy_shape[int(dim)] / tensor_map.shape[int(dim)]))
    return found


def _copy_along(tensor: Tensor, dim: int, pairs: Tensor) -> None:
    target, source = pairs.to(tensor.device)
    tensor.index_copy_(dim, target, tensor.index_select(dim, source))


def _silence(writer: _Writer, channel_map: ChannelMap) -> None:
    for silenced in channel_map.silences:
        kept = channel_map.tensors[silenced.name].kept[silenced.dim]
        if silenced.name in writer.state and kept is not None:
            writer.change(silenced.name, partial(_silence_along, silenced=silenced, kept=kept))


def _silence_along(tensor: Tensor, silenced: Silence, kept: Tensor) -> None:
    positions = silenced.positions()
    stays = torch.isin(positions, kept)
    tensor.index_fill_(silenced.dim, positions[~stays].to(tensor.device), 0)
    if silenced.factor != 1:
        own = positions[stays].to(tensor.device)
        tensor.index_copy_(silenced.dim, own, tensor.index_select(silenced.dim, own) * silenced.factor)


def _each_once(dense: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network by the first of their names."""
    first = {id(tensor): (name, tensor) for name, tensor in reversed(named_tensors(dense).items())}
    return dict(first.values())


def _reparametrise(dense: nn.Module, writer: _Writer, channel_map: ChannelMap) -> None:
    """Adjust writers, scales and epsilons of every stream, so that normalisations see what they see in the proxy.

    Writers are silenced for the sake of scales that make up for it: where one of those is frozen, both are left.
    """
    for stream in channel_map.streams:
        size, kept = _widths(stream, channel_map)
        if kept is None:
            continue
        scales = {scale for _, scale in stream.norms}
        if scales & writer.frozen:
            writer.held |= scales & writer.frozen
            continue
        if stream.centred:
            _share_out_scales(stream, writer, kept)
        for name, dim in stream.writers:
            writer.change(name, partial(_write_only_kept, dim=dim, kept=kept, centred=stream.centred))
        _fold(dense, stream, writer, kept, len(kept) / size)


def _fold(dense: nn.Module, stream: Stream, writer: _Writer, kept: Tensor, share: float) -> None:
    """Make up in scales and epsilons of the normalisations for a variance that is `share` of what it was."""
    for scale in {scale for _, scale in stream.norms}:
        writer.state[scale][kept.to(writer.state[scale].device)] *= share**0.5
    for path in {path for path, _ in stream.norms}:
        module = dense.get_submodule(path)
        for name in EPSILONS & vars(module).keys():
            value = getattr(module, name)
            setattr(module, name, value * share if isinstance(value, float) else value)


def _share_out_scales(stream: Stream, writer: _Writer, kept: Tensor) -> None:
    """Make scales of channels (layer scale) equal over `kept`, by moving what they differ by into what they scale.

    What is scaled unequally after it was centred would not be centred any more. Both change or, frozen, neither.
    """
    state, dims = writer.state, dict(stream.writers)
    for name, dim, scaled in stream.scales:
        index = kept.to(state[name].device)
        scale = state[name].index_select(dim, index)
        typical = scale.square().mean().sqrt()
        moved = dims.keys() & set(scaled)
        if stays := {name, *moved} & writer.frozen:
            writer.held |= stays
        elif typical > 0:
            for into in moved:
                tensor, own = state[into], dims[into]
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
