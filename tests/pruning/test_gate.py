"""The gate must be able to refuse: each wrong proxy here passes every bit-for-bit check and still is no sub-network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import seeded
from torch import Tensor, nn

from prunefuse_al.errors import PruningError
from prunefuse_al.fusing.channel_map import ChannelMap, TensorMap
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning.build import rebuild
from prunefuse_al.pruning.gate import Candidate, inspect
from prunefuse_al.pruning.groups import structure
from prunefuse_al.pruning.proxy import prune
from prunefuse_al.pruning.subject import subject
from prunefuse_al.pruning.trace.tracing import trace


class TwoLayers(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 16), nn.Linear(16, 3), nn.LayerNorm(16) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


def judge(network: nn.Module, channel_map: ChannelMap, ratio_kept: Any = None) -> str:
    examined = subject(network, ((torch.randn(3, 6),), {}))
    found = structure(trace(network, *examined.arguments), {})
    kept = np.ones(int(found.components.max()) + 1, dtype=bool) if ratio_kept is None else ratio_kept
    return inspect(Candidate(rebuild(network, channel_map), channel_map, found, kept), examined).reason


def with_indices(channel_map: ChannelMap, name: str, dim: int, indices: list[int]) -> ChannelMap:
    old = channel_map.tensors[name]
    kept = tuple(torch.tensor(indices) if d == dim else k for d, k in enumerate(old.kept))
    return replace(channel_map, tensors={**channel_map.tensors, name: TensorMap(old.shape, kept, old.inputs)})


def test_the_right_map_passes() -> None:
    network = TwoLayers()
    assert judge(network, prune(network, torch.zeros(2, 6), 0.5).channel_map) == ""


def test_misaligned_channels_are_refused() -> None:
    network = TwoLayers()
    good = prune(network, torch.zeros(2, 6), 0.5).channel_map
    other = [i for i in range(16) if i not in good.tensors["a.weight"].kept[0].tolist()]
    wrong = with_indices(good, "b.weight", 1, other)
    state = {n: t.detach() for n, t in named_tensors(network).items()}
    back = wrong.scatter(wrong.extract(state), state)
    assert all(torch.equal(back[n], state[n]) for n in state)  # bit for bit, and yet:
    assert "not a sub-network" in judge(network, wrong)


def test_a_bias_out_of_order_is_refused() -> None:
    network = TwoLayers()
    good = prune(network, torch.zeros(2, 6), 0.5).channel_map
    order = good.tensors["a.bias"].kept[0].tolist()
    assert "not a sub-network" in judge(network, with_indices(good, "a.bias", 0, order[1:] + order[:1]))


def test_a_proxy_that_does_not_run_is_refused_with_torchs_words() -> None:
    network = TwoLayers()
    good = prune(network, torch.zeros(2, 6), 0.5).channel_map
    assert "does not run: RuntimeError: " in judge(network, with_indices(good, "b.weight", 1, [0, 1, 2]))


def test_outputs_of_another_shape_are_refused() -> None:
    network = TwoLayers()
    thin = with_indices(
        with_indices(prune(network, torch.zeros(2, 6), 0).channel_map, "b.weight", 0, [0, 1]), "b.bias", 0, [0, 1]
    )
    assert "gives [(2, 2)] where the network gives [(2, 3)]" in judge(network, thin)


def test_a_proxy_that_cannot_train_is_refused() -> None:
    class TrainsOnlyAtFullWidth(TwoLayers):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.a(x))
            return self.b(hidden.view(-1, 16) if self.training else hidden)

    network = TrainsOnlyAtFullWidth()
    thin = prune(TwoLayers(), torch.zeros(2, 6), 0.5).channel_map
    assert "does not run in train mode" in judge(network, thin)
    # What only runs in train mode is watched too, so the width is kept instead of breaking training.
    with pytest.raises(PruningError, match="cannot be thinned: the proxy does not run in train mode"):
        prune(network, torch.zeros(2, 6), 0.5)


def test_normalisation_over_channels_does_not_hide_a_misalignment() -> None:
    network = TwoLayers(norm=True)
    good = prune(network, torch.zeros(2, 6), 0.5)
    assert good.report().preserve_exact
    other = [i for i in range(16) if i not in good.channel_map.tensors["a.weight"].kept[0].tolist()]
    assert "not a sub-network" in judge(network, with_indices(good.channel_map, "b.weight", 1, other))


class Whispered(nn.Module):
    """What stands behind a statistic over hidden channels is scaled down to nearly nothing, as layers begin."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.read, self.straight = nn.Linear(8, 15), nn.Linear(15, 4), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.full((1, 4), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        written = self.written(x)
        return self.straight(x) + self.scale * self.read(written / written.std(-1, keepdim=True))


def test_a_small_scale_does_not_hide_what_a_training_would_show() -> None:
    network, x = seeded(Whispered), torch.ones(2, 8)
    proxy = prune(network, x, 0.5)
    assert proxy.module.written.out_features == 7
    assert not proxy.report().preserve_exact
