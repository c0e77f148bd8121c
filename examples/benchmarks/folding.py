"""Folding: channels that leave are merged into those that stay, by k-means (arXiv 2502.10216), instead of left out.

`repairing.py --fold` holds it against leaving them out. It is not in the library: see docs/pretrained.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from prunefuse_al import Proxy
from prunefuse_al.fusing import TensorMap

Group = tuple[int, tuple[int, ...]]  # how many channels, and which stay: dimensions of one group have the same


def folded(model: nn.Module, proxy: Proxy) -> Proxy:
    """Return the proxy with the mean of each cluster of channels in place of the one that stays of it.

    The channels that stay are the first centroids. What writes channels gets means, what reads them sums.
    """
    dense, maps = model.state_dict(), proxy.channel_map.tensors
    clusters = {group: _clusters(group, list(_rows(group, dense, maps))) for group in _groups(maps)}
    state = dict(proxy.module.state_dict())
    for name, value in dense.items():
        if value.is_floating_point():
            state[name] = _merged(value, maps[name], clusters)
    merged = copy.deepcopy(proxy)
    merged.module.load_state_dict(state)
    return merged


def _groups(maps: Mapping[str, TensorMap]) -> set[Group]:
    return {(each.shape[dim], tuple(kept.tolist())) for each in maps.values() for dim, kept in _thinned(each)}


def _thinned(each: TensorMap) -> list[tuple[int, Tensor]]:
    return each.thinned(torch.device("cpu"))


def _rows(group: Group, dense: Mapping[str, Tensor], maps: Mapping[str, TensorMap]) -> Iterator[Tensor]:
    """Yield the weights that write each channel of a group, [n ...], each tensor at norm 1."""
    for name, each in maps.items():
        for dim, kept in _thinned(each):
            if dim not in each.inputs and (each.shape[dim], tuple(kept.tolist())) == group and len(each.shape) > 1:
                rows = dense[name].double().movedim(dim, 0).flatten(1)
                yield rows / rows.norm().clamp_min(1e-12)


def _clusters(group: Group, rows: list[Tensor]) -> Tensor:
    """Return which channels [k n] each one that stays stands for: 1 where it does."""
    n, kept = group
    found = np.full(n, -1)
    if rows:
        x = torch.cat(rows, 1).numpy()
        found = KMeans(len(kept), init=x[list(kept)], n_init=1).fit(x).labels_
    of = torch.from_numpy(found).long()
    for number, channel in enumerate(kept):
        if number not in found:  # an empty cluster, or nothing to go by: the channel stands for itself
            of[channel] = number
    return (of == torch.arange(len(kept))[:, None]).double()


def _merged(value: Tensor, each: TensorMap, clusters: Mapping[Group, Tensor]) -> Tensor:
    out = value.double()
    for dim, kept in _thinned(each):
        members = clusters[each.shape[dim], tuple(kept.tolist())]
        weights = members if dim in each.inputs else members / members.sum(1, keepdim=True)
        out = torch.tensordot(weights, out.movedim(dim, 0), dims=1).movedim(0, dim)
    return out.to(value.dtype)
