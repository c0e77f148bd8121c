"""Networks as people write them: widths under any name, heads counted in any place, layers of torch used in odd ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_al import prune
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
