"""A network that was used before it is cut or fused gives what a fresh one does: copies start with nothing computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded
from numpy.testing import assert_array_equal
from torch import Tensor, nn

from prunefuse_al import ProgressivePruning, PrunedProxySelector, TorchTrainer, fuse, prune
from prunefuse_al.errors import FusionError
from prunefuse_al.fusing.channel_map import ChannelMap
from prunefuse_al.network.copying import afresh
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning.build import rebuild
from prunefuse_al.pruning.computed import computed_state
from prunefuse_al.pruning.generic import make_generic

TOKENS = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Biased(nn.Module):
    """Attention with a bias for each distance, which is looked up anew in every pass."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.enter, self.leave = heads, nn.Linear(6, width), nn.Linear(width, 3)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.biases = nn.Parameter(torch.randn(heads, 9))
        self.register_buffer("apart", (torch.arange(9)[:, None] - torch.arange(9)).abs())

    def bias(self) -> Tensor:
        return self.biases[:, self.apart]

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) + self.bias()).softmax(-1) @ v
        return self.leave(self.proj(mixed.transpose(1, 2).flatten(2)).mean(1))


class MadeByEval(Biased):
    """As LeViT had it first."""

    def train(self, mode: bool = True) -> MadeByEval:
        super().train(mode)
        if mode and hasattr(self, "ab"):
            del self.ab
        elif not mode:
            with torch.no_grad():
                self.ab = super().bias()
        return self

    def bias(self) -> Tensor:
        return super().bias() if self.training else self.ab


class FilledInEval(Biased):
    """As timm has it: a dict that eval passes fill."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> FilledInEval:
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def bias(self) -> Tensor:
        if self.training:
            return super().bias()
        if "cpu" not in self.cache:
            self.cache["cpu"] = super().bias()
        return self.cache["cpu"]


class NeverCleared(FilledInEval):
    def train(self, mode: bool = True) -> NeverCleared:
        nn.Module.train(self, mode)
        return self


class InAnAttribute(Biased):
    def __init__(self) -> None:
        super().__init__()
        self._kept: Tensor | None = None

    def bias(self) -> Tensor:
        if self.training:
            return super().bias()
        if self._kept is None:
            self._kept = super().bias().detach()
        return self._kept


class Rotated(Biased):
    """Rotations kept for the longest sequence so far, with its length beside them."""

    def __init__(self) -> None:
        super().__init__()
        self._longest, self._cos, self._sin = 0, None, None

    def bias(self) -> Tensor:
        if self._longest < 9:
            angles = torch.arange(9.0)[:, None] - torch.arange(9.0)
            self._cos, self._sin, self._longest = angles.cos(), angles.sin(), 9
        return super().bias() * self._cos.to(self.biases) + self._sin.to(self.biases)


class ByLength(nn.Module):
    """What is added to each place, kept for each size, as wide as the network."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mid, self.leave = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 1), nn.Linear(32, 3)
        self.places: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        size = tuple(x.shape[2:])
        if size not in self.places:
            self.places[size] = torch.linspace(0, 1, x[0, 0].numel()).view(1, 1, *size).repeat(1, x.shape[1], 1, 1)
        return self.leave(self.mid((x + self.places[size].to(x)).relu()).mean((2, 3)))


