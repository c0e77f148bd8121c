"""What `fuse` promises beside the laws: a new module, in the mode and on the device of the network, and refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from examples.networks import ViT, cifar_resnet
from prunefuse_al import errors, fuse, prune


@pytest.fixture(autouse=True)
def _forked_rng(_global_rng_untouched: None) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def mlp(hidden: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def test_a_new_module_in_the_mode_of_the_network() -> None:
    network = mlp().eval()
    proxy = prune(network, torch.zeros(2, 8), 0.5)
    proxy.module.train()
    target = fuse(network, proxy)
    assert target is not network
    assert not target.training
    assert proxy.module.training
    assert not {id(p) for p in target.parameters()} & {id(p) for p in network.parameters()}
    assert all(p.grad is None and p.requires_grad for p in target.parameters())


def test_zeroed_cross_weights_receive_gradient() -> None:
    """Function-preserving fusion may not freeze what it switched off: the random half has to join in."""
    network = mlp()
    target = fuse(network, prune(network, torch.zeros(2, 8), 0.5))
    cross = target[2].weight == 0
    assert cross.any()
    target(torch.randn(32, 8)).square().sum().backward()
    assert (target[2].weight.grad[cross] != 0).float().mean() > 0.9


def test_fused_start_keeps_the_accuracy_of_a_trained_proxy() -> None:
    x, y = torch.randn(64, 3, 8, 8), torch.randint(0, 10, (64,))
    network = cifar_resnet(8)
    proxy = prune(network, x[:2], 0.5)
    optimiser = torch.optim.SGD(proxy.module.parameters(), 0.05, 0.9)
    for _ in range(15):
        optimiser.zero_grad()
        nn.functional.cross_entropy(proxy.module(x), y).backward()
        optimiser.step()
    proxy.module.eval()
    before = proxy.module(x)
    after = fuse(network.eval(), proxy)(x)
    assert (before.argmax(1) == y).float().mean() > 0.5
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert torch.allclose(after, before, atol=1e-4)
    plain = fuse(network, proxy, cross="copy")(x)
    assert not torch.allclose(plain, before, atol=1e-2)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_transformers_are_fused_exactly_through_layer_norm(ratio: float) -> None:
    network = ViT(size=16, depth=2).eval()
    proxy = prune(network, torch.randn(2, 3, 16, 16), ratio)
    for parameter in proxy.module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(fuse(network, proxy)(x), proxy.module(x), atol=1e-4)
    # Three quarters of a width cannot be copied evenly: there the statistics are adjusted instead.
    share = 0.75 if ratio == 0.25 else 1
    assert fuse(network, proxy).norm.eps == pytest.approx(network.norm.eps * share)
    assert fuse(network, proxy, cross="copy").norm.eps == network.norm.eps


def test_another_network_is_refused() -> None:
    proxy = prune(mlp(), torch.zeros(2, 8), 0.5)
    with pytest.raises(errors.FusionError, match=r"'0.weight' has shape \[20, 8\], the channel map expects \[16, 8\]"):
        fuse(mlp(20), proxy)
    with pytest.raises(errors.FusionError, match="network and proxy differ in"):
        fuse(nn.Linear(8, 3), proxy)
    proxy.module[0] = nn.Linear(8, 7)
    with pytest.raises(errors.FusionError, match=r"proxy: '0.weight' has shape \[7, 8\]"):
        fuse(mlp(), proxy)
    with pytest.raises(errors.InputError, match="cross='keep'"):
        fuse(mlp(), proxy, cross="keep")
