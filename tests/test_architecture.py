"""Another network in the same shapes is refused by name when a selector is loaded, unless that is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import blobs, seeded
from torch import Tensor, nn

from prunefuse_al.errors import CheckpointError
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.selector.architecture import architecture, difference
from prunefuse_al.training import TorchTrainer

X, Y = blobs(60)


def layers(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), *between, nn.Linear(16, 3))


class Net(nn.Module):
    """Keeps what it is told, and more that it is not told."""

    def __init__(self, act: Any = F.relu, heads: int = 2, mode: str = "mean", hidden: Any = (16,)) -> None:
        super().__init__()
        self.act, self.heads, self.mode, self.hidden = act, heads, mode, hidden
        self.first, self.last, self.calls = nn.Linear(6, 16), nn.Linear(16, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.act(self.first(x)))


def written(activation: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    """Return a class that is called `Written`, whose code names an activation: directly, or where it calls."""

    def forward_relu(self: Any, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))

    def forward_gelu(self: Any, x: Tensor) -> Tensor:
        """Says the same in more words."""
        hidden = self.first(x)
        return self.last(F.gelu(hidden))

    def forward_helped(self: Any, x: Tensor) -> Tensor:
        return self.last(activated(self.first(x)))

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    forwards = {F.relu: forward_relu, F.gelu: forward_gelu, activated: forward_helped}
    return type("Written", (nn.Module,), {"__init__": init, "forward": forwards[activation]})


def activated(x: Tensor) -> Tensor:
    return torch.tanh(x)


RELU = nn.ReLU()
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str]] = {
    # what was saved, what is at hand, the words
    "activation": (lambda: layers(RELU), lambda: layers(nn.GELU()), "'1' is a ReLU in the file, a GELU in the network"),
    "activation, nested": (
        lambda: layers(nn.Sequential(RELU)),
        lambda: layers(nn.Sequential(nn.Tanh())),
        "'1.0' is a ReLU in the file, a Tanh in the network",
    ),
    "slope": (
        lambda: layers(nn.LeakyReLU(0.01)),
        lambda: layers(nn.LeakyReLU(0.3)),
        "'1' (LeakyReLU) has negative_slope=0.01 in the file, 0.3 in the network",
    ),
    "approximation": (
        lambda: layers(nn.GELU()),
        lambda: layers(nn.GELU("tanh")),
        "'1' (GELU) has approximate='none' in the file, 'tanh' in the network",
    ),
    "dropout": (
        lambda: layers(RELU, nn.Dropout(0.1)),
        lambda: layers(RELU, nn.Dropout(0.5)),
        "'2' (Dropout) has p=0.1 in the file, 0.5 in the network",
    ),
    "one more": (lambda: layers(RELU), lambda: layers(RELU, nn.Identity()), "fit the file"),
    "one more beside": (
        lambda: nn.ModuleDict({"a": nn.Linear(6, 3)}),
        lambda: nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.ReLU()}),
        "'b' (ReLU) is not in the file",
    ),
    "one less beside": (
        lambda: nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.ReLU()}),
        lambda: nn.ModuleDict({"a": nn.Linear(6, 3)}),
        "'b' (ReLU) is not in the network",
    ),
    "stride": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, stride=1)),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, stride=2)),
        "'0' (Conv2d) has stride=(1, 1) in the file, (2, 2) in the network",
    ),
    "heads": (
        lambda: nn.Sequential(nn.MultiheadAttention(16, 2)),
        lambda: nn.Sequential(nn.MultiheadAttention(16, 4)),
        "'0' (MultiheadAttention) has num_heads=2 in the file, 4 in the network",
    ),
    "norm first": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32),
        lambda: nn.TransformerEncoderLayer(16, 4, 32, norm_first=True),
        "the network (TransformerEncoderLayer) has norm_first=False in the file, True in the network",
    ),
    "a function": (Net, lambda: Net(F.gelu), "the network (Net) has act=relu in the file, gelu in the network"),
    "a number": (Net, lambda: Net(heads=4), "the network (Net) has heads=2 in the file, 4 in the network"),
    "text": (Net, lambda: Net(mode="max"), "the network (Net) has mode='mean' in the file, 'max' in the network"),
    "code": (
        lambda: written(F.relu)(),
        lambda: written(F.gelu)(),
        "the code of Written named relu where it now names gelu",
    ),
    "code in a function": (
        lambda: written(F.relu)(),
        lambda: written(activated)(),
        "the code of Written named F, relu where it now names activated, tanh, torch",
    ),
}


@pytest.mark.parametrize("name", sorted(PAIRS.keys() - {"one more"}))
def test_what_is_another_network_is_named(name: str) -> None:
    one, other, words = PAIRS[name]
    before, after = seeded(one), seeded(other)
    assert difference(architecture(before), after, "model") == f"the model is not the one that was saved: {words}"
    assert difference(architecture(before), seeded(one), "model") == ""
    assert difference(architecture(after), seeded(other), "model") == ""


def used() -> nn.Module:
    net = Net()
    net(X)
    return net


def extended() -> nn.Module:
    net = Net()
    net.newer = "set by a later version"
    return net


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Net, used),  # a counter is nothing that it was told
        (Net, extended),
        (Net, lambda: Net(hidden=[16])),
        (lambda: layers(nn.ReLU()), lambda: layers(nn.ReLU(inplace=True))),
        (lambda: nn.LayerNorm(4, eps=1e-5), lambda: nn.LayerNorm(4, eps=1e-6)),  # a file sets it
        (lambda: layers(RELU), lambda: layers(RELU).eval()),
        (lambda: Net(lambda x: x.relu()), lambda: Net(lambda x: x.relu())),
    ],
)
def test_what_is_the_same_network_is_taken(one: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> None:
    assert difference(architecture(seeded(one)), seeded(other), "model") == ""


def test_code_of_a_library_is_left_to_it() -> None:
    found = architecture(seeded(lambda: nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32), Net())))
    assert list(found["code"]) == ["Net"]
    assert found["code"]["Net"] == ["act", "calls", "first", "last"]


def saved(folder: Path, make: Callable[[], nn.Module], **options: Any) -> PrunedProxySelector:
    trainer = TorchTrainer(2, progress=False, device="cpu")
    chosen = PrunedProxySelector(seeded(make), scorer="margin", trainer=trainer, random_state=0, **options)
    chosen.fit(X, Y).save(folder / "s")
    return chosen


@pytest.mark.parametrize("name", ["activation", "slope", "a function", "code", "dropout"])
def test_a_selector_is_not_loaded_into_another_network_without_a_word(name: str, tmp_path: Path) -> None:
    one, other, words = PAIRS[name]
    chosen = saved(tmp_path, one)
    model = seeded(other, 5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        PrunedProxySelector.load(tmp_path / "s", model)
    assert words in str(caught.value)
    assert "or pass accept_changes=True if it computes the same or is meant to differ" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    loaded = PrunedProxySelector.load(tmp_path / "s", model, accept_changes=True)
    assert loaded.round == 1
    again = PrunedProxySelector.load(tmp_path / "s", seeded(one, 5))
    np.testing.assert_array_equal(again.query(X, 9), chosen.query(X, 9))


def test_another_network_as_proxy_is_compared_as_well(tmp_path: Path) -> None:
    model, proxy, other = (seeded(lambda act=act: layers(act)) for act in (nn.ReLU(), nn.ReLU(), nn.Tanh()))
    saved(tmp_path, lambda: layers(RELU), proxy=proxy)
    with pytest.raises(CheckpointError, match="the proxy is not the one that was saved: '1' is a ReLU in the file"):
        PrunedProxySelector.load(tmp_path / "s", model, proxy=other)


def test_a_renamed_class_is_taken_where_that_is_said(tmp_path: Path) -> None:
    class Renamed(Net):
        pass

    chosen, model = saved(tmp_path, Net), seeded(Renamed)
    with pytest.raises(CheckpointError, match=r"the file is of a Net, the model is a Renamed.*accept_changes=True"):
        PrunedProxySelector.load(tmp_path / "s", model)
    loaded = PrunedProxySelector.load(tmp_path / "s", model, accept_changes=True)
    np.testing.assert_array_equal(loaded.query(X, 9), chosen.query(X, 9))
