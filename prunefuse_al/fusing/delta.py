"""The way back that adds: the dense network plus what the proxy learned since its training began."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from .channel_map import ChannelMap, State
from .indexing import read_entries


def delta(
    dense: State, proxy: State, channel_map: ChannelMap, repaired: State | None = None, *, weight: float = 1.0
) -> dict[str, Tensor]:
    """Return a dense state plus what a proxy learned, at the proxy's positions.

    A repaired proxy has other values than the dense network to make up for channels it lacks: put back as they are
    they would spoil what those channels do. What training changed in them is what was learned (the nearest precedent is
    LoRAM, arXiv 2502.13533). An entry that training did not change keeps the dense value bit for bit.

    Args:
        dense: tensors of the dense network by name; not changed.
        proxy: those of the trained proxy.
        channel_map: where its entries sit in the dense network.
        repaired: values that the proxy's training began with, of the tensors where these are not the dense network's
            own (`Proxy.repaired`); of a proxy that was not repaired None, and with a weight of 1 this is "copy".
        weight: how much of what was learned is added; 0 gives the dense network. Whole numbers and flags, such as the
            count of batches of a batch norm, are copied.

    Returns:
        New tensors with the dense shapes; entries outside the map are the dense ones.

    Raises:
        FusionError: a name or shape does not fit the map.
        InputError: `weight` is no finite number.
    """
    weight = checks.number("weight", weight)
    began = {} if repaired is None else repaired
    channel_map.check(proxy, dense)
    channel_map.check_proxy(began)
    out = {name: tensor.detach().clone() for name, tensor in dense.items()}
    for name, tensor in out.items() if weight else ():
        there = read_entries(tensor, channel_map.tensors[name].thinned(tensor.device))
        trained = proxy[name].detach().to(tensor.device)
        if tensor.is_floating_point() and (name in began or weight != 1):
            start = began[name].detach().to(tensor.device) if name in began else there
            changed = _ratio if name.rpartition(".")[2] == "running_var" else _sum
            trained = torch.where(trained == start, there, changed(there, trained, start, weight).to(there))
        channel_map.place(name, trained, tensor)
    return out


def _sum(there: Tensor, trained: Tensor, start: Tensor, weight: float) -> Tensor:
    kind = torch.promote_types(there.dtype, torch.float32)
    return there.to(kind) + weight * (trained.to(kind) - start.to(kind))


def _ratio(there: Tensor, trained: Tensor, start: Tensor, weight: float) -> Tensor:
    """A variance grows by the factor by which the proxy's grew: a difference could leave it below 0."""
    kind, least = torch.promote_types(there.dtype, torch.float32), 1e-30
    return there.to(kind) * (trained.to(kind).clamp(min=least) / start.to(kind).clamp(min=least)) ** weight
