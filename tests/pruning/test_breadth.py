"""Operations that tie channels in unusual ways: thinned, and fused exactly where a form is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from prunefuse_al import fuse, prune
from prunefuse_al.errors import NoEffectWarning
from prunefuse_al.fusing.channel_map import ChannelMap
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning import search
from tests.laws.random_networks import randomise
from tests.pruning.test_prune import IMAGES, Wrapped, X, widths


def assert_exact(network: nn.Module, proxy: Any, x: Tensor | tuple[Tensor, ...]) -> None:
    """Train both in pretence; the preserving target must compute what the proxy does."""
    assert proxy.report().preserve_exact
    randomise(proxy.module)
    values = {name: t.clone() for name, t in named_tensors(proxy.module).items()}
    target = fuse(network.eval(), proxy)
    inputs = x if isinstance(x, tuple) else (x,)
    expected = proxy.module.eval()(*inputs)
    assert (target(*inputs) - expected).abs().max() < 1e-4 * expected.abs().max()
    if proxy.channel_map.copies:  # nothing of the proxy is changed on the way
        back = proxy.channel_map.extract({n: t.detach() for n, t in named_tensors(target).items()})
        assert all(torch.equal(back[name], value) for name, value in values.items())


def test_channel_shuffle() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(m.a(x)), torch.relu(m.b(x))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        left, right = x.chunk(2, 1)
        return m.head(torch.cat([left, torch.relu(m.c(right))], 1).mean((2, 3)))

    network = Wrapped(
        forward, a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(3, 16, 3), c=nn.Conv2d(16, 16, 1), head=nn.Linear(32, 3)
    )
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [8, 8, 8, 3]
    assert_exact(network, proxy, IMAGES)


def test_pixel_shuffle_moves_channels_into_pixels_and_back() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.PixelUnshuffle(2),
        nn.Conv2d(48, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [16, 6, 4, 3]
    assert_exact(network, proxy, IMAGES)


def test_weight_norm() -> None:
    network = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), parametrizations.weight_norm(nn.Conv2d(16, 8, 3)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert (proxy.module[0].out_channels, proxy.module[2].in_channels, proxy.module[2].out_channels) == (8, 8, 4)
    assert_exact(network, proxy, IMAGES)


@pytest.mark.parametrize("written", ["by hand", "by batch norm", "over kernel positions too"])
def test_weight_standardisation_is_thinned_and_its_distance_stated(written: str) -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if written == "over kernel positions too":
                weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
                return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)
            rows = self.weight.flatten(1)
            if written == "by hand":
                rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
            else:
                rows = F.batch_norm(rows[None], None, None, training=True)[0]
            return F.conv2d(x, rows.view_as(self.weight), self.bias)

    network = nn.Sequential(
        Standardised(3, 16, 3), nn.ReLU(), Standardised(16, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [8, 6, 3]
    assert not proxy.report().preserve_exact
    assert proxy.report().preserve_distance > 1e-3


def test_what_all_heads_share_is_kept_and_heads_leave_whole() -> None:
    """Rotary embeddings and the like: one number per position of a head, the same for every head."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(len(x), -1, 3, m.heads, 4).permute(2, 0, 3, 1, 4)
        scores = (q * m.scale) @ (k * m.scale).transpose(-1, -2)
        return m.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).mean(1)

    network = Wrapped(forward, qkv=nn.Linear(8, 48), out=nn.Linear(16, 3))
    network.heads, network.scale = 4, nn.Parameter(torch.rand(4))
    proxy = prune(network, X.reshape(1, 2, 8), 0.5)
    assert proxy.module.heads == 2
    assert widths(proxy) == [24, 3]
    assert "shared by blocks" in proxy.report().kept_whole["scale, dimension 0"]
    assert_exact(network, proxy, X.reshape(1, 2, 8))


def test_talking_heads_mix_as_many_as_are_left() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(len(x), -1, 3, m.heads, 4).permute(2, 0, 3, 1, 4)
        scores = m.mix((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)).softmax(2).permute(0, 3, 1, 2)
        return m.out((scores @ v).transpose(1, 2).flatten(2)).mean(1)

    network = Wrapped(forward, qkv=nn.Linear(8, 48), mix=nn.Linear(4, 4), out=nn.Linear(16, 3))
    network.heads = 4
    proxy = prune(network, X.reshape(1, 2, 8), 0.5)
    assert proxy.module.heads == 2
    assert_exact(network, proxy, X.reshape(1, 2, 8))


