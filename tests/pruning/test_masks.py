"""Masks of padding, spread over heads in every way that people write: thinned through, exactly, at any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from examples.zoo import SPREADS, MaskedAttention, PaddedAttention, PaddedEncoder, mean_of, padded
from prunefuse_al import fuse, prune
from prunefuse_al.pruning.build import rebuild
from tests.laws.random_networks import randomise

MASKS: dict[str, Callable[[Tensor, int], Tensor]] = {
    **SPREADS,
    "expand to every query": lambda m, h: m[:, None, None].expand(-1, h, m.shape[1], -1).reshape(-1, *m.shape[1:] * 2),
    "broadcast_to": lambda m, h: m[:, None].broadcast_to(len(m), h, m.shape[1]).reshape(-1, 1, m.shape[1]),
    "repeat of queries too": lambda m, h: m[:, None, None].repeat(1, h, m.shape[1], 1).flatten(0, 1),
    "repeat along tokens": lambda m, h: m.repeat(1, h).view(-1, 1, m.shape[1]),
    "tile": lambda m, h: m.tile((1, h)).view(-1, 1, m.shape[1]),
    "repeat_interleave": lambda m, h: m.repeat_interleave(h, 0)[:, None],
    "repeat_interleave by a tensor": lambda m, h: m.repeat_interleave(torch.tensor(h), 0)[:, None],
    "look-up": lambda m, h: m[torch.arange(len(m)).repeat_interleave(h)][:, None],
    "stack": lambda m, h: torch.stack([m] * h, 1).flatten(0, 1)[:, None],
    "cat": lambda m, h: torch.cat([m[:, None]] * h, 1).flatten(0, 1)[:, None],
    "fill": lambda m, h: torch.zeros(len(m), h, 1, m.shape[1]).masked_fill(m[:, None, None], 1).flatten(0, 1) > 0,
    "fill in place": lambda m, h: torch.zeros(len(m) * h, 1, m.shape[1], dtype=torch.bool).masked_fill_(
        m.repeat_interleave(h, 0)[:, None], True
    ),
    "with a causal one": lambda m, h: (
        m.repeat_interleave(h, 0)[:, None] | torch.ones(m.shape[1], m.shape[1], dtype=torch.bool).triu(1)
    ),
    "with another": lambda m, h: m.repeat_interleave(h, 0)[:, None] | m[:, None].repeat(1, h, 1).flatten(0, 1)[:, None],
    "joined": lambda m, h: torch.cat([n.repeat_interleave(h, 0)[:, None] for n in m.split(3, 1)], 2),
}


class ScoresByHead(PaddedAttention):
    """`nn.MultiheadAttention` with a mask for each head, [n*heads t t]."""

    def __init__(self, spread: Callable[[Tensor, int], Tensor], weights: bool) -> None:
        super().__init__(weights=weights)
        self.spread = spread

    def forward(self, ids: Tensor) -> Tensor:
        x, apart = self.embedding(ids), ids.eq(0)[:, None].repeat(1, ids.shape[1], 1)
        mask = self.spread(apart, self.attention.num_heads)
        return self.head(mean_of(self.attention(x, x, x, attn_mask=mask, need_weights=self.weights)[0], ids.ne(0)))


class BothSides(nn.Module):
    """`nn.Transformer` with masks of padding on the side that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 32), nn.Linear(32, 4)
        self.transformer = nn.Transformer(32, 4, 1, 1, 64, 0.0, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x, padding = self.embedding(ids), ids.eq(0)
        out = self.transformer(x, x[:, :1], src_key_padding_mask=padding, memory_key_padding_mask=padding)
        return self.head(out[:, 0])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda spread=spread: MaskedAttention(spread) for name, spread in MASKS.items()},
    "encoder": PaddedEncoder,
    "encoder, norms first": lambda: PaddedEncoder(norm_first=True),
    "encoder, causal": lambda: PaddedEncoder(causal=torch.bool),
    "encoder, causal of floats": lambda: PaddedEncoder(causal=torch.float32),
    "encoder, causal, norms first": lambda: PaddedEncoder(causal=torch.bool, norm_first=True),
    "attention": PaddedAttention,
    "attention without weights": lambda: PaddedAttention(weights=False),
    "attention, tokens first": lambda: PaddedAttention(batch_first=False),
    "masks by head": lambda: ScoresByHead(lambda m, h: m.repeat_interleave(h, 0), True),
    "masks by head, expanded": lambda: ScoresByHead(lambda m, h: m[:, None].expand(-1, h, -1, -1).flatten(0, 1), False),
    "encoder and decoder": BothSides,
}


