"""Networks that keep what they computed can be copied, and a stand-in shares the weights and nothing else."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, seeded
from sklearn.base import clone
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, TorchTrainer, fuse, prune
from prunefuse_al.costs.ledger import macs
from prunefuse_al.network.copying import copied, stand_in
from prunefuse_al.network.signals import collect

X, Y = blobs(40)


class Keeps(nn.Module):
    """Keeps what it computed, as Grad-CAM, KL terms and attention maps do."""

    def __init__(self, keep: Any = None) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        self.keep, self.kept = keep, None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.body(x)).relu()
        if self.keep is not None:
            self.kept = self.keep(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def attribute(hidden: Tensor) -> Any:
    return hidden


def in_a_dict(hidden: Tensor) -> Any:
    return {"kl": hidden.square().mean(), "last": {"maps": [hidden, hidden * 2]}}


def in_a_list(hidden: Tensor) -> Any:
    return [hidden, (hidden.sum(), "name")]


def in_an_object(hidden: Tensor) -> Any:
    return SimpleNamespace(q=torch.distributions.Normal(hidden, hidden.exp(), validate_args=False))


KINDS = [attribute, in_a_dict, in_a_list, in_an_object]


def normed(norm: Any) -> nn.Sequential:
    return nn.Sequential(norm(nn.Linear(6, 16)), nn.ReLU(), norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 3))


def networks() -> list[Any]:
    """Return functions that make networks of the kind, each named."""
    norms = (nn.utils.weight_norm, nn.utils.spectral_norm)
    kept = [pytest.param(lambda keep=keep: Keeps(keep), id=keep.__name__) for keep in KINDS]
    hooked = [pytest.param(lambda norm=norm: normed(norm), id=norm.__name__) for norm in norms]
    return kept + hooked


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:V2 with sync_every=2 costs about"),
]


@pytest.mark.parametrize("make", networks())
@pytest.mark.parametrize("used", [True, False])
def test_the_whole_method_with_networks_that_keep_what_they_computed(make: Any, used: bool, tmp_path: Path) -> None:
    network = seeded(make)
    if used:
        network(X)
    trainer = TorchTrainer(2, 16, device="cpu", progress=False)
    chosen = PrunedProxySelector(network, 0.5, trainer=trainer, random_state=0, sync_every=2)
    picked = chosen.fit(X, Y).query(X, 4)
    chosen.fit(X, Y, warm_start=True).fit(X, Y)
    chosen.fit_target()(X).sum().backward()
    again = chosen.query(X, 4)
    assert len(set(picked.tolist())) == 4
    chosen.save(tmp_path / "saved")
    loaded = PrunedProxySelector.load(tmp_path / "saved", network)
    for other in (copy.deepcopy(chosen), pickle.loads(pickle.dumps(chosen)), loaded):
        np.testing.assert_array_equal(other.query(X, 4), again)


@pytest.mark.parametrize("make", networks())
def test_functions_of_a_network_that_was_used(make: Any) -> None:
    network = seeded(make)
    network(X)
    proxy = prune(network, X[:2], 0.5)
    proxy.module(X)
    target = fuse(network, proxy)
    torch.testing.assert_close(target.eval()(X), proxy.module.eval()(X), rtol=1e-4, atol=1e-5)
    assert macs(network, X)[0] > 0
    assert collect(network, X, {"features"}, device="cpu").features is not None


def test_an_estimator_and_its_clones_take_a_network_that_was_used() -> None:
    network = seeded(lambda: Keeps(in_a_dict))
    network(X)
    trainer = TorchTrainer(2, 16, device="cpu", progress=False)
    est = PruneFuseEstimator(network, trainer=trainer, random_state=0).fit(X.numpy(), Y.numpy())
    other = clone(est).fit(X.numpy(), Y.numpy())
    np.testing.assert_array_equal(other.predict_proba(X.numpy()), est.predict_proba(X.numpy()))


@pytest.mark.parametrize("keep", KINDS)
def test_a_copy_has_the_values_and_no_history(keep: Any) -> None:
    network = seeded(lambda: Keeps(keep))
    network(X)
    other = copied(network)
    for mine, its in zip(computed(network.kept), computed(other.kept), strict=True):
        assert torch.equal(mine, its)
        assert (mine.grad_fn is None, its.grad_fn is None) == (False, True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in other.parameters()}


def computed(kept: Any) -> list[Tensor]:
    parts = [kept.q.loc, kept.q.scale] if isinstance(kept, SimpleNamespace) else tree_leaves(kept)
    return [part for part in parts if isinstance(part, Tensor)]


def test_what_is_shared_in_a_network_is_shared_in_its_copy() -> None:
    network = seeded(lambda: Keeps(in_a_dict))
    network.again = network.head  # type: ignore[assignment]
    network(X)
    network.first = network.kept["last"]["maps"][0]  # type: ignore[index]
    other = copied(network)
    assert other.again is other.head
    assert other.first is other.kept["last"]["maps"][0]


def test_a_stand_in_shares_the_weights_and_nothing_else() -> None:
    network = seeded(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)))
    network[0].weight.requires_grad_(False)
    network.tied = network[0].weight
    other = stand_in(network)
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in network.parameters()]
    assert [b.data_ptr() for b in other.buffers()] == [b.data_ptr() for b in network.buffers()]
    assert other.tied is other[0].weight
    assert not other[0].weight.requires_grad
    assert other[1].weight.requires_grad
    other.eval().register_forward_pre_hook(lambda *_: None)
    other.double()
    other.to("meta")
    assert network.training
    assert not network._forward_pre_hooks
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    network(X)


def test_copies_made_within_inference_mode_are_as_good_as_any() -> None:
    network = seeded(lambda: Keeps(in_a_dict))
    with torch.inference_mode():
        for other in (copied(network), stand_in(network)):
            assert not any(tensor.is_inference() for tensor in (*other.parameters(), *other.buffers()))
        assert macs(network, X)[0] == 6 * 16 + 16 * 3
    copied(network)(X).sum().backward()


class Shared(nn.Module):
    """Holds one thing under several names, a hook, and a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.lstm = nn.LSTM(3, 3)
        self.sizes: dict[str, list[int]] = {"widths": [3, 3]}
        self.same = self.sizes
        self.free: list[int] = []
        self.also_free = self.free
        self.register_forward_hook(lambda *_: None)


def test_a_copy_has_the_same_ties_and_nothing_of_the_original() -> None:
    network = seeded(Shared)
    twin = copied(network)
    assert twin.again is twin.first
    assert twin.tied.weight is twin.first.weight
    assert twin.same is twin.sizes
    assert twin.also_free is twin.free
    assert twin.sizes == {"widths": [3, 3]}
    assert len(twin._forward_hooks) == 1
    before, after = dict(network.named_modules()), dict(twin.named_modules())
    assert before.keys() == after.keys()
    for name, module in after.items():
        assert module is not before[name]
        assert type(module) is type(before[name])
        assert vars(module).keys() == vars(before[name]).keys()
        tables = [value for value in vars(module).values() if isinstance(value, dict | set | list)]
        assert not {id(table) for table in tables} & {id(value) for value in vars(before[name]).values()}
    states = network.state_dict(), twin.state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        assert value.data_ptr() != states[1][name].data_ptr()


class SaysHow(nn.Module):
    """Copies itself."""

    def __deepcopy__(self, memo: dict[int, object]) -> SaysHow:
        twin = SaysHow()
        twin.copied_by_itself = True
        return twin


def test_modules_that_say_how_they_are_copied_are_copied_so() -> None:
    assert copied(nn.Sequential(SaysHow()))[0].copied_by_itself
