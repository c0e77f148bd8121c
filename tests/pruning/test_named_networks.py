"""The networks people bring: exact at every ratio, with about (1 - p)^2 of the work left."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from examples.networks import ViT, cifar_resnet, resnet18, vgg
from prunefuse_al import fuse, prune
from prunefuse_al.channel_map import named_tensors
from tests.laws.random_networks import randomise

torchvision = pytest.importorskip("torchvision")

Make = Callable[[], nn.Module]
QUICK: dict[str, Make] = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10)
    ),
    "vgg": lambda: vgg((16, "M", 32, 32, "M", 64, "M")),
    "cifar_resnet20": lambda: cifar_resnet(20, preactivation=False),
    "cifar_preact_resnet20": lambda: cifar_resnet(20, preactivation=True),
    "cifar_resnet18": lambda: resnet18(width=16),
    "vit": lambda: ViT(depth=2),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
}
SLOW: dict[str, Make] = {
    "resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "densenet121": lambda: torchvision.models.densenet121(num_classes=10),
    "vgg16_bn": lambda: torchvision.models.vgg16_bn(num_classes=10),
    "cifar_preact_resnet110": lambda: cifar_resnet(110),
}
CASES = [
    *(
        pytest.param(name, make, ratio, id=f"{name}-{ratio}")
        for name, make in QUICK.items()
        for ratio in (0.3, 0.5, 0.7)
    ),
    *(pytest.param(name, make, 0.5, id=f"{name}-0.5", marks=pytest.mark.slow) for name, make in SLOW.items()),
]


def built(make: Make) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(module).double().eval()(x.double())


@pytest.mark.parametrize(("name", "make", "ratio"), CASES)
def test_every_law_holds(name: str, make: Make, ratio: float) -> None:
    network = built(make)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    proxy = prune(network, x, ratio)
    before = {n: t.clone() for n, t in named_tensors(network).items()}
    for n, value in proxy.channel_map.extract(before).items():
        assert torch.equal(value, named_tensors(proxy.module)[n]), n
    for n, value in named_tensors(fuse(network, proxy, cross="copy")).items():
        assert torch.equal(value, before[n]), n

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        randomise(proxy.module)
    target = fuse(network, proxy)
    expected = outputs(proxy.module, x)
    assert proxy.report().preserve_exact
    assert (outputs(target, x) - expected).abs().max() < 1e-4 * expected.abs().max()

    share = proxy.report().mac_share
    most = 1 - ratio if name == "mlp" else 1.8 * (1 - ratio) ** 2  # the pixels an MLP reads do not leave
    assert 0.55 * (1 - ratio) ** 2 < share < most + 0.01
    assert all(torch.equal(t, before[n]) for n, t in named_tensors(network).items())


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
    report = prune(built(lambda: cifar_resnet(56)), torch.zeros(2, 3, 32, 32), ratio).report()
    assert report.dense_parameters == 855_578
    assert report.proxy_parameters == parameters
    assert round(report.mac_share, 3) == macs


def small_swin(**options: object) -> nn.Module:
    return torchvision.models.swin_transformer.SwinTransformer(
        [4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=10, **options
    )


def small_swin_v2() -> nn.Module:
    swin = torchvision.models.swin_transformer
    return small_swin(block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2)


FAMILIES: dict[str, tuple[Make, bool]] = {  # network, and whether preserving fusion is exact
    "resnext50": (lambda: torchvision.models.resnext50_32x4d(num_classes=10), True),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), True),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=10), True),
    "regnet_y_400mf": (lambda: torchvision.models.regnet_y_400mf(num_classes=10), True),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(num_classes=10), True),
    "mnasnet0_5": (lambda: torchvision.models.mnasnet0_5(num_classes=10), True),
    "googlenet": (lambda: torchvision.models.googlenet(num_classes=10, init_weights=False), True),
    "swin": (small_swin, False),  # patches are merged before they are normalised
    "swin_v2": (small_swin_v2, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_are_thinned_whole(name: str) -> None:
    make, exact = FAMILIES[name]
    network = built(make)
    report = prune(network, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), 0.5).report()
    assert 0.2 < report.mac_share < 0.35
    assert 0.2 < report.parameter_share < 0.35
    assert report.preserve_exact == exact
