"""Heads of several kinds that make up one width together, such as heads that look through windows of their own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefuse_al import prune
from prunefuse_al.pruning.groups import Group, Owned
from prunefuse_al.pruning.trace import Axis
from prunefuse_al.pruning.widths import choose_widths
from tests.pruning.test_exact_forms import assert_claimed_and_true


class Windows(nn.Module):
    """What heads see around each place; some heads look through larger windows than others."""

    def __init__(self, width: int, windows: dict[int, int]) -> None:
        super().__init__()
        self.splits = [heads * width for heads in windows.values()]
        self.convs = nn.ModuleList(
            nn.Conv2d(n, n, size, padding=size // 2, groups=n) for size, n in zip(windows, self.splits, strict=True)
        )

    def forward(self, q: Tensor, v: Tensor, side: int) -> Tensor:
        n, heads, places, width = v.shape
        planes = v.transpose(2, 3).reshape(n, heads * width, side, side)
        parts = torch.split(planes, self.splits, dim=1)
        seen = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], dim=1)
        return q * seen.reshape(n, heads, width, places).transpose(2, 3)


class Windowed(nn.Module):
    """Attention over a residual stream as wide as all its heads, beside windows of two and of three heads."""

    def __init__(self, dim: int = 40, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.norm, self.last = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.windows = Windows(dim // heads, {3: 2, 5: 3, 7: 3})
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        side = x.shape[-1]
        x = x.flatten(2).transpose(1, 2)
        n, places, dim = x.shape
        shape = (n, places, 3, self.heads, dim // self.heads)
        q, k, v = self.qkv(self.norm(x)).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = q @ (k.softmax(dim=2).transpose(-1, -2) @ v) + self.windows(q, v, side)
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, places, dim))
        return self.head(self.last(x).mean(1))


def test_heads_with_windows_of_their_own_leave_so_that_the_stream_stays_as_wide_as_all_of_them() -> None:
    torch.manual_seed(0)
    pictures = torch.randn(3, 3, 16, 16)
    proxy = assert_claimed_and_true(Windowed(), pictures, thinner=0.4)
    assert proxy.module.heads == 4
    assert proxy.module.windows.splits == [10, 5, 5]
    assert proxy.module.qkv.weight.shape == (60, 20)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_so_they_do_where_all_channels_compete(ratio: float) -> None:
    proxy = prune(Windowed(), torch.randn(3, 3, 16, 16), ratio, scope="global")
    heads = sum(proxy.module.windows.splits) // 5
    assert proxy.report().preserve_exact
    assert 1 <= proxy.module.heads == heads < 8
    assert proxy.module.patches.out_channels == 5 * heads


def parts(*heads: int, width: int = 4) -> list[Group]:
    """Return groups of heads that fill one tensor, and one that fills another as wide, channel by channel."""
    whole = Axis("qkv", 0, 1, width * sum(heads))
    stream = Axis("stream", 0, 1 + whole.size, whole.size)
    ends = np.cumsum([1, *heads])
    groups = [Group((Owned(whole, width),), np.arange(a, b)) for a, b in itertools.pairwise(ends)]
    return [*groups, Group((Owned(stream, 1),), np.arange(ends[-1], ends[-1] + whole.size))]


@pytest.mark.parametrize(
    ("heads", "ratio", "left"),
    [
        ((2, 3, 3), 0.5, [2, 1, 1]),
        ((2, 3, 3), 0.3, [2, 2, 2]),
        ((2, 3, 3), 0.9, [1, 1, 1]),
        ((4, 4), 0.5, [2, 2]),
        ((1, 7), 0.5, [1, 3]),
    ],
)
def test_parts_of_one_size_keep_as_many_heads(heads: tuple[int, ...], ratio: float, left: list[int]) -> None:
    groups = parts(*heads)
    found = choose_widths(groups, np.ones(200), ratio, equal_widths=True)
    assert found.taken == [*left, 4 * sum(left)]
