"""Importance from activations against what layers really miss: solved anew for every set of channels that is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunefuse_al import errors, prune, repair
from prunefuse_al.network import looks_trained
from prunefuse_al.pruning import Activation, activation, elimination
from tests.laws.random_networks import randomise

N = 6
X = torch.randn(96, 5, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(1))


class Stream(nn.Module):
    """A stream that two layers write and two read, and an inner layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(5, N), nn.Linear(N, N), nn.Linear(N, N)
        self.head = nn.Linear(N, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.outer(torch.tanh(self.inner(x))))

    def reads(self, x: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Return for the stream and the inner layer what is read of them, [n d], and by which weight, [o d]."""
        stem = self.stem(x)
        inner = torch.tanh(self.inner(stem))
        stream = [(stem, self.inner.weight), (stem + self.outer(inner), self.head.weight)]
        return {"stem": stream, "inner": [(inner, self.outer.weight)]}


class Flattened(nn.Module):
    """A convolution whose channels are read at every pixel by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, N, 1), nn.Linear(N * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.stem(x)).flatten(1))

    def reads(self, x: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
        return {"stem": [(torch.relu(self.stem(x)).flatten(1), self.head.weight)]}


def missed(h: Tensor, weight: Tensor, left: list[int]) -> float:
    """Return the share of a layer's variance that is missed by the best weights on these of its inputs."""
    h, weight = h.double(), weight.detach().double()
    h = h - h.mean(0)
    covariance = h.T @ h / len(h)
    energy = float((weight @ covariance * weight).sum())
    damped = covariance + activation.RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    mix = torch.linalg.solve(damped[left][:, left], damped[left])  # of all inputs, what is known from those left
    off = weight - torch.zeros_like(weight).index_copy(1, torch.tensor(left, dtype=torch.long), weight @ mix.T)
    return float((off @ damped * off).sum()) / energy


def order_of(reads: list[tuple[Tensor, Tensor]]) -> list[int]:
    """Return the channels in the order in which they leave, `elimination.STEPS` times as many each time."""
    left, gone = list(range(N)), []
    width = reads[0][0].shape[1] // N

    def miss(channels: list[int]) -> float:
        places = [width * c + i for c in channels for i in range(width)]
        return sum(missed(h, weight, places) for h, weight in reads)

    for step in range(1, elimination.STEPS + 1):
        stay = N - N * step // elimination.STEPS
        if stay == len(left):
            continue
        base = miss(left)
        ranked = sorted(left, key=lambda c: miss([o for o in left if o != c]) - base)
        gone += ranked[: len(left) - stay]
        left = [c for c in left if c not in gone]
    return gone


def leaving(network: nn.Module, x: Any, layer: str) -> list[int]:
    """Return the channels of a layer in the order in which `prune` lets them leave."""
    order: list[int] = []
    for width in range(N - 1, 0, -1):
        proxy = prune(network, x, (N - width) / N, importance=Activation(x), round_to=1)
        kept = proxy.channel_map.tensors[f"{layer}.weight"].kept[0]
        assert kept is not None
        order += sorted(set(range(N)) - set(kept.tolist()) - set(order))
    return order


@pytest.fixture(params=[0, 1, 2])
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def built(make: Callable[[], nn.Module], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        for p in network.parameters():  # channels that differ, and say in part the same
            p.data = torch.randn_like(p)
    return network.eval()


@pytest.mark.parametrize("make", [Stream, Flattened])
def test_those_leave_first_without_which_least_is_missed(make: Any, seed: int) -> None:
    network, x = built(make, seed), X if make is Stream else PICTURES
    with torch.no_grad():
        reads = network.reads(x)
    for layer, of_layer in reads.items():
        assert leaving(network, x, layer) == order_of(of_layer)[: N - 1]


def test_of_two_channels_that_say_the_same_one_stays() -> None:
    network = built(lambda: nn.Sequential(nn.Linear(5, N), nn.Linear(N, 3)), 0)
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias):
            tensor[1:3] = tensor[0]
    kept = prune(network, X, 0.5, importance=Activation(X)).channel_map.tensors["0.weight"].kept[0]
    assert len({0, 1, 2} & set(kept.tolist())) == 1
    repaired = repair(network, prune(network, X, 1 / 3, importance=Activation(X)), X)
    assert torch.allclose(repaired.module(X), network(X), atol=1e-4)


def test_a_head_counts_as_what_is_read_of_it() -> None:
    """Heads leave whole, by all that the projection reads of them."""
    attention = fakes_attention()
    tokens = torch.randn(16, 5, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        attention.out.weight[:, 2:4] = 0  # nobody reads the second head
    kept = prune(attention, tokens, 0.25, importance=Activation(tokens)).channel_map.tensors["value.weight"].kept[0]
    assert kept.tolist() == [0, 1, 4, 5, 6, 7]


def fakes_attention() -> Any:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (p(x).unflatten(-1, (-1, 2)).transpose(1, 2) for p in (self.query, self.key, self.value))
            mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.out(mixed.transpose(1, 2).flatten(2)).mean(1)

    return built(Attention, 3)


def test_the_network_and_the_random_states_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    maps = [prune(network, PICTURES, 0.5, importance=Activation(PICTURES)).channel_map for _ in range(2)]
    assert maps[0] == maps[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_rows_by_batches_are_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(Stream, 4)
    whole = Activation(X).measure(network)
    monkeypatch.setattr(activation, "BATCH", 7)
    parts = Activation(X).measure(network)
    assert [layer.name for layer in whole.layers] == [layer.name for layer in parts.layers]
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert torch.allclose(one.inverse, other.inverse, rtol=1e-6)
        assert one.inverse.dtype == torch.float64


def test_dicts_and_datasets_are_read_and_labels_ignored() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = built(Stream, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, row: int) -> Any:
            return X[row], row % 3

    maps = [
        prune(Named(), {"x": X}, 0.5, importance=Activation(given)).channel_map
        for given in ({"x": X}, Rows(), X.numpy())
    ]
    assert maps[0] == maps[1] == maps[2]


def test_wide_layers_are_measured_channel_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(Stream, 6)
    monkeypatch.setattr(activation, "MEMORY", 0)
    with pytest.warns(errors.FallbackWarning, match="covariances of 4 of 4 layers"):
        proxy = prune(network, X, 0.5, importance=Activation(X))
    with torch.no_grad():
        h, weight = network.reads(X)["inner"][0]
    alone = h.var(0) * weight.square().sum(0)
    kept = proxy.channel_map.tensors["inner.weight"].kept[0]
    assert set(kept.tolist()) == set(alone.argsort(descending=True)[: N // 2].tolist())


def test_channels_that_nobody_sums_over_are_measured_by_l2() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.grouped(torch.relu(self.stem(x))).mean((2, 3)))

    network = Grouped()
    randomise(network)
    with pytest.warns(errors.FallbackWarning, match="no linear layer or convolution"):
        proxy = prune(network, PICTURES, 0.5, importance=Activation(PICTURES))
    assert proxy.module(PICTURES).shape == (40, 3)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [  # a layer's own weights, and those before it
        (lambda network, x: x[3, 0].fill_(float("nan")), r"NaN or infinity in row.* 3"),
        (lambda network, x: network.stem.bias.data.fill_(float("inf")), "'inner.weight'.*repair them"),
        (lambda network, x: network.head.weight.data[0, 0].fill_(float("nan")), "'head.weight'.*repair them"),
    ],
)
def test_what_is_not_finite_is_refused_by_name(spoil: Any, match: str) -> None:
    network, x = built(Stream, 7), X.clone()
    spoil(network, x)
    with pytest.raises(errors.NonFiniteError, match=match):
        prune(network, X, 0.5, importance=Activation(x))


def test_inputs_that_are_none() -> None:
    with pytest.raises(errors.InputError, match="0 rows"):
        Activation(X[:0])
    with pytest.raises(errors.InputError, match=r"needs a batch of unlabelled data: pass importance=Activation\("):
        prune(built(Stream, 0), X, 0.5, importance="activation")
    with pytest.raises(errors.InputError, match="the network failed on a batch"):
        prune(built(Stream, 0), X, 0.5, importance=Activation(X[:, :4]))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_an_untrained_network_is_measured_as_well(kind: Any) -> None:
    network = fakes.mlp(5, 16, 3)
    assert not looks_trained(network)
    assert prune(network, X, 0.5, importance=Activation(X.numpy().astype(kind))).module[0].out_features == 8
