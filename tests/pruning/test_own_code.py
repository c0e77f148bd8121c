"""Networks as people write them: widths under any name, heads counted in any place, layers in odd ways."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_al import fuse, prune
from prunefuse_al.errors import NoEffectWarning
from prunefuse_al.fusing.channel_map import ChannelMap
from tests.pruning.test_breadth import assert_exact
from tests.pruning.test_prune import Wrapped, widths

TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


class GPT(nn.Module):
    """A pre-norm block as in nanoGPT: one projection split by `n_embd`, heads viewed from the width of the stream."""

    def __init__(self, dim: int = 32, n_head: int = 4) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(16, dim), nn.Linear(dim, 5)
        self.attend = CausalAttention(dim, n_head)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.norm, self.last = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.attend(self.norm(x))
        return self.head(self.last(x + self.mlp(x)).mean(1))


class CausalAttention(nn.Module):
    def __init__(self, dim: int, n_head: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.n_embd, self.n_head = dim, n_head

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        parts = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


@pytest.mark.parametrize(("ratio", "width", "heads"), [(0.3, 24, 3), (0.5, 16, 2), (0.7, 8, 1)])
def test_heads_and_stream_are_thinned_together_where_the_code_takes_one_for_the_other(
    ratio: float, width: int, heads: int
) -> None:
    network = GPT()
    proxy = prune(network, TOKENS, ratio)
    assert (proxy.module.attend.n_embd, proxy.module.attend.n_head) == (width, heads)
    assert proxy.module.attend.c_attn.weight.shape == (3 * width, width)
    assert_exact(network, proxy, TOKENS)


def biased_attention(m: Any, x: Tensor) -> Tensor:
    """Attention with a number for each head and distance; the stream is as wide as all heads together."""
    x = m.enter(x)
    b, t, c = x.shape
    q, k, v = m.qkv(x).view(b, t, 3, m.num_heads, -1).permute(2, 0, 3, 1, 4)
    places = torch.arange(t)[:, None] - torch.arange(t) + t - 1
    scores = q @ k.transpose(-1, -2) + m.table.weight[places].permute(2, 0, 1)
    return m.head((x + m.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))).mean(1))


@pytest.mark.parametrize(("ratio", "width"), [(0.3, 36), (0.5, 24), (0.7, 12)])
def test_heads_with_a_table_of_their_own_are_counted_as_heads(ratio: float, width: int) -> None:
    network = Wrapped(
        biased_attention, enter=nn.Linear(16, 48), qkv=nn.Linear(48, 144), table=nn.Embedding(11, 4),
        out=nn.Linear(48, 48), head=nn.Linear(48, 3),
    )  # fmt: skip
    network.num_heads = 4
    proxy = prune(network, TOKENS, ratio)
    assert proxy.module.num_heads == width // 12
    assert widths(proxy) == [width, 3 * width, width // 12, width, 3]
    assert_exact(network, proxy, TOKENS)


def test_heads_under_a_name_that_says_nothing() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.enter(x))
        q, k, v = (part(x).view(len(x), 6, m.h, -1).transpose(1, 2) for part in (m.q, m.k, m.v))
        return m.out((F.scaled_dot_product_attention(q, k, v)).transpose(1, 2).flatten(2)).mean(1)

    network = Wrapped(
        forward, enter=nn.Linear(16, 32), q=nn.Linear(32, 16), k=nn.Linear(32, 16), v=nn.Linear(32, 16),
        out=nn.Linear(16, 3),
    )  # fmt: skip
    network.h, network.shift_size = 4, 4
    proxy = prune(network, TOKENS, 0.5)
    assert (proxy.module.h, proxy.module.shift_size) == (2, 4)
    assert widths(proxy) == [16, 8, 8, 8, 3]
    assert_exact(network, proxy, TOKENS)


def test_a_width_that_only_modules_within_see() -> None:
    """`nn.Transformer` compares its inputs with `d_model`, and leaves all computing to its encoder and decoder."""
    network = Wrapped(
        lambda m, x: m.head(m.body(m.enter(x), m.enter(x[:, :3]))), enter=nn.Linear(16, 32),
        body=nn.Transformer(32, 4, 1, 1, 48, batch_first=True), head=nn.Linear(32, 3),
    )  # fmt: skip
    proxy = prune(network, TOKENS, 0.5)
    assert (proxy.module.body.d_model, proxy.module.body.nhead) == (16, 2)
    assert set(widths(proxy)) == {16, 24, 48, 3}
    assert_exact(network, proxy, TOKENS)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_layer_with_a_projection(bidirectional: bool) -> None:
    network = Wrapped(
        lambda m, x: m.head(m.cell(x)[0][:, -1]),
        cell=nn.LSTM(16, 24, 2, batch_first=True, proj_size=8, bidirectional=bidirectional),
        head=nn.Linear(16 if bidirectional else 8, 3),
    )
    proxy = prune(network, TOKENS, 0.5)
    assert (proxy.module.cell.hidden_size, proxy.module.cell.proj_size) == (12, 4)
    assert_exact(network, proxy, TOKENS)


def test_attention_by_einsum_with_a_dimension_for_heads() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        q, k, v = (torch.einsum("bnd,dhe->bhne", x, weight) for weight in (m.q, m.k, m.v))
        y = torch.einsum("bhnm,bhme->bnhe", torch.einsum("bhne,bhme->bhnm", q, k).softmax(-1), v)
        return m.head((x + torch.einsum("bnhe,hed->bnd", y, m.out)).mean(1))

    network = Wrapped(forward, enter=nn.Linear(16, 32), head=nn.Linear(32, 3))
    for name in ("q", "k", "v"):
        network.register_parameter(name, nn.Parameter(torch.randn(32, 4, 8) / 6))
    network.out = nn.Parameter(torch.randn(4, 8, 32) / 6)
    thin = prune(network, TOKENS, 0.5)
    assert thin.module.q.shape == (16, 2, 8)  # without a scale by its width, which nothing divides, q and k keep theirs
    assert thin.module.v.shape == (16, 2, 4)
    assert thin.module.out.shape == (2, 4, 16)
    assert_exact(network, thin, TOKENS)


def test_gated_units() -> None:
    network = nn.Sequential(
        nn.Linear(16, 48), nn.GLU(), nn.Linear(24, 20), nn.GLU(), nn.Flatten(), nn.Linear(60, 3)
    )  # fmt: skip
    proxy = prune(network, TOKENS, 0.5)
    assert widths(proxy) == [24, 10, 3]
    assert_exact(network, proxy, TOKENS)


def test_a_bilinear_layer_of_two_inputs() -> None:
    network = Wrapped(
        lambda m, x, y: m.head(torch.relu(m.both(torch.relu(m.a(x)), torch.relu(m.b(y))))), a=nn.Linear(8, 12),
        b=nn.Linear(6, 10), both=nn.Bilinear(12, 10, 14), head=nn.Linear(14, 3),
    )  # fmt: skip
    inputs = torch.randn(2, 8), torch.randn(2, 6)
    proxy = prune(network, inputs, 0.5)
    thin = proxy.module.both
    assert (thin.in1_features, thin.in2_features, thin.out_features) == (6, 5, 7)
    assert thin.weight.shape == (7, 6, 5)
    assert_exact(network, proxy, inputs)


def test_a_bilinear_layer_that_reads_an_input() -> None:
    network = Wrapped(
        lambda m, x, y: m.head(m.both(torch.relu(m.a(x)), y)), a=nn.Linear(8, 12), both=nn.Bilinear(12, 6, 14),
        head=nn.Linear(14, 3),
    )  # fmt: skip
    inputs = torch.randn(2, 8), torch.randn(2, 6)
    proxy = prune(network, inputs, 0.5)
    assert proxy.module.both.weight.shape == (7, 6, 6)
    assert proxy.report().kept_whole["both.weight, dimension 2"] == "reads an input of fixed size"
    assert_exact(network, proxy, inputs)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_words(mode: str) -> None:
    network = nn.Sequential(nn.EmbeddingBag(30, 16, mode=mode), nn.ReLU(), nn.Linear(16, 3))
    words = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    proxy = prune(network, words, 0.5)
    assert (proxy.module[0].num_embeddings, proxy.module[0].embedding_dim) == (30, 8)
    assert_exact(network, proxy, words)


IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_largest_channel_may_be_one_of_fewer() -> None:
    """Attention to places as in CBAM: the mean and the largest of all channels."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.a(x))
        places = m.places(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1))
        return m.head((x * places.sigmoid()).mean((2, 3)))

    network = Wrapped(forward, a=nn.Conv2d(3, 16, 3), places=nn.Conv2d(2, 1, 7, padding=3), head=nn.Linear(16, 3))
    proxy = prune(network, IMAGES, 0.5)
    assert proxy.module.a.out_channels == 8
    assert_exact(network, proxy, IMAGES)


