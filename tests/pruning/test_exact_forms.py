"""Exact forms of fusing for weights that are computed over channels: lengths that these share, standardised weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from prunefuse_al import ChannelMap, Proxy, errors, fuse, prune
from tests.laws.random_networks import randomise
from tests.pruning.test_prune import Wrapped

WAVES = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))


def assert_claimed_and_true(network: nn.Module, x: Tensor, ratio: float = 0.5, *, thinner: float = 0.5) -> Proxy:
    """Prune, train in pretence, fuse and compare; at most so much of the parameters is left."""
    proxy = prune(network.eval(), x, ratio)
    assert proxy.report().preserve_exact
    assert proxy.report().parameter_share < thinner
    randomise(proxy.module)
    target, thin = fuse(network, proxy).double().eval(), proxy.module.double().eval()
    expected = thin(x.double())
    assert (target(x.double()) - expected).abs().max() < 1e-6 * expected.abs().max()
    return proxy


# --- lengths that channels share

NORMS: dict[str, Callable[..., nn.Module]] = {
    "parametrised": parametrizations.weight_norm,
    "by a hook": nn.utils.weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("dim", [0, 2, None])
@pytest.mark.parametrize("norm", NORMS)
def test_a_length_for_a_kernel_position_follows_copies_of_channels(norm: str, dim: int | None) -> None:
    """As in the positions of wav2vec: the length is a norm over all channels, of which there are more when fused."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.relu(m.enter(x))
        x = m.norm((x + F.gelu(m.place(x))).transpose(1, 2))
        return m.head(x.mean(1))

    place = NORMS[norm](nn.Conv1d(16, 16, 3, padding=1, groups=4), dim=dim)
    network = Wrapped(forward, enter=nn.Conv1d(3, 16, 3), place=place, norm=nn.LayerNorm(16), head=nn.Linear(16, 4))
    assert_claimed_and_true(network, WAVES)


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_a_length_for_a_kernel_position_follows_what_is_silenced(ratio: float) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        inner = torch.relu(m.inner(m.before(x.transpose(1, 2)).transpose(1, 2)))
        return m.head(m.norm((x + m.place(inner)).transpose(1, 2)).mean(1))

    network = Wrapped(
        forward,
        enter=nn.Conv1d(3, 16, 3),
        before=nn.LayerNorm(16),
        inner=nn.Conv1d(16, 12, 1),
        place=parametrizations.weight_norm(nn.Conv1d(12, 16, 3, padding=1), dim=2),
        norm=nn.LayerNorm(16),
        head=nn.Linear(16, 4),
    )
    assert_claimed_and_true(network, WAVES, ratio, thinner=0.8)


