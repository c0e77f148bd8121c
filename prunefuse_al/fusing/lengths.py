"""Weights that are stored as directions and lengths (weight normalisation), in a network that is being fused.

A length that is one for several channels together, as that of a kernel position is, is a norm over all of them, also
over those that the proxy has not got. The length makes up for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from .channel_map import ChannelMap
from .indexing import read_entries, write_entries


@dataclass(frozen=True)
class Lengths:
    """Lengths that follow what else is changed of their directions.

    Attributes:
        name: of the lengths.
        direction: name of the directions.
        dim: the dimension of these that each have a length of their own; -1 where all have one.
        kept: the proxy's positions along `dim`, none where all are.
        own: norms of the proxy's directions.
    """

    name: str
    direction: str
    dim: int
    kept: list[tuple[int, Tensor]]
    own: Tensor

    def restored(self, state: Mapping[str, Tensor], lengths: Tensor) -> None:
        """Change lengths, in place, so that the proxy's weights are again what they were."""
        now = read_entries(torch.norm_except_dim(state[self.direction], 2, self.dim), self.kept)
        write_entries(lengths, self.kept, read_entries(lengths, self.kept) * (now / self.own))


def shared_lengths(dense: nn.Module, state: Mapping[str, Tensor], channel_map: ChannelMap) -> list[Lengths]:
    """Return the lengths that channels share of which the proxy has a part.

    Args:
        dense: a network that has the proxy's values.
        state: its tensors.
        channel_map: the map of the proxy.
    """
    found = []
    for name, direction, dim in _normalised(dense):
        if name not in state or direction not in state:  # tied, and known by another name
            continue
        v, tensor_map = state[direction], channel_map.tensors[direction]
        thinned = tensor_map.thinned(v.device)
        if any(d not in (dim, *tensor_map.inputs) for d, _ in thinned):  # what the others read was switched off
            own = torch.norm_except_dim(read_entries(v, thinned), 2, dim)
            found.append(Lengths(name, direction, dim, [(d, index) for d, index in thinned if d == dim], own))
    return found


def _normalised(dense: nn.Module) -> Iterator[tuple[str, str, int]]:
    """Yield the names of lengths and directions, and the dimension, of every weight that is stored so."""
    for path, module in dense.named_modules():
        prefix = f"{path}." if path else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                yield f"{prefix}{hook.name}_g", f"{prefix}{hook.name}_v", hook.dim
        for name, parts in module.parametrizations.items() if is_parametrized(module) else ():
            if isinstance(parts[0], _WeightNorm):
                stored = f"{prefix}parametrizations.{name}.original"
                yield f"{stored}0", f"{stored}1", parts[0].dim