@pytest.mark.parametrize("norm", ["group", "layer", "instance", "mean of squares"])
def test_half_the_channels_fuse_exactly_through_any_statistic(norm: str) -> None:
    class MeanOfSquares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.square().mean((1, 2, 3), keepdim=True)

    made = {
        "group": lambda: nn.GroupNorm(4, 16),
        "layer": lambda: nn.GroupNorm(1, 16),
        "instance": lambda: nn.InstanceNorm2d(16),
        "mean of squares": MeanOfSquares,
    }
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), made[norm](), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), made[norm](), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    proxy = prune(network, IMAGES, 0.5)
    assert widths(proxy) == [8, 8, 3]
    assert_exact(network, proxy, IMAGES)


def test_norms_without_weights_follow() -> None:
    network = nn.Sequential(
        nn.Linear(8, 16), nn.LayerNorm(16, elementwise_affine=False), nn.ReLU(), nn.Linear(16, 12),
        nn.RMSNorm(12, 1e-5, False),
        nn.Linear(12, 3),
    )  # fmt: skip
    proxy = prune(network, X, 0.5)
    assert (proxy.module[1].normalized_shape, proxy.module[4].normalized_shape) == ((8,), (6,))
    assert_exact(network, proxy, X)


def test_copied_channels_learn_apart() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    proxy = prune(network, IMAGES, 0.5)
    copied, source = proxy.channel_map.copies["0.weight:0"]
    target = fuse(network, proxy)
    assert torch.equal(target[0].weight[copied], target[0].weight[source])
    optimiser = torch.optim.SGD(target.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(target(torch.randn(16, 3, 8, 8)), torch.randint(0, 3, (16,))).backward()
        optimiser.step()
    assert (target[0].weight[copied] != target[0].weight[source]).flatten(1).any(1).all()
    assert (target[5].weight[:, copied] != 0).all()


def test_copies_of_two_prunings_are_copies_of_their_composition() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    first = prune(network, IMAGES, 0.5)
    second = prune(first.module, IMAGES, 0.5)
    composed = first.channel_map.compose(second.channel_map)
    randomise(second.module)
    target = fuse(network, type(first)(second.module, composed))
    assert torch.allclose(target(IMAGES), second.module(IMAGES), atol=1e-5)
    tensors, rest = composed.to_tensors()
    assert ChannelMap.from_tensors(tensors, rest) == composed
    plain = prune(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), X, 0.5).channel_map
    assert plain.copies == {}  # where nothing needs it, the other channels keep their own values


def test_encoder_layers_run_in_torchs_fast_path() -> None:
    network = nn.Sequential(
        nn.Linear(8, 32), nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2),
        nn.Linear(32, 3),
    )  # fmt: skip
    x = torch.randn(2, 5, 8)
    proxy = prune(network, x, 0.5)
    assert (proxy.module[1].layers[0].self_attn.embed_dim, proxy.module[1].layers[0].self_attn.num_heads) == (16, 2)
    with torch.no_grad():  # this is where torch takes it
        quick = proxy.module.eval()(x)
    assert torch.allclose(quick, proxy.module(x), atol=1e-5)
    assert_exact(network, proxy, x)


class Partly(nn.Module):
    """Thins but for what its code says about one layer, by several kinds of refusal."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(nn.Linear(8 if i == 0 else 16, 16) for i in range(6))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if number == 2 and self.kind == "size":
                x = x.view(-1, 16)
            elif number == 2 and self.kind == "function":
                x = x + x.sort(1).values
            elif number == 2 and self.kind == "value":
                x = x * x.shape[1]
        return self.head(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("size", "cannot be thinned: the proxy does not run: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("function", "goes through sort, which is not understood"),
        ("value", "cannot be thinned: the proxy is not a sub-network"),
    ],
)
def test_one_layer_is_kept_whole_and_no_more(kind: str, reason: str) -> None:
    network = Partly(kind)
    proxy = prune(network, X, 0.5)
    assert widths(proxy) == [8, 8, 16, 8, 8, 8, 3]
    assert proxy.report().kept_whole["layers.2.weight, dimension 0"].startswith(reason)
    assert_exact(network, proxy, X)


def test_the_search_for_what_cannot_be_thinned_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_TRIALS", 2)
    with pytest.warns(NoEffectWarning, match="was not tried, after 2 others"):
        proxy = prune(Partly("size"), X, 0.5)
    assert widths(proxy) == [16, 16, 16, 8, 8, 8, 3]  # the half without the layer in question


def test_spectral_norm_is_thinned() -> None:
    network = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 20),
        nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip
    proxy = prune(network, X, 0.5)
    assert [proxy.module[i].out_features for i in (0, 2, 4)] == [8, 8, 10]
    assert proxy.report().preserve_exact
