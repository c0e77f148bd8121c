"""Copies: what the extra channels of a fused network write, so that statistics over channels see no difference.

A mean, a variance or a norm over n channels does not change when every channel is there c times over. So where the
number of channels is a multiple of the proxy's, the extra ones start as copies of kept ones, each kept one equally
often. What reads them starts at zero, as all cross weights do; from there they learn apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .groups import Group, Structure


def copies(structure: Structure, kept: np.ndarray) -> Mapping[str, Tensor]:
    """Return what to copy where, for every group of channels that a statistic is taken over.

    Args:
        structure: groups of channels and the statistics seen.
        kept: bool [components], which channels stay.

    Returns:
        "tensor:dimension" -> int64 [2, m]: positions along that dimension, and the kept positions they copy. Empty if
        there is no such group, or if one of them has a width that is no multiple of the proxy's.
    """
    atoms, components = structure.trace.atoms, structure.components
    touched = {
        int(component)
        for statistic in structure.trace.statistics
        if statistic.noted.operand is None
        for plane in statistic.noted.planes
        for component in np.unique(components[plane.clamp(min=0).numpy()])
    }
    found: dict[str, list[np.ndarray]] = {}
    for group in structure.groups:
        stays = kept[group.channels]
        if stays.all() or touched.isdisjoint(group.channels.tolist()):
            continue
        if len(stays) % stays.sum():
            return {}
        pairs = _pairs(group, stays)
        for axis, _ in group.axes:
            if atoms.axes.index(axis) not in atoms.contracted:
                own = components[axis.start : axis.start + axis.size]
                found.setdefault(f"{axis.name}:{axis.dim}", []).append(_positions(own, pairs))
    return {key: torch.from_numpy(np.concatenate(parts, axis=1)) for key, parts in found.items()}


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
