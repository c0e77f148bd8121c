"""What is not thinned: the network's outputs, found by tracing, and what `keep` names in any form."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.networks import cifar_resnet
from prunefuse_al import errors, prune

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.zeros(2, 3, 16, 16)


class Twice(nn.Module):
    """A layer used at two depths and known by two names, another one, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.shared, self.middle = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 20)
        self.again, self.leave, self.head = self.shared, nn.Linear(20, 16), nn.Linear(16, 3)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.shared(torch.relu(self.enter(x))))))
        return self.head(self.norm(torch.relu(self.leave(torch.relu(self.middle(x))))))


def widths(network: nn.Module, keep: Any) -> dict[str, int]:
    return {w.name.removesuffix(".weight"): w.proxy for w in prune(network, X, 0.5, keep=keep).report().widths}


THINNED = {"enter": 6, "shared": 6, "again": 6, "middle": 10, "leave": 8, "head": 3}
STREAM = {"enter": 12, "shared": 12, "again": 12}  # what the shared layer reads and writes are the same channels


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ((), {}),
        ([], {}),
        ("middle", {"middle": 20}),
        (["middle"], {"middle": 20}),
        ("mid*", {"middle": 20}),
        ("middle.weight", {"middle": 20}),
        ("middle.bias", {"middle": 20}),
        ("[lm]*.bias", {"middle": 20, "leave": 16}),
        (nn.LayerNorm, {"leave": 16}),
        ("norm", {"leave": 16}),
        ("shared", STREAM),
        ("again", STREAM),
        ("again.weight", STREAM),
        (("middle", nn.LayerNorm), {"middle": 20, "leave": 16}),
        # named, for the repr of a set follows the hash seed and the processes of pytest-xdist must agree on it
        pytest.param({"middle", "leave"}, {"middle": 20, "leave": 16}, id="set"),
        ("head", {}),  # an output as it is; what the head reads may leave
    ],
    ids=repr,
)
def test_forms_of_keep(keep: Any, kept: dict[str, int]) -> None:
    assert widths(Twice(), keep) == THINNED | kept


def test_modules_of_the_network() -> None:
    network = Twice()
    assert widths(network, network.middle) == THINNED | {"middle": 20}
    assert widths(network, network.again) == THINNED | STREAM
    assert widths(network, [network.norm, "enter"]) == THINNED | STREAM | {"leave": 16}


def test_only_the_outputs_of_a_kept_layer_stay() -> None:
    proxy = prune(Twice(), X, 0.5, keep="middle")
    assert proxy.module.middle.weight.shape == (20, 6)
    assert proxy.module.leave.weight.shape == (8, 20)
    reasons = proxy.report().kept_whole
    assert reasons["middle.weight, dimension 0"] == "kept on request (middle)"
    assert reasons["leave.weight, dimension 1"] == "kept on request (middle)"


def test_a_module_names_everything_within() -> None:
    network = cifar_resnet(8, preactivation=False)
    thin = prune(network, IMAGES, 0.5, keep=network.blocks[1]).module
    assert thin.blocks[1].conv1.weight.shape == (32, 8, 3, 3)
    assert thin.blocks[1].conv2.weight.shape == (32, 32, 3, 3)
    assert thin.blocks[2].conv1.weight.shape == (32, 32, 3, 3)
    pattern = prune(network, IMAGES, 0.5, keep="blocks.1.conv*").module
    assert pattern.blocks[1].conv1.weight.shape == (32, 8, 3, 3)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("nothing", "keep='nothing' matches no layer with channels"),
        (["middle", "nothing"], "keep='nothing' matches"),
        (nn.Conv2d, "keep=<class .*Conv2d'> matches"),
        (nn.ReLU(), r"keep=ReLU\(\); pass .* modules of this model"),
        ("Middle", "keep='Middle' matches"),
        (3, "keep=3; pass names or patterns, module types or modules"),
        (["middle", None], "keep=None; pass names"),
    ],
)
def test_what_names_nothing_is_refused(keep: Any, message: str) -> None:
    with pytest.raises(errors.InputError, match=message):
        prune(Twice(), X, 0.5, keep=keep)


def test_a_module_of_another_network_is_refused() -> None:
    network = Twice()
    with pytest.raises(errors.InputError, match="pass names or patterns, module types or modules of this model"):
        prune(network, X, 0.5, keep=copy.deepcopy(network).middle)


# --- outputs are found by following them, not by their number of channels


def test_a_hidden_layer_as_wide_as_the_classes_is_thinned() -> None:
    network = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    assert [w.proxy for w in prune(network, X, 0.5).report().widths] == [5, 5, 10]


class Heads(nn.Module):
    """Several outputs, in a structure, one of them made before the last layer, one of them a hidden layer's sum."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.first, self.second, self.early = nn.Linear(16, 3), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(x))
        return {
            "logits": self.first(torch.relu(self.left(x))),
            "more": [self.second(torch.relu(self.right(x))), (self.early(x), {"sum": x.sum(1)})],
        }


def test_the_outputs_of_several_heads_are_kept() -> None:
    found = {w.name: w.proxy for w in prune(Heads(), X, 0.5).report().widths}
    expected = {"body": 8, "left": 8, "right": 8, "first": 3, "second": 16, "early": 5}
    assert found == {f"{name}.weight": width for name, width in expected.items()}


def test_a_hidden_layer_that_is_given_out_is_kept_on_request() -> None:
    class Features(Heads):
        def forward(self, x: Tensor) -> Any:
            x = torch.relu(self.body(x))
            hidden = torch.relu(self.left(x))
            return self.first(hidden), hidden

    network = Features()
    del network.right, network.second, network.early
    assert [w.proxy for w in prune(network, X, 0.5).report().widths] == [8, 8, 3]
    assert [w.proxy for w in prune(network, X, 0.5, keep="outputs").report().widths] == [8, 16, 3]
