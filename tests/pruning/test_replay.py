"""The replay meets what was watched, in the same order: anything else is said, and no other record is read for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefuse_al import prune
from prunefuse_al.errors import PruningError
from prunefuse_al.pruning.groups import structure
from prunefuse_al.pruning.trace import KeptStatistics, over_kept, trace
from prunefuse_al.pruning.trace.operations import OPERATIONS, Op
from tests.pruning.test_breadth import assert_exact
from tests.pruning.test_prune import Wrapped

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def half_kept(network: nn.Module) -> KeptStatistics:
    """Watch a network and return the replay in which every second channel stays."""
    found = structure(trace(network, (X,), {}), {})
    kept = np.arange(int(found.components.max()) + 1) % 2 == 0
    kept[found.components[0]] = True
    return KeptStatistics(found.trace, lambda marks: kept[found.components[marks]])


class Between(nn.Module):
    """Two layers and a function of what the first one gives, which may be changed once the network was watched."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(torch.relu(self.a(x))))


def centred(h: Tensor) -> Tensor:
    return h - h.mean(1, keepdim=True)


CHANGED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "another operation": (lambda h: h - h.amax(1, keepdim=True), "amax was met where mean in the network itself was"),
    "another shape": (
        lambda h: centred(torch.cat([h, h], 1))[:, :8],
        r"mean of \[4, 16\] was met where mean .*\[1, 8\]",
    ),
    "another number of dimensions": (lambda h: centred(h[None])[0], r"mean of \[1, 4, 8\] was met where"),
    "one more in between": (lambda h: centred(centred(h)), "mean was met where addmm in b was watched, number 3 of 3"),
    "one less": (lambda h: h, "addmm was met where mean"),
}


@pytest.mark.parametrize(("changed", "words"), CHANGED.values(), ids=CHANGED)
def test_what_was_not_watched_is_refused(changed: Callable[[Tensor], Tensor], words: str) -> None:
    network = Between(centred)
    replay = half_kept(network)
    network.between = changed
    with torch.no_grad(), pytest.raises(PruningError, match=f"out of step with what was watched: {words}"), replay:
        network(X)


def test_more_than_was_watched_does_not_begin_again_with_the_first() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    replay = half_kept(network)
    with torch.no_grad(), replay:
        network(X)
        with pytest.raises(PruningError, match=r"addmm was met where the end was watched, number 3 of 2"):
            network(X)


def test_nothing_watched_and_something_met() -> None:
    network = Between(centred)
    replay = half_kept(nn.Identity())
    with torch.no_grad(), pytest.raises(PruningError, match="where the end was watched, number 1 of 0"), replay:
        network(X)


def test_every_replay_starts_with_the_first() -> None:
    network = Between(centred)
    replay, found = half_kept(network), []
    broken = Between(lambda h: h.amax(1, keepdim=True))
    for _ in range(2):
        with torch.no_grad(), replay:
            found.append(network(X))
        with torch.no_grad(), pytest.raises(PruningError), replay:
            broken(X)
    assert torch.equal(*found)


def in_place(m: Any, x: Tensor) -> Tensor:
    h = torch.relu(m.a(x))
    return m.b(m.norm(h.clone().addmm_(h, m.weight)))


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_a_product_that_is_added_in_place_is_met_as_it_was_watched(ratio: float) -> None:
    """At widths that are no multiples of the proxy's, where nothing but the replay shows a proxy to be right."""
    network = Wrapped(in_place, a=nn.Linear(6, 16), norm=nn.LayerNorm(16), b=nn.Linear(16, 3))
    network.weight = nn.Parameter(torch.randn(16, 16) / 4)
    proxy = prune(network, X, ratio)
    assert proxy.module.a.out_features == int(16 * (1 - ratio))
    assert_exact(network, prune(network, X, 0.5), X)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_a_statistic_of_a_vector(ratio: float) -> None:
    network = Wrapped(
        lambda m, x: m.b(torch.relu(m.a(x)) * m.scale / m.scale.norm()), a=nn.Linear(6, 16), b=nn.Linear(16, 3)
    )
    network.scale = nn.Parameter(torch.rand(16) + 0.5)
    assert prune(network, X, ratio).module.scale.shape == (int(16 * (1 - ratio)),)


def test_a_network_that_goes_row_by_row_is_told_so() -> None:
    """It is watched with two rows and checked with three, as BatchNorm asks for."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.stack([row - row.amax() for row in m.norm(m.a(x))])
        return m.b(centred(h))

    network = Wrapped(forward, a=nn.Linear(6, 16), norm=nn.BatchNorm1d(16), b=nn.Linear(16, 3))
    with pytest.raises(
        PruningError, match=r"out of step .* amax was met where mean .*To have it thinned, let which op"
    ):
        prune(network, X, 0.3)


LAST = {over_kept.layer_norm: 5, over_kept.group_norm: 8, over_kept.batch_norm: None}


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op.over_kept in LAST], ids=lambda op: op.names[0])
def test_what_normalises_has_its_arguments_where_they_are_looked_for(op: Op) -> None:
    """Under every name, also those that only other devices pick."""
    for name in op.names:
        packet = getattr(torch.ops.aten, name)
        forms = [getattr(packet, each)._schema for each in packet.overloads()]
        for arguments in ([a.name for a in form.arguments if not a.is_out] for form in forms):
            assert arguments[0] == "input"
            assert arguments[-1] in ("eps", "epsilon")
            assert len(arguments) == (LAST[op.over_kept] or len(arguments))
            assert {"weight", "bias"} <= {*arguments[1:4]}


def test_no_operation_is_in_the_table_twice() -> None:
    names = [name for op in OPERATIONS for name in op.names]
    assert len(names) == len(set(names))
