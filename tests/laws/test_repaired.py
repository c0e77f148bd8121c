"""The laws of repairing, and of the way back that adds, over random architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map

from examples.zoo import FAMILIES
from prunefuse_al import Proxy, fuse, prune, repair
from prunefuse_al.errors import FusionError, InputError
from prunefuse_al.fusing import delta
from prunefuse_al.network import first_output

from .random_networks import Spec, build, example, specs
from .test_frozen import freeze_some, frozen, only
from .test_laws import assert_same, trained, values

pytestmark = pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
law = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ratios = st.sampled_from([0.3, 0.5, 0.7])


def repaired_of(network: Any, proxy: Proxy) -> Proxy:
    return repair(network, proxy, example(40), device="cpu")


def back(network: Any, proxy: Proxy, weight: float = 1.0) -> dict[str, Tensor]:
    return delta(values(network), values(proxy.module), proxy.channel_map, proxy.repaired, weight=weight)


@law
@given(specs, ratios)
def test_repair_changes_values_and_nothing_else(spec: Spec, ratio: float) -> None:
    network = build(spec)
    proxy = prune(network, example(), ratio)
    before, cut = values(network), values(proxy.module)
    repaired = repaired_of(network, proxy)
    assert_same(values(network), before)
    assert_same(values(proxy.module), cut)
    assert repaired.channel_map == proxy.channel_map
    assert repr(repaired.module) == repr(proxy.module)
    after = values(repaired.module)
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in cut.items()}
    assert all(bool(t.isfinite().all()) for t in after.values())
    if ratio == 0.5:
        assert not all(torch.equal(after[name], cut[name]) for name in cut)


@law
@given(specs, ratios, st.sampled_from([0.3, 0.9]), st.integers(0, 99))
def test_repair_leaves_what_is_frozen(spec: Spec, ratio: float, share: float, seed: int) -> None:
    network = build(spec).train()
    freeze_some(network, share, seed)
    stay = frozen(network)
    proxy = prune(network, example(), ratio)
    repaired = repaired_of(network, proxy)
    assert_same(only(values(repaired.module), stay), only(values(proxy.module), stay))


@law
@given(specs)
def test_nothing_removed_is_nothing_repaired(spec: Spec) -> None:
    network = build(spec)
    assert_same(values(repaired_of(network, prune(network, example(), 0)).module), values(network))


@law
@given(specs, ratios, st.sampled_from([0.0, 0.5, 1.0]))
def test_delta_of_an_untrained_proxy_is_the_network(spec: Spec, ratio: float, weight: float) -> None:
    network = build(spec)
    proxy = prune(network, example(), ratio)
    for untrained in (proxy, repaired_of(network, proxy)):
        assert_same(back(network, untrained, weight), values(network))


@law
@given(specs, ratios)
def test_delta_of_a_proxy_that_was_not_repaired_is_copy(spec: Spec, ratio: float) -> None:
    network = build(spec)
    proxy = prune(network, example(), ratio)
    trained(proxy.module)
    assert_same(back(network, proxy), values(fuse(network, proxy, cross="copy")))


@law
@given(specs, ratios, st.sampled_from([-0.5, 0.5, 1.0]))
def test_delta_adds_what_was_learned_at_its_positions(spec: Spec, ratio: float, weight: float) -> None:
    """Written out from the definition; what training left as it was keeps the dense values bit for bit."""
    network = build(spec)
    proxy = repaired_of(network, prune(network, example(), ratio))
    start = values(proxy.module)
    trained(proxy.module)
    kept_still = sorted(start)[::3]
    with torch.no_grad():
        for name in kept_still:
            dict([*proxy.module.named_parameters(), *proxy.module.named_buffers()])[name].copy_(start[name])
    dense, found, now = values(network), back(network, proxy, weight), values(proxy.module)
    for name, tensor_map in proxy.channel_map.tensors.items():
        inside = torch.ones(tensor_map.shape, dtype=torch.bool)
        for dim, index in enumerate(tensor_map.kept):
            if index is not None:
                alive = torch.isin(torch.arange(tensor_map.shape[dim]), index)
                inside = inside & alive.view([-1 if d == dim else 1 for d in range(len(tensor_map.shape))])
        assert torch.equal(found[name][~inside], dense[name][~inside]), name
        if name in kept_still:
            assert torch.equal(found[name], dense[name]), name
        elif not dense[name].is_floating_point():
            assert torch.equal(found[name], now[name])
        elif name.endswith("running_var"):
            expected = dense[name][inside] * (now[name] / start[name]).flatten() ** weight
            torch.testing.assert_close(found[name][inside], expected)
            assert bool((found[name] > 0).all())
        else:
            expected = dense[name][inside] + weight * (now[name] - start[name]).flatten()
            torch.testing.assert_close(found[name][inside], expected, rtol=1e-4, atol=1e-5)


def test_delta_refuses_what_does_not_fit() -> None:
    network = build(Spec(0, ("plain",), 4, "batch", "mean", 1, False, True))
    proxy = prune(network, example(), 0.5)
    dense, thin = values(network), values(proxy.module)
    with pytest.raises(FusionError, match="shape"):
        delta(dense, dense, proxy.channel_map)
    with pytest.raises(FusionError, match="shape"):
        delta(dense, thin, proxy.channel_map, {"stem.weight": dense["stem.weight"]})
    with pytest.raises(FusionError, match="not in the channel map"):
        delta(dense, thin, proxy.channel_map, {"stem.weigth": thin["stem.weight"]})
    with pytest.raises(InputError, match="weight="):
        delta(dense, thin, proxy.channel_map, weight=float("nan"))


def test_delta_in_half_precision() -> None:
    network = build(Spec(0, ("plain",), 4, "batch", "mean", 1, False, True)).to(torch.bfloat16)
    proxy = repair(network, prune(network, example().bfloat16(), 0.5), example(40).bfloat16(), device="cpu")
    assert proxy.repaired
    assert_same(back(network, proxy), values(network))


FEW = [
    ("plain", "resnet20 (CIFAR)"), ("plain", "vit (CIFAR)"), ("plain", "gru text classifier"),
    ("plain", "transformer encoder, padded"), ("torchvision", "mobilenet_v2"), ("timm", "swin"),
    ("transformers", "BERT"), ("transformers", "GPT-2"), ("transformers", "Llama"),
]  # fmt: skip


def rows_like(batch: Any, n: int, seed: int) -> Any:
    """Return n rows of noise, or of ids up to those of the batch; flags and masks are repeated."""
    generator = torch.Generator().manual_seed(seed)

    def one(leaf: Tensor) -> Tensor:
        shape = (n, *leaf.shape[1:])
        if leaf.is_floating_point():
            return torch.randn(shape, generator=generator)
        if leaf.dtype == torch.bool or int(leaf.max()) <= 1:
            return leaf[torch.arange(n) % len(leaf)]
        return torch.randint(1, int(leaf.max()) + 1, shape, generator=generator)

    return tree_map(one, batch)


def answered(network: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        found = network.eval()(**inputs) if isinstance(inputs, dict) else network(inputs)
    return first_output(found).double()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", FEW, ids=lambda f: f[1])
def test_families_answer_more_like_themselves(family: tuple[str, str]) -> None:
    found = FAMILIES[family]
    network = found.build().eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        randomise_slightly(network)
    proxy = prune(network, found.example(), 0.5)
    repaired = repair(network, proxy, rows_like(found.example(), 64, 0), device="cpu")
    fresh = rows_like(found.example(), 32, 1)
    dense = answered(network, fresh)
    errors = [float((answered(p.module, fresh) - dense).square().mean()) for p in (repaired, proxy)]
    assert errors[0] < 0.9 * errors[1]
    assert_same(delta(values(network), values(repaired.module), proxy.channel_map, repaired.repaired), values(network))


def randomise_slightly(network: Any) -> None:
    """Shake parameters, so that heads that start at zero answer something."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
