"""The laws of thinning interiors alone: streams stay whole, and all that holds of other proxies holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import mlp, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from examples.zoo import FAMILIES
from prunefuse_al import Proxy, errors, fuse, prune, repair
from prunefuse_al.pruning.groups import STREAM

from .random_networks import Spec, build, example, specs
from .test_laws import assert_same, trained, values

pytestmark = pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
law = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ratios = st.sampled_from([0.3, 0.5, 0.7])


def interiors(network: nn.Module, x: Any, ratio: float) -> Proxy:
    """Return the proxy with streams whole; where a network is one stream, the proxy of nothing."""
    whole = prune(network, x, 0, parts="interiors")
    dense = {width.name: width.dense for width in whole.report().widths}
    inner = {name for name in dense if not whole.report().kept_whole.get(f"{name}, dimension 0", "").startswith(STREAM)}
    if not inner & {width.name for width in prune(network, x, ratio).report().widths if width.proxy < width.dense}:
        with pytest.raises(errors.PruningError, match=r"is a residual stream.*pass parts='all'"):
            prune(network, x, ratio, parts="interiors")
        return whole
    return prune(network, x, ratio, parts="interiors")


@law
@given(specs, ratios)
def test_streams_stay_and_the_laws_hold(spec: Spec, ratio: float) -> None:
    network = build(spec)
    before = values(network)
    proxy, all_parts = interiors(network, example(), ratio), prune(network, example(), ratio)
    assert_same(values(network), before)
    assert_same(proxy.channel_map.extract(before), values(proxy.module))
    assert_same(values(fuse(network, proxy, cross="copy")), before)
    for name, tensor_map in proxy.channel_map.tensors.items():
        whole = all_parts.channel_map.tensors[name]
        thinner = zip(tensor_map.proxy_shape, whole.proxy_shape, whole.shape, strict=True)
        assert all(size in (other, dense) for size, other, dense in thinner), name
    trained(proxy.module)
    assert_same(proxy.channel_map.extract(values(fuse(network, proxy, cross="copy"))), values(proxy.module))


@law
@given(specs)
def test_nothing_removed_changes_nothing(spec: Spec) -> None:
    network = build(spec)
    assert_same(values(prune(network, example(), 0, parts="interiors").module), values(network))


THINNED: dict[tuple[str, str], tuple[list[str], list[str]]] = {  # layers that are thinned, and layers that are not
    ("plain", "resnet18 (CIFAR)"): (
        ["blocks.0.conv1", "blocks.2.conv1"],
        ["stem.0", "blocks.0.conv2"],
    ),
    ("plain", "vit (CIFAR)"): (["blocks.0.mlp.0"], ["blocks.0.mlp.2"]),
    ("torchvision", "mobilenet_v2"): (["features.0.0", "features.3.conv.0.0"], ["features.3.conv.2"]),
    ("torchvision", "resnet50"): (["layer1.0.conv2"], ["layer1.0.conv3", "layer1.0.downsample.0"]),
    ("torchvision", "densenet121"): (["features.denseblock1.denselayer1.conv2"], []),  # joined, never added
    ("torchvision", "swin_t"): (["features.1.0.mlp.0"], ["features.1.0.mlp.3", "features.0.0"]),
    ("timm", "convnextv2"): (["stages.0.blocks.0.mlp.fc1"], ["stem.0", "stages.0.blocks.0.mlp.fc2"]),
    ("timm", "swin"): (["layers.0.blocks.0.attn.qkv"], ["layers.0.blocks.0.attn.proj"]),
    ("transformers", "BERT"): (
        ["bert.encoder.layer.0.attention.self.value", "bert.encoder.layer.0.intermediate.dense"],
        ["bert.embeddings.word_embeddings", "bert.encoder.layer.0.output.dense"],
    ),
    ("transformers", "Llama"): (["model.layers.0.mlp.up_proj"], ["model.embed_tokens", "model.layers.0.mlp.down_proj"]),
    ("plain", "lstm text classifier"): (["embedding"], []),  # the gates of a recurrent layer are no stream
}


@pytest.mark.parametrize("name", [name for name in THINNED if name in FAMILIES], ids=lambda name: name[1])
def test_interiors_of_blocks_in_the_zoo(name: tuple[str, str]) -> None:
    family = FAMILIES[name]
    network = family.build()
    report = prune(network, family.example(), 0.5, parts="interiors").report()
    widths = {width.name.removesuffix(".weight"): width for width in report.widths}
    thin, whole = THINNED[name]
    assert all(widths[layer].proxy <= 0.7 * widths[layer].dense for layer in thin)
    assert all(widths[layer].proxy == widths[layer].asked == widths[layer].dense for layer in whole)
    said = {place.partition(".weight")[0] for place, why in report.kept_whole.items() if why.startswith(STREAM)}
    assert said >= set(whole)
    assert bool(said) == bool(whole)


def test_a_plain_network_is_all_interior() -> None:
    network = mlp(4, 16, 16, 3)
    maps = [prune(network, torch.zeros(2, 4), 0.5, parts=parts).channel_map for parts in ("all", "interiors")]
    assert maps[0] == maps[1]


class OnlyStream(nn.Module):
    """Layers that add to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x).relu())


def test_a_network_without_interiors_is_refused() -> None:
    x, network = torch.zeros(2, 4), seeded(OnlyStream)
    with pytest.raises(errors.PruningError, match=r"stem.*residual stream, parts='interiors'.*pass parts='all'"):
        prune(network, x, 0.5, parts="interiors")
    assert prune(network, x, 0.5).module.stem.out_features == 4


def test_interiors_are_repaired() -> None:
    family = FAMILIES["plain", "resnet18 (CIFAR)"]
    network = family.build()
    trained(network)
    proxy = prune(network, family.example(), 0.5, parts="interiors")
    x = torch.randn(8, *family.example().shape[1:], generator=torch.Generator().manual_seed(0))
    report = repair(network, proxy, x, device="cpu").repair_report
    assert {layer.name for layer in report.layers} >= {"blocks.0.conv2.weight"}