class Merged(nn.Module):
    """Two layers whose weights are added once for all eval passes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one, self.two, self.leave = (
            nn.Linear(n, m) for n, m in ((6, 32), (32, 32), (32, 32), (32, 3))
        )

    def train(self, mode: bool = True) -> Merged:
        super().train(mode)
        if mode and hasattr(self, "sum"):
            del self.sum
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        if self.training:
            return self.leave((self.one(x) + self.two(x)).relu())
        if not hasattr(self, "sum"):
            self.sum = (self.one.weight + self.two.weight).detach()
        return self.leave((F.linear(x, self.sum) + self.one.bias + self.two.bias).relu())


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    **{kind.__name__: (kind, TOKENS) for kind in (MadeByEval, FilledInEval, NeverCleared, InAnAttribute, Rotated)},
    "ByLength": (ByLength, PICTURES),
    "Merged": (Merged, TOKENS[:, 0]),
}


def generic(name: str) -> nn.Module:
    network = seeded(KINDS[name][0])
    make_generic(network)
    return network


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_network_that_was_used_gives_what_a_fresh_one_does(name: str, training: bool) -> None:
    fresh, used, inputs = generic(name).train(training), generic(name), KINDS[name][1]
    used.eval()(inputs)
    if training:
        used.train()
    else:
        used(inputs)
    expected, found = prune(fresh, inputs), prune(used, inputs)
    assert found.channel_map == expected.channel_map
    assert found.report() == expected.report()
    assert found.report().parameter_share < 0.4
    for one, other in ((fresh, found), (used, expected)):
        torch.testing.assert_close(
            fuse(one, other, cross="copy").eval()(inputs), expected_answer(name, inputs), rtol=1e-5, atol=1e-5
        )


def expected_answer(name: str, inputs: Tensor) -> Tensor:
    found: Tensor = generic(name).eval()(inputs)
    return found


@pytest.mark.parametrize("cross", ["preserve", "copy", "delta"])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_fused_and_rebuilt_has_computed_nothing_yet(name: str, cross: str) -> None:
    network, inputs = generic(name).eval(), KINDS[name][1]
    network(inputs)
    proxy = prune(network, inputs)
    with torch.no_grad():
        for parameter in proxy.module.parameters():
            parameter.add_(0.1)
    target = fuse(network, proxy, cross=cross)
    asked = target(inputs)
    clean = afresh(generic(name), proxy.channel_map.computed)
    clean.load_state_dict(target.state_dict())
    torch.testing.assert_close(asked, clean.eval()(inputs))
    if cross == "preserve" and proxy.report().preserve_exact:
        torch.testing.assert_close(asked, proxy.module.eval()(inputs), rtol=1e-3, atol=1e-4)
    again = rebuild(network, proxy.channel_map)
    torch.testing.assert_close(again(inputs), prune(generic(name).eval(), inputs).module(inputs))


def test_what_was_computed_is_in_the_map_and_in_its_files() -> None:
    found = prune(Rotated(), TOKENS).channel_map
    assert dict(found.computed) == {":_longest": (0,), ":_cos": (None,), ":_sin": (None,)}
    indices, rest = found.to_tensors()
    again = ChannelMap.from_tensors(indices, json.loads(json.dumps(rest)))
    assert again == found
    assert found.relative_to(found.whole()).computed == found.computed
    for place, start in ((":forward", 3), (":_parameters", [None]), ("_cos", []), (":_cos", [None, None])):
        with pytest.raises(FusionError, match="no channel map"):
            ChannelMap.from_tensors(indices, {**rest, "computed": {place: start}})


class Constant(nn.Module):
    """Reads a tensor that it was built with, and keeps one that it never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.scale = nn.Linear(6, 16), nn.Linear(16, 3), torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.enter(x)
        return self.leave(self.last * self.scale)


def test_constants_and_what_is_never_read_stay() -> None:
    network = Constant()
    network(TOKENS)
    proxy = prune(network, TOKENS)
    assert proxy.channel_map.computed == {}
    assert proxy.module.scale == 2
    assert proxy.report().preserve_exact


def test_a_network_that_keeps_nothing_costs_no_pass() -> None:
    passes = []
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    network.register_forward_hook(lambda *_: passes.append(1))
    assert computed_state(network, network, ((TOKENS,), {})) == {}
    assert not passes


def test_modes_stay_and_nothing_is_trained_or_asked_in_the_network_given() -> None:
    network, inputs = generic("NeverCleared"), TOKENS
    network.eval()(inputs)
    network.enter.eval()
    network.train()
    network.enter.eval()
    before = {name: tensor.clone() for name, tensor in named_tensors(network).items()}
    kept = network.cache["cpu"]
    proxy = prune(network, inputs)
    assert [m.training for m in proxy.module.modules()] == [m.training for m in network.modules()]
    assert network.cache["cpu"] is kept
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(network).items())


@pytest.mark.filterwarnings("ignore:V2 with sync_every=2 costs about")
@pytest.mark.parametrize("progressive", [None, ProgressivePruning(epochs=2, steps=2)])
@pytest.mark.parametrize("name", ["MadeByEval", "FilledInEval"])
def test_the_whole_method_with_a_network_that_was_used(name: str, progressive: Any, tmp_path: Path) -> None:
    inputs = torch.randn(40, 9, 6, generator=torch.Generator().manual_seed(1))
    picked, answers = [], []
    for used in (False, True):
        network = generic(name).train()
        if used:
            network.eval()(inputs)
        trainer = TorchTrainer(3, 16, device="cpu", progress=False)
        chosen = PrunedProxySelector(
            network, 0.5, trainer=trainer, random_state=0, sync_every=2, progressive=progressive
        )
        chosen.fit(inputs, torch.arange(40) % 3)
        chosen.fit_target()
        picked.append(chosen.query(inputs, 4))
        chosen.save(tmp_path / f"saved{used}")
        other = generic(name).eval()
        other(inputs)
        loaded = PrunedProxySelector.load(tmp_path / f"saved{used}", other)
        assert_array_equal(loaded.query(inputs, 4), picked[-1])
        answers.append(loaded.fuse().eval()(inputs))
        torch.testing.assert_close(answers[-1], chosen.fuse().eval()(inputs))
    assert_array_equal(*picked)
    torch.testing.assert_close(*answers)
