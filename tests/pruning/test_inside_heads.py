"""Where attention heads cannot leave as a whole, all of them are thinned inside; what is summed over is silenced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunefuse_al import ChannelMap, Proxy, errors, fuse, prune
from tests.laws.random_networks import randomise
from tests.pruning.test_exact_forms import assert_claimed_and_true
from tests.pruning.test_prune import Wrapped

WORDS = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))


class Fused(nn.Module):
    """Attention whose queries, keys and values are one tensor, thirds of equal size."""

    def __init__(self, width: int, heads: int, scale: str) -> None:
        super().__init__()
        self.heads, self.kind = heads, scale
        self.scale = (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scale = self.scale if self.kind == "kept" else q.shape[-1] ** -0.5
            scale *= 1e-3 if self.kind == "flat" else 1
            mixed = (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


def classifier(width: int, *attention: nn.Module) -> nn.Module:
    """A stream that is normalised before it is written to, so that only copies are exact, in blocks."""
    blocks = [Block(width, each) for each in attention]
    return Wrapped(
        lambda m, x: m.head(m.norm(m.blocks(m.enter(x))).mean(1)),
        enter=nn.Sequential(nn.Linear(12, width), nn.LayerNorm(width)),
        blocks=nn.Sequential(*blocks),
        norm=nn.LayerNorm(width),
        head=nn.Linear(width, 4),
    )


@pytest.mark.parametrize("scale", ["kept", "from the shape", "fused"])
@pytest.mark.parametrize("heads", [1, 5])
def test_heads_as_wide_as_a_stream_are_thinned_inside(heads: int, scale: str) -> None:
    proxy = assert_claimed_and_true(classifier(40, Fused(40, heads, scale)), WORDS, thinner=0.4)
    assert proxy.module.blocks[0].attention.qkv.weight.shape == (60, 20)
    assert proxy.module.blocks[0].attention.heads == heads
    factors = {silence.factor for silence in proxy.channel_map.silences}
    assert factors == ({1.0} if scale == "kept" else {2**0.5})
    again = ChannelMap.from_tensors(*proxy.channel_map.to_tensors())
    assert again == proxy.channel_map
    assert again.silences


def test_a_temperature_is_made_up_for_where_attention_is_so_flat_that_it_hardly_shows() -> None:
    """In single precision, a target without the factor would pass."""
    proxy = assert_claimed_and_true(classifier(40, Fused(40, 5, "flat")), WORDS, thinner=0.4)
    assert {silence.factor for silence in proxy.channel_map.silences} == {2**0.5}


def test_what_was_silenced_learns() -> None:
    network = classifier(40, Fused(40, 1, "kept"))
    target = fuse(network, prune(network.eval(), WORDS, 0.5))
    before = target.blocks[0].attention.qkv.weight.clone()
    optimizer = torch.optim.SGD(target.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        target(WORDS).square().sum().backward()
        optimizer.step()
    queries = (target.blocks[0].attention.qkv.weight - before)[:40]
    assert (before[:40] == 0).all(1).sum() == 20
    assert (queries.abs().sum(1) > 0).all()


def test_thinned_inside_twice() -> None:
    network = classifier(40, Fused(40, 5, "from the shape")).eval()
    first = prune(network, WORDS, 0.5)
    second = prune(first.module, WORDS, 0.5)
    both = first.channel_map.compose(second.channel_map)
    randomise(second.module)
    target = fuse(network, Proxy(second.module, both)).double()
    expected = second.module.double()(WORDS.double())
    assert (target(WORDS.double()) - expected).abs().max() < 1e-6 * expected.abs().max()


def test_a_head_is_read_by_itself() -> None:
    """As the gates of WavLM: one layer reads every part of the stream that is as wide as a head."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        b, t, c = x.shape
        parts = x.view(b, t, 4, -1).transpose(1, 2)
        gate = torch.sigmoid(m.gate(parts)).sum(-1, keepdim=True)
        q, k, v = (layer(m.norm(x)).view(b, t, 4, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 * gate).softmax(-1) @ v
        return m.head(m.last(x + m.out(mixed.transpose(1, 2).reshape(b, t, c))).mean(1))

    parts: dict[str, nn.Module] = {name: nn.Linear(32, 32) for name in ("q", "k", "v", "out")}
    parts |= {"gate": nn.Linear(8, 6), "norm": nn.LayerNorm(32), "last": nn.LayerNorm(32)}
    parts |= {"enter": nn.Linear(12, 32), "head": nn.Linear(32, 4)}
    proxy = assert_claimed_and_true(Wrapped(forward, **parts), WORDS, thinner=0.4)
    assert proxy.module.gate.weight.shape == (6, 4)


class TwoWidths(nn.Module):
    """Queries are as wide as values, and stay, because of what they meet; both widths are numbers of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.key_width, self.value_width = 16, 16
        self.qkv, self.out = nn.Linear(24, 48), nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split([self.key_width, self.key_width, self.value_width], -1)
        scores = torch.fft.rfft(q).real @ torch.fft.rfft(k).real.transpose(-1, -2)
        return self.out(scores.softmax(-1) @ v)


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
def test_of_two_equal_widths_one_stays() -> None:
    network = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), TwoWidths(), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 24, 4))
    proxy = assert_claimed_and_true(network, WORDS, thinner=0.8)
    assert (proxy.module[2].key_width, proxy.module[2].value_width) == (16, 8)


NORMALISED: dict[str, Callable[[Tensor], Tensor]] = {
    "by torch": lambda x: F.normalize(x, dim=-1),
    "by hand": lambda x: x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-6),
    "by a norm": lambda x: x / torch.linalg.norm(x, dim=-1, keepdim=True),
    "by absolute values": lambda x: x / x.abs().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("name", NORMALISED)
def test_features_of_length_one(name: str, ratio: float) -> None:
    network = Wrapped(
        lambda m, x: m.head(NORMALISED[name](torch.relu(m.features(m.enter(x).relu()).mean(1)))),
        enter=nn.Linear(12, 24),
        features=nn.Linear(24, 20),
        head=nn.Linear(20, 4),
    )
    proxy = assert_claimed_and_true(network, WORDS, ratio, thinner=0.8)
    assert {silence.name for silence in proxy.channel_map.silences} == {"features.weight", "features.bias"}


def test_additive_attention_over_lengths_of_one() -> None:
    """As of SwiftFormer: queries and keys have length one, and queries are added to what is made of both."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        q, k = F.normalize(m.q(x), dim=-1), F.normalize(m.k(x), dim=-1)
        whole = ((q @ m.weights * 0.25).softmax(1) * q).sum(1, keepdim=True)
        return m.head((m.last(m.mixed(whole.repeat(1, k.shape[1], 1) * k) + q)).mean(1))

    parts: dict[str, Any] = {name: nn.Linear(16, 16) for name in ("q", "k", "mixed", "last")}
    network = Wrapped(forward, enter=nn.Linear(12, 16), head=nn.Linear(16, 4), **parts)
    network.weights = nn.Parameter(torch.randn(16, 1))
    assert_claimed_and_true(network, WORDS, thinner=0.5)


@pytest.mark.parametrize(
    "silence",
    [
        ["nothing", 0, [[0, 2]], 1.0], ["features.weight", 2, [[0, 2]], 1.0], ["features.weight", 0, [], 1.0],
        ["features.weight", 0, [[2, 1]], 1.0], ["features.weight", 0, [[0, 21]], 1.0],
        ["features.weight", 0, [[0, 2]], 0.0], ["features.weight", 0, [[0, 2]], float("nan")],
        ["features.weight", 0, [[0]], 1.0],
    ],
)  # fmt: skip
def test_a_silence_of_nothing_is_refused(silence: list[Any]) -> None:
    network = Wrapped(
        lambda m, x: m.head(F.normalize(m.features(x).mean(1), dim=-1)),
        features=nn.Linear(12, 20),
        head=nn.Linear(20, 4),
    )
    indices, rest = prune(network.eval(), WORDS, 0.5).channel_map.to_tensors()
    with pytest.raises(errors.FusionError, match="no channel map"):
        ChannelMap.from_tensors(indices, {**rest, "silences": [silence]})


def test_learnt_queries_that_layers_read() -> None:
    """As latents of Perceiver: parameters that are normalised and asked like tokens, and added to what they get."""

    def forward(m: Any, x: Tensor) -> Tensor:
        tokens, latents = m.enter(x), m.latents.expand(len(x), -1, -1)
        q, k, v = m.q(m.first(latents)), m.k(m.tokens(tokens)), m.v(m.tokens(tokens))
        latents = latents + m.out(((q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(-1) @ v)
        return m.head((latents + m.mlp(m.second(latents))).mean(1))

    parts: dict[str, nn.Module] = {name: nn.Linear(16, 16) for name in ("q", "k", "v", "out", "mlp")}
    parts |= {name: nn.LayerNorm(16) for name in ("first", "second", "tokens")}
    network = Wrapped(forward, enter=nn.Linear(12, 16), head=nn.Linear(16, 4), **parts)
    network.latents = nn.Parameter(torch.randn(5, 16))
    proxy = assert_claimed_and_true(network, WORDS, thinner=0.4)
    assert proxy.module.q.weight.shape == (8, 8)
