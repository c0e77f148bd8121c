"""The families of networks people bring, small: every law of pruning and fusing, and the table in docs/networks.md.

The full-size networks take minutes: ``pytest -m full_size`` runs them.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from examples.networks import cifar_resnet
from examples.zoo import FAMILIES, Family
from prunefuse_al import Proxy, fuse, prune
from prunefuse_al.errors import NoEffectWarning
from prunefuse_al.network import logits_of
from prunefuse_al.network.states import named_tensors
from tests.laws.random_networks import randomise
from tests.pruning.networks_table import RATIOS, row

TABLE = Path(__file__).parents[2] / "docs" / "networks.md"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def thinned(network: nn.Module, inputs: Any, ratio: float) -> Proxy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        return prune(network, inputs, ratio)


def outputs(module: nn.Module, inputs: Any) -> Tensor:
    double = tree_map(lambda x: x.double() if x.is_floating_point() else x, inputs)
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        return logits_of(module(**double) if isinstance(double, dict) else module(double))


def check_laws(family: Family, ratio: float, full: bool = False) -> Proxy:
    network, inputs = family.build(full), family.example(full)
    before = {name: t.detach().clone() for name, t in named_tensors(network).items()}
    proxy = thinned(network, inputs, ratio)

    for name, value in proxy.channel_map.extract(before).items():
        assert torch.equal(value, named_tensors(proxy.module)[name]), name
    for name, value in named_tensors(fuse(network, proxy, cross="copy")).items():
        assert torch.equal(value, before[name]), name
    assert all(torch.equal(t, before[name]) for name, t in named_tensors(network).items())
    assert type(proxy.module) is type(network)
    assert all(min(t.proxy_shape, default=1) >= 1 for t in proxy.channel_map.tensors.values())

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        randomise(proxy.module)
    values = {name: t.detach().clone() for name, t in named_tensors(proxy.module).items()}
    back = named_tensors(fuse(network, proxy, cross=0.5))
    for name, value in proxy.channel_map.extract({n: t.detach() for n, t in back.items()}).items():
        assert torch.equal(value, values[name]), name
    expected = outputs(proxy.module, inputs)
    assert expected.shape == outputs(network, inputs).shape
    if proxy.report().preserve_exact:
        spread = (expected - expected.mean(0)).abs().max().clamp(min=0.01 * expected.abs().max())
        assert (outputs(fuse(network, proxy), inputs) - expected).abs().max() < 1e-3 * spread
    return proxy


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: f"{family.group}-{family.name}")
def test_every_law_holds(family: Family) -> None:
    reports = [check_laws(family, ratio).report() for ratio in RATIOS]
    for ratio, report in zip(RATIOS, reports, strict=True):
        # What is above the square is layers that read inputs, depthwise convolutions and attention between tokens.
        assert report.mac_share <= (1 - ratio) ** 2 + (0.25 if family.name == "mlp" else 0.16)
    assert reports[1].preserve_exact  # the table says where there is no exact form at other ratios
    assert row(family, reports) in TABLE.read_text(), "run python -m tests.pruning.networks_table and look at it"


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize(
    "family", [f for f in FAMILIES.values() if f.full is not None], ids=lambda family: f"{family.group}-{family.name}"
)
def test_every_law_holds_at_full_size(family: Family) -> None:
    check_laws(family, 0.5, full=True)


def test_no_family_is_missing() -> None:
    """An import that fails may not make the rest pass in silence."""
    assert {group for group, _ in FAMILIES} == {"plain", "torchvision", "timm", "transformers"}
    assert len(FAMILIES) == 67


@pytest.mark.parametrize(
    ("ratio", "parameters", "macs"),
    [
        (0.3, 405503, 0.473),
        (0.4, 301244, 0.341),
        (0.5, 215186, 0.251),
        (0.6, 129191, 0.145),
        (0.7, 73756, 0.077),
        (0.8, 30871, 0.036),
    ],
)
def test_resnet56_has_the_sizes_the_method_is_known_by(ratio: float, parameters: int, macs: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = cifar_resnet(56)
    report = prune(network, torch.zeros(2, 3, 32, 32), ratio).report()
    assert report.dense_parameters == 855_578
    assert report.proxy_parameters == parameters
    assert round(report.mac_share, 3) == macs