def test_the_number_of_the_largest_channel_keeps_them() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        _, number = torch.relu(m.a(x)).mean((2, 3)).max(1)
        return m.head(torch.relu(m.b(x)).mean((2, 3))) + number[:, None]

    network = Wrapped(forward, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(3, 16, 3), head=nn.Linear(16, 3))
    with pytest.warns(NoEffectWarning, match="a.weight, dimension 0: is counted along by max"):
        assert widths(prune(network, IMAGES, 0.5)) == [16, 8, 3]


def test_a_weight_used_both_ways_round() -> None:
    """An autoencoder whose decoder is its encoder, transposed."""
    network = Wrapped(
        lambda m, x: m.head(torch.relu(F.linear(torch.relu(m.code(torch.relu(m.enter(x)))), m.code.weight.T))),
        enter=nn.Linear(16, 24), code=nn.Linear(24, 12), head=nn.Linear(24, 3),
    )  # fmt: skip
    proxy = prune(network, TOKENS, 0.5)
    assert proxy.module.code.weight.shape == (6, 12)
    assert_exact(network, proxy, TOKENS)


def test_a_convolution_used_both_ways_round() -> None:
    network = Wrapped(
        lambda m, x: m.head(F.conv_transpose2d(torch.relu(m.code(x)), m.code.weight).mean((2, 3))),
        code=nn.Conv2d(3, 12, 3), head=nn.Linear(3, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert proxy.module.code.weight.shape == (6, 3, 3, 3)
    assert [(w.dense, w.proxy) for w in proxy.report().widths] == [(12, 6), (3, 3)]
    assert_exact(network, proxy, IMAGES)


def test_branches_weighed_by_a_softmax_over_them() -> None:
    """As in selective kernels: a channel of every branch leaves together."""

    def forward(m: Any, x: Tensor) -> Tensor:
        branches = torch.stack([m.a(x), m.b(x)], 1)
        shares = m.grow(torch.relu(m.squeeze(branches.sum(1).mean((2, 3))))).view(len(x), 2, -1).softmax(1)
        return m.head((branches * shares[..., None, None]).sum(1).mean((2, 3)))

    network = Wrapped(
        forward, a=nn.Conv2d(3, 16, 3, padding=1), b=nn.Conv2d(3, 16, 5, padding=2), squeeze=nn.Linear(16, 8),
        grow=nn.Linear(8, 32), head=nn.Linear(16, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [8, 8, 4, 16, 3]
    assert_exact(network, proxy, IMAGES)


def test_attention_between_channels_thins_whole_heads() -> None:
    """As in XCiT: scores are as wide as a head, and their softmax means something else with fewer."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        b, t, c = x.shape
        q, k, v = m.qkv(x).reshape(b, t, 3, m.num_heads, c // m.num_heads).permute(2, 0, 3, 4, 1)
        scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * m.temperature).softmax(-1)
        return m.head((x + m.out((scores @ v).permute(0, 3, 1, 2).reshape(b, t, c))).mean(1))

    network = Wrapped(
        forward, enter=nn.Linear(16, 32), qkv=nn.Linear(32, 96), out=nn.Linear(32, 32), head=nn.Linear(32, 3)
    )
    network.num_heads, network.temperature = 4, nn.Parameter(torch.ones(4, 1, 1))
    proxy = prune(network, TOKENS, 0.5)
    assert (proxy.module.num_heads, proxy.module.temperature.shape) == (2, (2, 1, 1))
    assert widths(proxy) == [2, 16, 48, 16, 3]
    assert_exact(network, proxy, TOKENS)


def test_group_norm_of_what_was_shuffled_into_pixels() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 48, 3), nn.PixelShuffle(2), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.Flatten(),
        nn.Linear(8 * 18 * 18, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert (proxy.module[0].out_channels, proxy.module[2].num_channels, proxy.module[2].num_groups) == (24, 6, 3)
    assert_exact(network, proxy, IMAGES)


def test_grouped_queries_with_rotated_positions() -> None:
    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_heads, self.n_kv_heads, self.n_rep, self.head_dim = 8, 4, 2, 4
            self.enter, self.q, self.out = nn.Linear(16, 24), nn.Linear(24, 32), nn.Linear(32, 24)
            self.k, self.v, self.head = nn.Linear(24, 16), nn.Linear(24, 16), nn.Linear(24, 3)
            angles = torch.outer(torch.arange(6), torch.tensor([1.0, 0.1]))
            self.register_buffer("angles", angles)

        def rotated(self, x: Tensor) -> Tensor:
            cos, sin = (f(self.angles)[None, :, None] for f in (torch.cos, torch.sin))
            even, odd = x[..., ::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            b, t, _ = x.shape
            q = self.rotated(self.q(x).view(b, t, self.n_heads, self.head_dim))
            k = self.rotated(self.k(x).view(b, t, self.n_kv_heads, self.head_dim))
            v = self.v(x).view(b, t, self.n_kv_heads, self.head_dim)
            k, v = (part.repeat_interleave(self.n_rep, 2) for part in (k, v))
            y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), is_causal=True)
            return self.head((x + self.out(y.transpose(1, 2).reshape(b, t, -1))).mean(1))

    network = Llama()
    proxy = prune(network, TOKENS, 0.5)
    thin = proxy.module
    assert (thin.n_heads, thin.n_kv_heads, thin.n_rep, thin.head_dim) == (4, 2, 2, 4)
    assert_exact(network, proxy, TOKENS)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("start", [1e-5, 1.0])
def test_scales_of_what_is_added_to_a_stream(start: float, ratio: float) -> None:
    """Layer scale, as in CaiT, BEiT and DINOv2: exact at widths that are no multiples of the proxy's, too."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.head, self.last = nn.Linear(16, 24), nn.Linear(24, 3), nn.LayerNorm(24)
            self.attend = nn.MultiheadAttention(24, 4, batch_first=True)
            self.norm = nn.LayerNorm(24)
            self.mlp = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24), nn.Dropout(0.1))
            self.gamma1, self.gamma2 = nn.Parameter(start * torch.ones(24)), nn.Parameter(start * torch.ones(24))

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            y = self.norm(x)
            x = x + self.gamma1 * self.attend(y, y, y)[0]
            return self.head(self.last(x + self.mlp(x) * self.gamma2).mean(1))

    network = Scaled()
    proxy = prune(network, TOKENS, ratio)
    assert len(proxy.module.gamma1) == round(24 * (1 - ratio) / 6 - 1e-9) * 6
    if ratio == 0.3:
        tensors, rest = proxy.channel_map.to_tensors()
        assert ChannelMap.from_tensors(tensors, json.loads(json.dumps(rest))) == proxy.channel_map
        (stream,) = proxy.channel_map.streams
        assert [name for name, *_ in stream.scales] == ["gamma1", "gamma2"]
    assert_exact(network, proxy, TOKENS)


def test_within_inference_mode_networks_are_made_that_train() -> None:
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.inference_mode():
        x = torch.randn(2, 16)
        proxy = prune(network, x, 0.5)
        target = fuse(network, proxy)
    assert proxy.channel_map == prune(network, torch.randn(2, 16), 0.5).channel_map
    for module in (proxy.module, target):
        module(torch.randn(4, 16)).sum().backward()


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("used", [True, False])
def test_weights_that_hooks_make_before_every_pass(norm: Any, used: bool) -> None:
    network = nn.Sequential(norm(nn.Linear(16, 32)), nn.ReLU(), norm(nn.Linear(32, 24)), nn.ReLU(), nn.Linear(24, 3))
    x = torch.randn(8, 16)
    if used:
        network(x)  # the weights it leaves behind have a history
    proxy = prune(network.eval(), x, 0.5)
    assert [proxy.module[0].out_features, proxy.module[2].out_features] == [16, 12]
    assert_exact(network, proxy, x)
    proxy.module.train()(x).sum().backward()
    assert all(p.grad is not None for p in proxy.module.parameters())


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_texts_packed_by_their_lengths(cell: Any) -> None:
    def forward(m: Any, words: Tensor, lengths: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(m.embed(words), lengths.cpu(), batch_first=True, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(m.cell(rows)[0], batch_first=True)
        return m.head(padded.sum(1) / lengths[:, None])

    network = Wrapped(
        forward, embed=nn.Embedding(30, 16), cell=cell(16, 12, batch_first=True, bidirectional=True),
        head=nn.Linear(24, 3),
    )  # fmt: skip
    words = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    inputs = words, torch.tensor([4, 7])
    proxy = prune(network, inputs, 0.5)
    assert (proxy.module.embed.embedding_dim, proxy.module.cell.hidden_size) == (8, 6)
    assert_exact(network, proxy, inputs)


def test_a_part_of_a_tensor_of_zeros_that_is_written_to() -> None:
    """All channels of some rows are thinned; some channels of all rows are not understood."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        z = torch.zeros_like(y)
        if m.kind == "rows":
            z[:, :, 2:] = y[:, :, 2:]
        else:
            z[:, : y.shape[1] // 2] = y[:, : y.shape[1] // 2]
        return m.head(torch.relu(m.b(z)).mean((2, 3)))

    for kind, width in (("rows", 8), ("channels", 16)):
        network = Wrapped(forward, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 12, 3), head=nn.Linear(12, 3))
        network.kind = kind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            proxy = prune(network, IMAGES, 0.5)
        assert widths(proxy) == [width, 6, 3]
        assert_exact(network, proxy, IMAGES)
