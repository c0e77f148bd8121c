"""Numbers that a network keeps: a width changes under any name, in any list, and what only looks like one does not."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunefuse_al import fuse, prune
from prunefuse_al.fusing.channel_map import ChannelMap
from prunefuse_al.pruning.build import rebuild
from prunefuse_al.training.progressive import thin_in_place
from tests.laws.random_networks import randomise
from tests.pruning.test_breadth import assert_exact

X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
Widths = namedtuple("Widths", "stream heads")


def words(length: int) -> Tensor:
    return torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(length))


class Words(nn.Module):
    """The longest text it takes has as many words as it has channels."""

    def __init__(self, block_size: int = 64, width: int = 64) -> None:
        super().__init__()
        self.block_size = block_size
        self.embedding, self.places = nn.Embedding(50, width), nn.Embedding(block_size, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids[:, -self.block_size :]
        x = self.embedding(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.mixed(self.norm(x)).mean(1))

    def mixed(self, x: Tensor) -> Tensor:
        return x


class AttendingWords(Words):
    """As nanoGPT: heads are counted in an attribute, texts that are too long are refused."""

    def __init__(self) -> None:
        super().__init__(32, 32)
        self.n_head, self.n_embd = 4, 32
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, ids: Tensor) -> Tensor:
        assert ids.shape[1] <= self.block_size
        return super().forward(ids)

    def mixed(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        parts = self.qkv(x).split(self.n_embd, 2)
        q, k, v = (part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(b, t, c))


@pytest.mark.parametrize("length", [16, 64, 80])
def test_a_length_that_equals_a_width_stays(length: int) -> None:
    network = Words()
    proxy = prune(network, words(length), 0.5)
    assert (proxy.module.block_size, proxy.module.embedding.embedding_dim) == (64, 32)
    assert_exact(network, proxy, words(50))


@pytest.mark.parametrize("length", [16, 32])
def test_a_length_stays_beside_widths_that_change(length: int) -> None:
    network = AttendingWords()
    proxy = prune(network, words(length), 0.5)
    assert (proxy.module.block_size, proxy.module.n_embd, proxy.module.n_head) == (32, 16, 2)
    assert_exact(network, proxy, words(27))


def test_numbers_of_layers_stay() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16 if i == 0 else 8, 8) for i in range(9))
            self.feature_layers, self.head = [2, 8], nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            taken: Any = 0
            for number, layer in enumerate(self.layers):
                x = torch.relu(layer(x))
                taken = taken + x if number in self.feature_layers else taken
            return self.head(taken.mean(1))

    network = Levels()
    proxy = prune(network, X, 0.5)
    assert proxy.module.feature_layers == [2, 8]
    assert_exact(network, proxy, X)


class Attention(nn.Module):
    """Its widths stand in a private name, and in sequences of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(16, 32), nn.Linear(32, 3)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self._n_heads, self._dim_note = 4, 32
        self.dims, self.shape, self.widths = [32], torch.Size([32]), Widths(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = self.enter(x)
        q, k, v = (part(x).view(b, t, self._n_heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = ((q @ k.transpose(-1, -2) / 3).softmax(-1) @ v).transpose(1, 2)
        y = torch.relu(self.out(y.reshape([b, t] + self.dims)))  # noqa: RUF005 (a tuple fails here)
        return self.head((y.view(b, t, *self.shape) + x.view(b, t, self.widths.stream)).mean(1))


def sequences(module: Any) -> Sequence[Any]:
    return [module.dims, module.shape, module.widths]


def test_widths_under_private_names_and_in_lists_follow() -> None:
    network = Attention()
    proxy = prune(network, X, 0.5)
    assert (proxy.module._n_heads, proxy.module.out.in_features) == (2, 16)
    assert proxy.module._dim_note == 32  # nothing fails or differs without it
    assert sequences(proxy.module) == [[16], torch.Size([16]), Widths(16, 2)]
    assert_exact(network, proxy, X)


@pytest.mark.parametrize("older", [False, True])
def test_lists_stay_lists_in_what_is_saved_and_thinned_in_place(older: bool) -> None:
    network = Attention()
    proxy = prune(network, X, 0.5)
    tensors, rest = proxy.channel_map.to_tensors()
    if older:  # files of before do not say which are lists
        del rest["lists"]
    restored = ChannelMap.from_tensors(tensors, json.loads(json.dumps(rest)))
    assert older or restored == proxy.channel_map
    built: Any = rebuild(network, restored)
    thinned: Any = Attention()
    thin_in_place(thinned, torch.optim.SGD(thinned.parameters(), 0.1), restored, restored.attributes)
    for module in (built, thinned):
        assert [type(s) for s in sequences(module)] == [list, torch.Size, Widths]
        assert sequences(module) == sequences(proxy.module)
        assert module(X).shape == (2, 3)


def test_what_a_width_multiplies_changes_only_with_it() -> None:
    """Read in one mode only: the proxy has to run and to answer alike in both."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.head, self.hidden_size = nn.Linear(16, 32), nn.Linear(32, 3), 32

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.enter(x.mean(1)))
            return self.head(x.view(-1, self.hidden_size) if self.training else x)

    network = Scaled()
    proxy = prune(network, X, 0.5)
    assert proxy.module.hidden_size == 16
    proxy.module.train()(X).sum().backward()
    randomise(proxy.module)
    assert torch.allclose(fuse(network, proxy).eval()(X), proxy.module.eval()(X), atol=1e-5)


def by_function(module: Any, x: Tensor) -> Tensor:
    return x.view(-1, module.hidden)


class Reads(nn.Module):
    """Reads its width somewhere."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.enter, self.leave, self.hidden, self.read = nn.Linear(16, 32), nn.Linear(32, 3), 32, read

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x[:, 0]).relu()
        if self.read == "by a free function":
            x = by_function(self, x)
        elif self.read == "by text":
            x = x.view(-1, getattr(self, "hid" + "den"))
        elif self.training and self.read == "in train mode":
            x = self.shaped(x)
        return self.leave(x)

    def shaped(self, x: Tensor) -> Tensor:
        return x.view(-1, self.hidden)


@pytest.mark.parametrize("read", ["nowhere", "by a free function", "by text", "in train mode"])
def test_a_width_changes_where_code_reads_it(read: str) -> None:
    network = Reads(read)
    proxy = prune(network, X, 0.5)
    assert proxy.module.enter.out_features == 16
    assert proxy.module.hidden == (32 if read == "nowhere" else 16)
    assert_exact(network, proxy, X)
