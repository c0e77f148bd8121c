"""The laws of pruning and fusing, over random architectures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunefuse_al import fuse, prune
from prunefuse_al.network.states import named_tensors

from .random_networks import Spec, build, example, randomise, ratios, specs

pytestmark = pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
law = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in named_tensors(module).items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def outputs(module: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tree_leaves(copy.deepcopy(module).double().eval()(x.double()))


def trained(module: nn.Module) -> None:
    """Change every value of a network in place, as training would."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        randomise(module)


@law
@given(specs)
def test_pruning_nothing_changes_nothing(spec: Spec) -> None:
    network = build(spec)
    proxy = prune(network, example(), 0)
    assert_same(values(proxy.module), values(network))
    assert all(t.whole for t in proxy.channel_map.tensors.values())


@law
@given(specs, ratios)
def test_prune_never_touches_the_network(spec: Spec, ratio: float) -> None:
    network = build(spec).train()
    outputs(network, example())
    before, hooks = values(network), []
    handle = network.register_forward_hook(lambda *_: hooks.append(1) and None)
    network.stem.weight.grad = torch.ones_like(network.stem.weight)
    state = torch.random.get_rng_state()
    proxy = prune(network, example(), ratio)
    assert_same(values(network), before)
    assert all(m.training for m in network.modules())
    assert proxy.module.training
    assert torch.equal(network.stem.weight.grad, torch.ones_like(network.stem.weight))
    assert proxy.module.stem.weight.grad is None
    assert len(network._forward_hooks) == 1
    assert torch.equal(torch.random.get_rng_state(), state)
    handle.remove()


@law
@given(specs, ratios)
def test_scatter_then_extract_returns_the_trained_proxy(spec: Spec, ratio: float) -> None:
    network = build(spec)
    proxy = prune(network, example(), ratio)
    trained(proxy.module)
    before = values(network), values(proxy.module)
    for cross in ("copy", 0.5, 0.0):
        target = fuse(network, proxy, cross=cross)
        assert_same(proxy.channel_map.extract(values(target)), values(proxy.module))
    assert_same(values(network), before[0])
    assert_same(values(proxy.module), before[1])


@law
@given(specs, ratios)
def test_entries_outside_the_map_follow_cross(spec: Spec, ratio: float) -> None:
    """Rebuilt entry by entry from the definition: kept rows x removed inputs are scaled, all else is the network's."""
    network = build(spec)
    proxy = prune(network, example(), ratio)
    trained(proxy.module)
    dense, target = values(network), values(fuse(network, proxy, cross=0.25))
    for name, tensor_map in proxy.channel_map.tensors.items():
        inside, rows = torch.ones(tensor_map.shape, dtype=torch.bool), torch.ones(tensor_map.shape, dtype=torch.bool)
        for dim, index in enumerate(tensor_map.kept):
            if index is not None:
                alive = torch.isin(torch.arange(tensor_map.shape[dim]), index)
                alive = alive.view([-1 if d == dim else 1 for d in range(len(tensor_map.shape))])
                inside = inside & alive
                rows = rows if dim in tensor_map.inputs else rows & alive
        expected = torch.where(rows & ~inside, dense[name] * 0.25, dense[name])
        assert torch.equal(target[name][~inside], expected[~inside]), name
        assert inside.sum() == values(proxy.module)[name].numel()


@law
@given(specs, ratios)
def test_preserving_fusion_computes_the_proxy(spec: Spec, ratio: float) -> None:
    network = build(spec)
    proxy = prune(network, example(), ratio)
    trained(proxy.module)
    target = fuse(network, proxy, cross="preserve")
    difference = max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
        for a, b in zip(outputs(target, example(5)), outputs(proxy.module, example(5)), strict=True)
    )
    if proxy.report().preserve_exact:
        assert difference < 1e-5  # parameters are stored in single precision
    else:
        assert spec.norm == "group", "only statistics over channels and pixels together may stand in the way"


@law
@given(specs)
def test_composing_maps_equals_pruning_twice(spec: Spec) -> None:
    network = build(spec)
    first = prune(network, example(), 0.3)
    second = prune(first.module, example(), 0.3)
    composed = first.channel_map.compose(second.channel_map)
    assert_same(composed.extract(values(network)), values(second.module))
    trained(second.module)
    assert_same(composed.extract(composed.scatter(values(second.module), values(network))), values(second.module))


@law
@given(specs, ratios)
def test_shapes_the_user_sees_stay(spec: Spec, ratio: float) -> None:
    network = build(spec)
    proxy = prune(network, example(), ratio)
    assert [o.shape for o in outputs(proxy.module, example(4))] == [o.shape for o in outputs(network, example(4))]
    assert type(proxy.module) is type(network)
    assert all(min(t.proxy_shape, default=1) >= 1 for t in proxy.channel_map.tensors.values())
    for head, thin in zip(network.heads, proxy.module.heads, strict=True):
        assert thin.weight.shape[0] == head.weight.shape[0]
    assert proxy.module.stem.weight.shape[1] == 3


@law
@given(specs, ratios)
def test_same_seed_same_proxy(spec: Spec, ratio: float) -> None:
    network = build(spec)
    for importance in ("l2", "random"):
        first, second = (prune(network, example(), ratio, importance=importance, random_state=3) for _ in range(2))
        assert first.channel_map == second.channel_map
        assert_same(values(first.module), values(second.module))


@law
@given(specs, ratios)
def test_a_map_survives_a_trip_through_tensors(spec: Spec, ratio: float) -> None:
    import json

    from prunefuse_al.fusing.channel_map import ChannelMap
    from prunefuse_al.pruning import rebuild

    network = build(spec)
    proxy = prune(network, example(), ratio)
    tensors, rest = proxy.channel_map.to_tensors()
    restored = ChannelMap.from_tensors(tensors, json.loads(json.dumps(rest)))
    assert restored == proxy.channel_map
    again: Any = rebuild(network, restored)
    assert repr(again) == repr(proxy.module)
    assert_same(values(again), values(proxy.module))


@pytest.mark.slow
@settings(law, max_examples=200)
@given(specs, ratios)
def test_many_networks_go_there_and_back(spec: Spec, ratio: float) -> None:
    """The laws that need one pruning only, together, over many more networks."""
    network = build(spec)
    before = values(network)
    proxy = prune(network, example(), ratio)
    assert_same(proxy.channel_map.extract(before), values(proxy.module))
    assert_same(values(fuse(network, proxy, cross="copy")), before)
    trained(proxy.module)
    target = fuse(network, proxy)
    plain = all(silence.factor == 1 for silence in proxy.channel_map.silences)
    if plain and (proxy.channel_map.copies or not proxy.channel_map.streams):
        assert_same(proxy.channel_map.extract(values(target)), values(proxy.module))
    for found, expected in zip(outputs(target, example(3)), outputs(proxy.module, example(3)), strict=True):
        assert found.shape == expected.shape
        if proxy.report().preserve_exact:
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1e-3)
    assert_same(values(network), before)
