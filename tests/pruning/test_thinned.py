"""As much is thinned as the topology allows: the smallest network of every kind that is hard to follow."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from prunefuse_al import prune
from prunefuse_al.errors import FusionError, NoEffectWarning
from prunefuse_al.fusing import ChannelMap
from prunefuse_al.pruning.build import rebuild
from tests.pruning.test_breadth import assert_exact
from tests.pruning.test_prune import Wrapped

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
WAVES = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
RATIOS = (0.3, 0.5, 0.7)

Forward = Callable[[Any, Tensor], Tensor]


def layers(forward: Forward, width: int = 32) -> nn.Module:
    """Linear layers a, b and c around what `forward` does, of tokens [n t d]."""
    parts = {"a": nn.Linear(16, width), "b": nn.Linear(width, width), "head": nn.Linear(width, 4)}
    return Wrapped(forward, **parts)


def pictures(forward: Forward, width: int = 16, **parts: nn.Module) -> nn.Module:
    """A convolution a and a head around what `forward` does, of pictures [n c h w]."""
    return Wrapped(forward, a=nn.Conv2d(3, width, 3, padding=1), **parts)


def ends(m: Any, x: Tensor) -> Tensor:
    """Map tokens, changed on the way, to logits."""
    return m.head(torch.relu(m.b(x)).mean(1))


# --- rows moved, added and written by number


def picked(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x))
    place = (torch.arange(len(x)) % 5)[:, None, None].expand(-1, 1, y.shape[-1])
    return ends(m, y.gather(1, place))


def pooled(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x))
    place = (torch.arange(6) % 3)[None, :, None].expand_as(y)
    return ends(m, torch.zeros(len(x), 3, y.shape[-1]).scatter_add(1, place, y))


def added(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x))
    return ends(m, torch.zeros_like(y[:, :3]).contiguous().index_add(1, torch.arange(6) % 3, y))


def added_in_place(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x))
    return ends(m, torch.zeros(len(x), 3, y.shape[-1]).index_add_(1, torch.arange(6) % 3, y))


def written(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x))
    z = torch.zeros_like(y)
    z[:, torch.arange(3)] = y[:, 2:5]
    return ends(m, z)


def written_where(m: Any, x: Tensor) -> Tensor:
    y, chosen = torch.relu(m.a(x)), x[..., 0] > 0
    z = torch.zeros_like(y)
    z[chosen] = y[chosen] * 2
    return ends(m, z)


def strided(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x)).contiguous()
    n, t, c = y.shape
    return ends(m, y.as_strided((n, 2, 4, c), (t * c, 2 * c, c, 1)).flatten(1, 2))


def transformed(m: Any, x: Tensor) -> Tensor:
    return ends(m, torch.fft.fft(torch.relu(m.a(x)), dim=1).real)


def summed_in_each_place(m: Any, x: Tensor) -> Tensor:
    return ends(m, F.conv1d(torch.relu(m.a(x)), torch.linspace(-1, 1, 12).view(2, 6, 1)))


def streams_summed_in_each_place(m: Any, x: Tensor) -> Tensor:
    y = torch.relu(m.a(x))
    both = torch.stack([y.mean(1), (y + m.b(y)).mean(1)], 1)
    return m.head(F.conv1d(both, torch.tensor([[[1.0], [2.0]]])).squeeze(1))


ROWS: dict[str, Forward] = {
    "convolution of one place over streams": streams_summed_in_each_place,
    "convolution of one place": summed_in_each_place,
    "gather": picked,
    "scatter": pooled,
    "index_add": added,
    "index_add_": added_in_place,
    "index_put_": written,
    "index_put_ by a mask": written_where,
    "as_strided": strided,
    "FFT over positions": transformed,
}


# --- pictures


def windows(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.relu(m.b(m.unfold(torch.relu(m.a(x))).transpose(1, 2))).mean(1))


def put_back(m: Any, x: Tensor) -> Tensor:
    y = F.unfold(torch.relu(m.a(x)), 2, stride=2)
    y = F.fold(torch.relu(y), x.shape[-2:], 2, stride=2)
    return m.head(torch.relu(m.b(y)).mean((2, 3)))


def global_filter(m: Any, x: Tensor) -> Tensor:
    y = torch.fft.rfft2(torch.relu(m.a(x)), norm="ortho") * torch.view_as_complex(m.filter)
    return m.head(torch.relu(m.b(torch.fft.irfft2(y, s=x.shape[-2:], norm="ortho"))).mean((2, 3)))


def global_filters() -> nn.Module:
    network = pictures(global_filter, b=nn.Conv2d(16, 16, 1), head=nn.Linear(16, 4))
    network.filter = nn.Parameter(torch.randn(16, 12, 7, 2) / 10)
    return network


class Shortcut(nn.Module):
    """A stage of twice the channels whose shortcut has no weights: what it lacks are zeros (option A of ResNet)."""

    def __init__(self, pad: Callable[[Any, Tensor, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.c, self.head, self.pad = nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.Linear(2 * width, 4), pad
        self.planes = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        y = self.c(torch.relu(self.b(x)))
        return self.head(torch.relu(y + self.pad(self, x[:, :, ::2, ::2], y)).mean((2, 3)))


def on_both_sides(m: Any, x: Tensor, y: Tensor) -> Tensor:
    missing = y.shape[1] - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2))


def into_zeros(m: Any, x: Tensor, y: Tensor) -> Tensor:
    z = torch.zeros_like(y)
    z[:, : x.shape[1]] = x
    return z


SHORTCUTS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "padded on both sides": on_both_sides,
    "padded behind": lambda m, x, y: F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])),
    "joined with zeros like it": lambda m, x, y: torch.cat([x, torch.zeros_like(x)], 1),
    "joined with it times zero": lambda m, x, y: torch.cat([x, x.mul(0)], 1),
    "written into zeros": into_zeros,
    "joined with new zeros": lambda m, x, y: torch.cat(
        [x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])], 1
    ),
}


# --- normalised weights, and GroupNorm with one channel a group


def waves(norm: Callable[[nn.Module], nn.Module], *after: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 24, 5), nn.GELU(), norm(nn.Conv1d(24, 32, 3, padding=1)), *after, nn.GELU(),
        norm(nn.Conv1d(32, 32, 3, padding=1, groups=4)), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    **{name: (lambda forward=forward: layers(forward), TOKENS) for name, forward in ROWS.items()},
    **{f"shortcut, {name}": (lambda pad=pad: Shortcut(pad), IMAGES) for name, pad in SHORTCUTS.items()},
    "nn.Unfold": (
        lambda: pictures(windows, unfold=nn.Unfold(3, padding=1), b=nn.Linear(144, 24), head=nn.Linear(24, 4)), IMAGES,
    ),
    "F.fold": (lambda: pictures(put_back, b=nn.Conv2d(16, 16, 1), head=nn.Linear(16, 4)), IMAGES),
    "a filter of frequencies": (global_filters, IMAGES),
    "one channel a group": (lambda: waves(lambda m: m, nn.GroupNorm(32, 32)), WAVES),
    "weight_norm": (lambda: waves(parametrizations.weight_norm), WAVES),
    "spectral_norm": (lambda: waves(parametrizations.spectral_norm), WAVES),
}  # fmt: skip


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_moves_rows_pads_channels_or_normalises_weights_is_thinned_through(name: str, ratio: float) -> None:
    make, x = NETWORKS[name]
    network = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoEffectWarning)
        proxy = prune(network, x, ratio)
    assert proxy.report().mac_share < (1 - ratio) ** 2 + 0.21  # the first layer keeps what it reads
    assert_exact(network, proxy, x)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [2, None])
def test_lengths_over_channels_are_thinned(norm: Any, dim: int | None) -> None:
    """As those of wav2vec 2.0, whose every kernel position has a length."""
    report = prune(waves(lambda m: norm(m, dim=dim)), WAVES, 0.5).report()
    assert report.mac_share < 0.3
    assert report.preserve_exact


def test_a_length_for_each_channel_that_is_read() -> None:
    """A transposed convolution has its inputs first, and directions that were switched off would have no length."""
    network = nn.Sequential(
        nn.Conv1d(1, 16, 3), nn.ReLU(), parametrizations.weight_norm(nn.ConvTranspose1d(16, 12, 4, 2)), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    proxy = prune(network, WAVES, 0.5)
    assert proxy.module[2].parametrizations.weight.original1.shape == (8, 6, 4)


def test_shortcuts_padded_by_a_number_keep_the_padded_channels_and_say_where() -> None:
    network = Shortcut(lambda m, x, y: F.pad(x, (0, 0, 0, 0, 8, 8)))
    proxy = prune(network, IMAGES, 0.5)
    reason = "is joined with positions of fixed size, padded by constant_pad_nd in the network itself (in part)"
    assert proxy.report().kept_whole["c.weight, dimension 0"] == reason
    assert [w.proxy for w in proxy.report().widths] == [8, 16, 24, 4]
    assert_exact(network, proxy, IMAGES)


def test_a_width_by_which_a_shortcut_is_padded_follows() -> None:
    network = Shortcut(lambda m, x, y: F.pad(x, (0, 0, 0, 0, m.planes // 4, m.planes // 4)))
    proxy = prune(network, IMAGES, 0.5)
    assert [w.proxy for w in proxy.report().widths] == [8, 16, 16, 4]
    assert proxy.module.planes == 16
    assert_exact(network, proxy, IMAGES)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_width_that_the_function_of_a_shortcut_captured_follows(ratio: float) -> None:
    """As in the ResNet for CIFAR that most code is copied from: `LambdaLayer(lambda x: F.pad(..., planes // 4))`."""
    planes = 40
    network = Shortcut(lambda m, x, y: F.pad(x, (0, 0, 0, 0, planes // 4, planes // 4)), 20)
    proxy = prune(network, IMAGES, ratio)
    share = {0.3: 0.56, 0.5: 0.29, 0.7: 0.12}[ratio]
    assert proxy.report().mac_share < share
    assert_exact(network, proxy, IMAGES)
    again = rebuild(network, proxy.channel_map)
    assert torch.equal(again(IMAGES), rebuild(network, proxy.channel_map)(IMAGES))
    assert network.pad.__closure__[0].cell_contents == 40
    assert network(IMAGES).shape == (2, 4)
    if ratio == 0.5:
        assert proxy.channel_map.attributes[":pad.planes"] == 20
        tensors, rest = proxy.channel_map.to_tensors()
        read = ChannelMap.from_tensors(tensors, json.loads(json.dumps(rest)))
        assert torch.equal(rebuild(network, read)(IMAGES), again(IMAGES))
        network.pad = into_zeros
        with pytest.raises(FusionError, match=r"'pad\.planes' is no number that a function captured in Shortcut"):
            rebuild(network, read)


# --- attention


class Relative(nn.Module):
    """Scores of positions that are gathered by distance, as in DeBERTa."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.enter, self.qkv, self.out = nn.Linear(16, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.distances, self.key = nn.Embedding(16, width), nn.Linear(width, width, bias=False)
        self.head, self.num_heads = nn.Linear(width, 4), heads

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, self.num_heads, -1).transpose(1, 2).chunk(3, -1)
        keys = self.key(self.distances.weight).view(1, 16, self.num_heads, -1).transpose(1, 2)
        places = (torch.arange(t)[:, None] - torch.arange(t) + 8)[None, None].expand(b, q.shape[1], t, t)
        scores = q @ k.transpose(-1, -2) + (q @ keys.transpose(-1, -2)).gather(-1, places)
        mixed = (scores / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.head((x + self.out(mixed.transpose(1, 2).reshape(b, t, -1))).mean(1))


class Attention(nn.Module):
    """Attention written by hand, with a mask between tokens that is a buffer or made in forward.

    Args:
        mask: (heads, tokens) -> the mask.
        add: it is added to scores, else given to `scaled_dot_product_attention`.
        buffer: it is a buffer, else made in forward.
    """

    def __init__(
        self, heads: int = 4, width: int = 32, mask: Callable[..., Tensor] | None = None, *, add: bool = False,
        buffer: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.enter, self.out, self.head = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.make, self.add = heads, mask, add
        self.register_buffer("mask", mask(64) if mask is not None and buffer else None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mask = self.mask[..., :t, :t] if self.mask is not None else None if self.make is None else self.make(t)
        if self.add:
            mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head((x + self.out(mixed.transpose(1, 2).reshape(b, t, -1))).mean(1))


MASKS: dict[str, Callable[[int], Tensor]] = {
    "bools": lambda t: torch.ones(t, t).tril().bool(),
    "minus infinity": lambda t: torch.full((t, t), -torch.inf).triu(1),
    "a large number": lambda t: torch.full((1, 1, t, t), -1e4).triu(1),
}
ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "distances gathered": Relative,
    "one head, thinned inside": lambda: Attention(1),
    **{
        f"{name}, {'added' if add else 'given'}, {'a buffer' if buffer else 'made in forward'}": (
            lambda mask=mask, add=add, buffer=buffer: Attention(mask=mask, add=add, buffer=buffer)
        )
        for name, mask in MASKS.items()
        for add in (True, False)
        for buffer in (True, False)
        if not (add and name == "bools")
    },
}


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_thinned_through_masks_and_look_ups(name: str, ratio: float) -> None:
    network = ATTENTION[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # such a mask has more positions than there are channels
        proxy = prune(network, TOKENS, ratio)
    # Scores of a single head are sums over all of its channels.
    assert proxy.report().mac_share < (1 - ratio) ** 2 + (0.25 if "one head" in name else 0.12)
    assert_exact(network, proxy, TOKENS)


# --- experts


class Experts(nn.Module):
    """Each token goes through two of several networks, and the answers are added by weight."""

    def __init__(self, kind: str, width: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.enter, self.gate, self.head = nn.Linear(16, width), nn.Linear(width, experts), nn.Linear(width, 4)
        self.kind, self.count = kind, experts
        if kind in ("index_add_", "index_put_", "all"):
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, width)) for _ in range(experts)
            )
        else:
            self.up = nn.Parameter(torch.randn(experts, width, 64) / 6)
            self.down = nn.Parameter(torch.randn(experts, 64, width) / 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        flat = x.flatten(0, 1)
        shares = self.gate(flat).softmax(-1)
        top, chosen = shares.topk(2, -1)
        return self.head((flat + getattr(self, f"of_{self.kind}")(flat, shares, top, chosen)).view_as(x).mean(1))

    def of_all(self, x: Tensor, shares: Tensor, top: Tensor, chosen: Tensor) -> Tensor:
        return torch.stack([expert(x) for expert in self.experts], 1).mul(shares[..., None]).sum(1)

    def of_index_add_(self, x: Tensor, shares: Tensor, top: Tensor, chosen: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            y.index_add_(0, rows, expert(x[rows]) * top[rows, place, None])
        return y

    def of_index_put_(self, x: Tensor, shares: Tensor, top: Tensor, chosen: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            y[rows] += expert(x[rows]) * top[rows, place, None]
        return y

    def of_weights(self, x: Tensor, shares: Tensor, top: Tensor, chosen: Tensor) -> Tensor:
        hidden = torch.einsum("nkdh,nd->nkh", self.up[chosen], x)
        return torch.einsum("nkhd,nkh,nk->nd", self.down[chosen], F.silu(hidden), top)

    def of_groups(self, x: Tensor, shares: Tensor, top: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.flatten().argsort()
        ends = chosen.flatten().bincount(minlength=self.count).cumsum(0).int()
        hidden = F.silu(torch._grouped_mm(x[order // 2], self.up, offs=ends))
        y = torch._grouped_mm(hidden, self.down, offs=ends) * top.flatten()[order, None]
        return torch.zeros_like(x).index_add_(0, order // 2, y)


GROUPED = ("groups",) if hasattr(torch, "_grouped_mm") else ()  # torch has it since 2.7


@pytest.mark.parametrize("kind", ["all", "index_add_", "index_put_", "weights", *GROUPED])
def test_experts_are_thinned(kind: str) -> None:
    network = Experts(kind)
    proxy = prune(network, TOKENS, 0.5)
    assert proxy.report().parameter_share < 0.3
    assert proxy.module.gate.out_features == 4
    assert proxy.report().preserve_exact
    if kind in ("index_add_", "groups"):  # the gate, and two experts for each of six tokens
        assert proxy.report().dense_macs == 6 * (16 * 32 + 32 * 4 + 2 * (32 * 64 + 64 * 32)) + 32 * 4


def test_what_a_network_draws_from_numpy_while_it_trains_is_put_back() -> None:
    """As the spans that wav2vec 2.0 masks; that nothing moved is checked after every test."""
    network = layers(lambda m, x: ends(m, m.a(x) * (float(np.random.rand()) if m.training else 1.0)))
    assert [w.proxy for w in prune(network, TOKENS, 0.5).report().widths] == [16, 16, 4]


# --- what stays, and the words


def test_positions_that_are_no_buffer_are_named() -> None:
    network = layers(lambda m, x: ends(m, m.a(x) + m.positions[: x.shape[1]]))
    network.positions = torch.randn(64, 32)
    with pytest.warns(
        NoEffectWarning, match=r"a\.weight.*\(positions, which is no buffer; see register_buffer\) in add"
    ):
        proxy = prune(network, TOKENS, 0.5)
    assert [w.proxy for w in proxy.report().widths] == [32, 16, 4]
    buffered = layers(lambda m, x: ends(m, m.a(x) + m.positions[: x.shape[1]]))
    buffered.register_buffer("positions", torch.randn(64, 32))
    assert prune(buffered, TOKENS, 0.5).module.positions.shape == (64, 16)


def test_frequencies_over_channels_keep_them() -> None:
    network = layers(lambda m, x: ends(m, torch.fft.fft(torch.relu(m.a(x))).real))
    with pytest.warns(NoEffectWarning, match=r"a\.weight, dimension 0: is transformed along by _fft_r2c"):
        proxy = prune(network, TOKENS, 0.5)
    assert [w.proxy for w in proxy.report().widths] == [32, 16, 4]


@pytest.mark.parametrize(
    ("heads", "width", "left", "ratio"),
    [(3, 24, 2, 0.5), (5, 40, 3, 0.5), (4, 32, 2, 0.5), (6, 48, 3, 0.5), (3, 24, 1, 0.7)],
)
def test_of_few_heads_so_many_stay_that_the_work_is_near_what_was_asked(
    heads: int, width: int, left: int, ratio: float
) -> None:
    network = Attention(heads, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        proxy = prune(network, TOKENS, ratio)
    assert proxy.module.heads == left
    said = [r for r in proxy.report().kept_whole.values() if r.startswith("leaves in whole blocks, such as heads")]
    asked = heads * (1 - ratio)
    assert len(said) == (0 if abs(asked - left) < 0.49 else 1)
    assert all(f"{left} of {heads} stay where {asked:.3g} were asked" in reason for reason in said)
    assert_exact(network, proxy, TOKENS)