def batches() -> list[Tensor]:
    """Other numbers of rows and tokens than the example's, with padding in each batch."""
    sizes = ((2, 7), (5, 7), (3, 12), (1, 4))
    drawn = [torch.randint(1, 50, size, generator=torch.Generator().manual_seed(size[0])) for size in sizes]
    for ids in drawn:
        ids[0, -2:] = 0
    return drawn


def answers(network: nn.Module, ids: Tensor) -> list[Tensor]:
    """Return what a network answers in eval mode, where torch takes its fast path and where not, and in train mode."""
    with torch.no_grad():
        quick = network.eval()(ids)
    found = [quick, network(ids).detach(), network.train()(ids).detach()]
    network.eval()
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_masks_of_padding_are_thinned_through(name: str) -> None:
    network = NETWORKS[name]()
    proxy = prune(network, padded(7), 0.5)
    report = proxy.report()
    assert report.mac_share < 0.35
    fixed = [name for name, reason in report.kept_whole.items() if "fixed size in" in reason]
    assert all(name.startswith("future") for name in fixed)  # the causal mask itself
    assert report.preserve_exact
    buffers = {name: value.clone() for name, value in proxy.module.named_buffers()}
    randomise(proxy.module)
    proxy.module.load_state_dict(buffers, strict=False)  # torch's fast path takes a mask of floats for one of bools
    target = fuse(network, proxy)
    for ids in batches():
        thin = answers(proxy.module, ids)
        scale = thin[0].abs().max()
        for other in (*thin, *answers(target, ids)):
            assert (other - thin[0]).abs().max() < 1e-4 * scale
    ids = batches()[1]
    before = proxy.module(ids)
    with torch.no_grad():
        proxy.module.embedding.weight[0] += 9  # what is masked has no influence
    assert torch.allclose(proxy.module(ids), before, atol=1e-6)


@pytest.mark.parametrize(("heads", "ratio", "left"), [(2, 0.5, 1), (4, 0.75, 1), (6, 0.5, 3)])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_odd_number_of_heads_takes_no_nested_tensors(heads: int, ratio: float, left: int) -> None:
    """Where torch's own constructor turns them off too: an encoder with an odd number of heads cannot take them."""
    network = PaddedEncoder(48, heads)
    assert network.encoder.use_nested_tensor
    proxy = prune(network, padded(7), ratio)
    assert [layer.self_attn.num_heads for layer in proxy.module.encoder.layers] == [left, left]
    assert not rebuild(network, proxy.channel_map).encoder.use_nested_tensor
    target = fuse(network, proxy)
    for ids in batches():
        thin = answers(proxy.module, ids)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(thin, answers(target, ids), strict=True))


def test_heads_of_different_rows_are_not_mistaken_for_copies() -> None:
    """A mask that differs between heads fixes how many there are; all of them are thinned inside."""

    class Apart(MaskedAttention):
        def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
            self.spread = lambda padding, heads: mask[:, :heads].flatten(0, 1)[:, None]
            return super().forward(ids)

    network = Apart(lambda padding, heads: padding)
    mask = torch.rand(2, 4, 7) > 0.7
    proxy = prune(network, (padded(7), mask), 0.5)
    assert proxy.module.heads == 4
    assert proxy.report().preserve_exact
    assert 2 * proxy.module.query.out_features == network.query.out_features
