"""Copies: what the extra channels of a fused network write, so that statistics over channels see no difference.

A mean, a variance or a norm over n channels does not change when every channel is there c times over. So where the
number of channels is a multiple of the proxy's, the extra ones start as copies of kept ones, each kept one equally
often. What reads them starts at zero, as all cross weights do; from there they learn apart. Weights that are
standardised over what they read start as copies there too, and what scales them makes up for reading each so often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .groups import Group, Structure


@dataclass(frozen=True, eq=False)
class Twins:
    """What to copy where; see `ChannelMap`.

    Attributes:
        copies: "tensor:dimension" -> int64 [2, m]: positions along that dimension, and the kept positions they copy.
        gains: "tensor:dimension" of weights that are standardised over it -> names of what scales what they give.
    """

    copies: Mapping[str, Tensor] = field(default_factory=dict)
    gains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def twins(structure: Structure, kept: np.ndarray) -> Twins:
    """Return what to copy where, for every group of channels that a statistic is taken over.

    Args:
        structure: groups of channels and the statistics seen.
        kept: bool [components], which channels stay.

    Returns:
        Nothing if there is no such group, or if one of them has a width that is no multiple of the proxy's.
    """
    atoms, components = structure.trace.atoms, structure.components
    touched = _touched(structure)
    standardised = _standardised(structure)
    found: dict[str, list[np.ndarray]] = {}
    gains: dict[str, tuple[str, ...]] = {}
    for group in structure.groups:
        stays = kept[group.channels]
        if stays.all() or touched.isdisjoint(group.channels.tolist()):
            continue
        if len(stays) % stays.sum():
            return Twins()
        pairs = _pairs(group, stays)
        for axis, _ in group.axes:
            number, key = atoms.axes.index(axis), f"{axis.name}:{axis.dim}"
            if number in standardised:
                gains[key] = standardised[number]
            if number in standardised or number not in atoms.contracted:
                own = components[axis.start : axis.start + axis.size]
                found.setdefault(key, []).append(_positions(own, pairs))
    return Twins({key: torch.from_numpy(np.concatenate(parts, axis=1)) for key, parts in found.items()}, gains)


def measured_together(structure: Structure) -> list[int]:
    """Return the numbers of the groups that a statistic is taken over, and which copies keep exact at even widths."""
    touched = _touched(structure)
    return [n for n, group in enumerate(structure.groups) if not touched.isdisjoint(group.channels.tolist())]


def _touched(structure: Structure) -> set[int]:
    """Return the components that a statistic is taken over."""
    return {
        int(component)
        for statistic in structure.trace.statistics
        if statistic.noted.operand is None
        for plane in statistic.noted.planes
        for component in np.unique(structure.components[plane.clamp(min=0).numpy()])
    }


def _standardised(structure: Structure) -> dict[int, tuple[str, ...]]:
    """Return axis number -> what scales what they give, of weights that are standardised over what they read.

    That is their gain; of weights without one what scales and shifts what they read.
    """
    atoms, found = structure.trace.atoms, {}
    for statistic in structure.trace.statistics:
        for plane in statistic.noted.planes if statistic.noted.gain is not None else ():
            for number in atoms.owners(plane) & atoms.contracted:
                gain = statistic.noted.gain
                found[number] = (gain,) if gain else tuple(sorted(atoms.fed.get(number, ())))
    return {number: names for number, names in found.items() if names}


def _pairs(group: Group, stays: np.ndarray) -> np.ndarray:
    """Return int64 [2, r]: each removed channel and the kept one that it copies, in turn."""
    removed, staying = group.channels[~stays], group.channels[stays]
    return np.stack([removed, staying[np.arange(len(removed)) % len(staying)]])


def _positions(own: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return int64 [2, m]: the positions of each pair along one axis; a channel's first position goes to the first."""
    order = np.argsort(own, kind="stable")
    starts = np.searchsorted(own[order], pairs)
    count = int((own == pairs[0, 0]).sum())
    positions: np.ndarray = order[starts[:, :, None] + np.arange(count)].reshape(2, -1).astype(np.int64)
    return positions