def test_lengths_that_are_frozen_are_left_alone() -> None:
    network = nn.Sequential(
        nn.Conv1d(3, 16, 3), nn.ReLU(), parametrizations.weight_norm(nn.Conv1d(16, 16, 3), dim=2), nn.GroupNorm(1, 16),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    lengths = network[2].parametrizations.weight.original0
    lengths.requires_grad_(False)
    before = lengths.clone()
    proxy = prune(network.eval(), WAVES, 0.5)
    assert not proxy.report().preserve_exact
    with pytest.warns(errors.FallbackWarning, match="are frozen"):
        target = fuse(network, proxy)
    assert torch.equal(target[2].parametrizations.weight.original0, before)


# --- standardised weights


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised over what each row reads, and scaled, as in NFNet."""

    def __init__(self, *sizes: int, groups: int = 1, scaled: bool = True) -> None:
        super().__init__(*sizes, padding=1, groups=groups)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5) if scaled else None
        self.factor = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, len(self.weight), -1)
        gain = None if self.gain is None else (self.gain * self.factor).view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=1e-5)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
STANDARDISED: dict[str, Callable[[], list[nn.Module]]] = {
    "one after the other": lambda: [Standardised(16, 24, 3), nn.GELU(), Standardised(24, 16, 3)],
    "in groups": lambda: [Standardised(16, 16, 3, groups=2), nn.SiLU(), Standardised(16, 16, 3)],
    "normalised": lambda: [nn.GroupNorm(4, 16), nn.ReLU(), Standardised(16, 16, 3)],
    "depthwise": lambda: [Standardised(16, 16, 3, groups=16), nn.SiLU(), Standardised(16, 16, 1)],
}


@pytest.mark.parametrize("name", STANDARDISED)
def test_weights_that_are_standardised_and_scaled(name: str) -> None:
    network = nn.Sequential(
        Standardised(3, 16, 3), *STANDARDISED[name](), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip
    proxy = assert_claimed_and_true(network, IMAGES)
    again = ChannelMap.from_tensors(*proxy.channel_map.to_tensors())
    assert again == proxy.channel_map
    assert again.gains


class Preactivated(nn.Module):
    """A block of BiT: every standardised convolution reads what was normalised and rectified."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.GroupNorm(4, into), nn.GroupNorm(4, out)
        self.short = Standardised(into, out, 3, scaled=False) if into != out else None
        self.enter, self.leave = Standardised(into, out, 3, scaled=False), Standardised(out, out, 3, scaled=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first(x))
        x = x if self.short is None else self.short(inner)
        return x + self.leave(F.pad(torch.relu(self.second(self.enter(inner))), (1, 1, 1, 1)))[..., 1:-1, 1:-1]


def test_standardised_weights_without_a_gain_read_less() -> None:
    network = nn.Sequential(
        Standardised(3, 16, 3, scaled=False), Preactivated(16, 24), Preactivated(24, 24), nn.GroupNorm(4, 24),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip
    gains = assert_claimed_and_true(network, IMAGES).channel_map.gains
    assert gains["1.short.weight:1"] == gains["1.enter.weight:1"] == ("1.first.bias", "1.first.weight")


def test_a_gain_of_nothing_is_refused() -> None:
    network = nn.Sequential(Standardised(3, 16, 3), *STANDARDISED["normalised"](), nn.Flatten(), nn.Linear(16 * 64, 4))
    indices, rest = prune(network.eval(), IMAGES, 0.5).channel_map.to_tensors()
    (place,) = rest["gains"]
    for gains in ({"0.weight:1": ["0.gain"]}, {place: ["no such gain"]}, {"nothing": ["0.gain"]}, {place: []}):
        with pytest.raises(errors.FusionError, match="no channel map"):
            ChannelMap.from_tensors(indices, {**rest, "gains": gains})


def test_triangular_systems_let_channels_pass() -> None:
    """As in chunks of linear attention: positions along the system mix, channels do not."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        system = torch.eye(x.shape[1]) + 0.1 * torch.ones(x.shape[1], x.shape[1]).tril(-1)
        return m.head(torch.linalg.solve_triangular(system.to(x), x, upper=False).mean(1))

    network = Wrapped(forward, enter=nn.Linear(12, 16), head=nn.Linear(16, 4))
    assert_claimed_and_true(network, WAVES, thinner=0.6)


def test_a_width_that_two_computed_tensors_are_summed_over_stays() -> None:
    """As in XLNet: scores of positions would read it, but those of content have no weight to switch off."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, 4, 8) for layer in (m.q, m.k, m.v))
        places = m.places(torch.arange(t * 6.0).view(t, 6).sin().to(x)).view(t, 4, 8)
        content = torch.einsum("bind,bjnd->bnij", q, k)
        position = torch.einsum("bind,jnd->bnij", q, places)
        mixed = torch.einsum("bnij,bjnd->bind", (content + position).softmax(-1), v)
        return m.head(torch.einsum("bind,hnd->bih", mixed, m.out.weight.view(-1, 4, 8)).mean(1))

    parts = {name: nn.Linear(12, 32) for name in ("enter", "q", "k", "v")}
    parts |= {
        "places": nn.Linear(6, 32),
        "out": nn.Linear(32, 12),
        "enter": nn.Linear(12, 12),
        "head": nn.Linear(12, 4),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.NoEffectWarning)
        assert_claimed_and_true(Wrapped(forward, **parts), WAVES, thinner=0.8)


def test_rows_are_written_into_zeros_one_by_one() -> None:
    """As chunks of linear attention are, each at one place along a dimension."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        out = torch.zeros_like(x)
        for place in range(x.shape[1]):
            out[:, place] = torch.relu(m.inner(x[:, place]))
        return m.head(out.mean(1))

    network = Wrapped(forward, enter=nn.Linear(12, 16), inner=nn.Linear(16, 16), head=nn.Linear(16, 4))
    proxy = assert_claimed_and_true(network, WAVES)
    assert proxy.module.inner.weight.shape == (8, 8)
