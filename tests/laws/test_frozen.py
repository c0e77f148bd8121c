"""The law of what is frozen, over random architectures, random parts of them that are frozen, and ways of fusing."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from examples.zoo import FAMILIES
from prunefuse_al import fuse, prune
from prunefuse_al.errors import FallbackWarning
from prunefuse_al.network.states import named_tensors

from .random_networks import Spec, build, example, ratios, specs
from .test_laws import assert_same, outputs, trained, values

pytestmark = pytest.mark.filterwarnings(
    "ignore::prunefuse_al.errors.NoEffectWarning", "ignore::prunefuse_al.errors.FallbackWarning"
)
law = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
crosses = st.sampled_from(["preserve", "copy", 0.5, 0.0, -1.0])
shares = st.sampled_from([0.1, 0.5, 0.9, 1.0])


def freeze_some(network: nn.Module, share: float, seed: int) -> None:
    """Freeze a share of the parameters, or of whole modules, and put some batch norms in eval mode."""
    drawn = random.Random(seed)
    parts: list[Any] = [*network.parameters()] if seed % 2 else [m for m in network.modules() if not list(m.children())]
    for part in parts:
        if drawn.random() < share:
            part.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and drawn.random() < share / 2:
            module.eval()


def frozen(network: nn.Module) -> set[str]:
    names = {name for name, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for path, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            own = [p.requires_grad for p in module.parameters()]
            if (own and not any(own)) or (network.training and not module.training):
                names |= {f"{path}.{name}" for name, _ in module.named_buffers()}
    return names


def learnt(proxy: nn.Module) -> None:
    """Change every value of a network that may change, as training would."""
    before, stay = values(proxy), frozen(proxy)
    trained(proxy)
    with torch.no_grad():
        for name, tensor in named_tensors(proxy).items():
            if name in stay:
                tensor.copy_(before[name])


def only(tensors: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in sorted(names)}


@law
@given(specs, ratios, shares, st.integers(0, 99), crosses)
def test_what_is_frozen_stays_and_the_rest_follows_the_map(
    spec: Spec, ratio: float, share: float, seed: int, cross: Any
) -> None:
    network = build(spec).train()
    freeze_some(network, share, seed)
    before, stay = values(network), frozen(network)
    proxy = prune(network, example(), ratio)
    assert frozen(proxy.module) == stay
    trained(proxy.module)  # everything: whatever a proxy has there, by whatever means
    target = fuse(network, proxy, cross=cross)
    assert_same(only(values(target), stay), only(before, stay))
    assert frozen(target) == stay
    assert_same(values(network), before)
    if cross != "preserve":
        free = fuse(copy.deepcopy(network).train().requires_grad_(True), proxy, cross=cross)
        rest = before.keys() - stay
        assert_same(only(values(target), rest), only(values(free), rest))
        assert_same(only(proxy.channel_map.extract(values(target)), rest), only(values(proxy.module), rest))


@law
@given(specs, ratios, shares, st.integers(0, 99))
def test_preserving_is_what_the_report_says_or_it_is_warned_of(
    spec: Spec, ratio: float, share: float, seed: int
) -> None:
    network = build(spec).train()
    freeze_some(network, share, seed)
    proxy = prune(network, example(), ratio)
    learnt(proxy.module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target = fuse(network, proxy, cross="preserve")
    said = [w for w in caught if w.category is FallbackWarning]
    difference = max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
        for a, b in zip(outputs(target, example(5)), outputs(proxy.module, example(5)), strict=True)
    )
    if proxy.report().preserve_exact:
        assert difference < 1e-5  # parameters are stored in single precision
        assert not said
    elif difference > 1e-3:
        assert len(said) == 1 or spec.norm == "group"  # there, unevenly thinned, nothing needs to be frozen for it


@settings(law, max_examples=6)
@given(specs, ratios)
def test_freezing_nothing_changes_nothing(spec: Spec, ratio: float) -> None:
    """A network in eval mode as a whole is frozen in no part of it, whether or not it is in train mode again."""
    network = build(spec)
    assert not frozen(network.train())
    proxies = [prune(network.train(mode), example(), ratio) for mode in (True, False)]
    for proxy in proxies:
        trained(proxy.module)
        assert proxy.report().frozen == ()
    for cross in ("preserve", "copy", 0.5):
        first, second = (
            fuse(network.train(mode), proxy, cross=cross) for mode, proxy in zip((True, False), proxies, strict=True)
        )
        assert_same(values(first), values(second))


FEW = [
    ("plain", "resnet20 (CIFAR)"), ("plain", "vit (CIFAR)"), ("plain", "u-net"), ("plain", "lstm text classifier"),
    ("torchvision", "mobilenet_v2"), ("timm", "convnext"), ("transformers", "BERT"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", FEW, ids=lambda f: f[1])
def test_families_with_their_first_half_frozen(family: tuple[str, str]) -> None:
    """As people freeze pretrained networks: by the order of their parameters, and all of their norms."""
    found = FAMILIES[family]
    for half in (True, False):
        network = found.build()
        parameters = list(network.parameters())
        for parameter in parameters[: len(parameters) // 2] if half else []:
            parameter.requires_grad_(False)
        for module in [] if half else network.modules():
            if "Norm" in type(module).__name__:
                module.requires_grad_(False)
        before, stay = values(network), frozen(network)
        assert stay or not half
        proxy = prune(network, found.example(), 0.5)
        trained(proxy.module)
        for cross in ("preserve", 0.5):
            target = fuse(network, proxy, cross=cross)
            assert_same(only(values(target), stay), only(before, stay))
            assert any(not torch.equal(t, before[name]) for name, t in values(target).items())
