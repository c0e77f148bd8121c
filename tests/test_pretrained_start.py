"""A pretrained start: the proxy is repaired, what it learned is added back, and nothing that was known is lost."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import assert_same, blobs, mlp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, TorchTrainer, fuse, prune, repair
from prunefuse_al.errors import FallbackWarning, InputError
from prunefuse_al.fusing import Copy, Delta
from prunefuse_al.network import looks_trained
from prunefuse_al.pruning import Activation

X, Y = blobs(300)
TRAIN, POOL = slice(0, 120), slice(120, 300)


def trainer(**options: Any) -> TorchTrainer:
    return TorchTrainer(**{"epochs": 6, "lr": 0.05, "progress": False, "device": "cpu", **options})


def network(norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 32), norm(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    net = network()
    trainer(epochs=30).fit(net, (X[TRAIN], Y[TRAIN]), seed=0)
    return net


selector = partial(fakes.selector, scorer="margin")


def outputs(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(net).eval()(X[POOL])


# ---- what counts as trained


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, partial(nn.GroupNorm, 4)])
def test_normalisations_tell_whether_a_network_was_trained(norm: Any) -> None:
    net = network(norm)
    assert not looks_trained(net)
    branch = network(norm)
    nn.init.zeros_(branch[1].weight)  # as residual branches start
    assert not looks_trained(branch)
    trainer(epochs=1).fit(net, (X, Y), seed=0)
    assert looks_trained(net)


def test_a_network_that_was_only_called_is_not_trained() -> None:
    net = network()
    net.train()(X[:20])
    assert not looks_trained(net)
    for _ in range(20):
        net(X[:20])
    assert looks_trained(net)
    net[1].num_batches_tracked.zero_()  # as other programs write it
    assert looks_trained(net)


def test_without_normalisations_the_user_says_so(trained: nn.Module) -> None:
    assert (selector(mlp(6, 16, 3)).options.pretrained, selector(trained).options.pretrained) == (False, "auto")
    told = selector(mlp(6, 16, 3), pretrained=True).prepare(X[POOL])
    assert [row.stage for row in told.costs.rows()] == ["prune", "repair"]


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_what_is_no_answer_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r'pretrained=.*pass True, False, or "auto"'):
        selector(mlp(6, 16, 3), pretrained=value)


# ---- the proxy


def test_a_prepared_proxy_is_what_repair_makes(trained: nn.Module) -> None:
    chosen = selector(trained).prepare(X[POOL])
    options = chosen.options
    cut = prune(trained, X[:2], 0.5, importance=Activation(X[POOL]))
    expected = repair(trained, cut, X[POOL], device="cpu", random_state=options.seed("prune"))
    assert_same(chosen.model, expected.module)
    assert chosen.proxy.repaired is not None
    rows = {row.stage: row for row in chosen.costs.rows()}
    assert rows["repair"].macs > 0
    bare = selector(trained, repair=False, recalibrate=False).prepare(X[POOL])
    far, near = (float((outputs(each.model) - outputs(trained)).square().mean()) for each in (bare, chosen))
    assert near < far / 2


class Begun(TorchTrainer):
    """Keeps what it was given to train."""

    def fit(self, model: nn.Module, data: Any, **options: Any) -> Any:
        self.kept.append(copy.deepcopy(model))
        return super().fit(model, data, **options)


def begun(network: nn.Module, **options: Any) -> tuple[PrunedProxySelector, nn.Module]:
    watched = Begun(epochs=2, lr=0.01, progress=False, device="cpu")
    watched.kept = []  # copies of a trainer add to the same
    chosen = selector(network, trainer=watched, unlabelled=X[POOL], **options).fit(X[TRAIN], Y[TRAIN])
    return chosen, watched.kept[0]


def test_a_repaired_proxy_with_a_new_head_trains_from_the_head_that_fits(trained: nn.Module) -> None:
    fresh = copy.deepcopy(trained)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fresh[-1] = nn.Linear(32, 3)
    chosen, network = begun(fresh)
    start = chosen._state.start.module  # type: ignore[union-attr]
    head = sorted(name for name, p in network.named_parameters() if not torch.equal(p, start.get_parameter(name)))
    assert head == ["5.bias", "5.weight"]
    with torch.no_grad():
        given = start.eval()[:-1](X[TRAIN]).double()
        right = (network.eval()(X[TRAIN]).argmax(1) == Y[TRAIN]).double().mean()
    scaler = StandardScaler().fit(given)
    solver = LogisticRegression(C=0.01, max_iter=5000).fit(scaler.transform(given), Y[TRAIN])
    assert float(right) == pytest.approx(solver.score(scaler.transform(given), Y[TRAIN]), abs=0.01)
    (row,) = [row for row in chosen.costs.rows() if row.stage == "head"]
    assert row.samples == 120
    assert_same(chosen._state.begun.network, network)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("what", ["answers already", "not repaired", "at initialisation", "frozen", "goes on"])
def test_other_proxies_train_from_the_head_that_they_have(trained: nn.Module, what: str) -> None:
    net = copy.deepcopy(trained if what != "at initialisation" else network())
    if what in ("not repaired", "frozen"):
        with torch.no_grad():
            net[-1].weight.mul_(-1)  # answers nothing rightly
    net[-1].requires_grad_(what != "frozen")
    chosen, start = begun(net, repair=what != "not repaired", warm_start=what == "goes on")
    if what == "goes on":
        chosen.fit(X[TRAIN], Y[TRAIN])
    assert torch.equal(start[-1].weight, chosen._state.start.module[-1].weight)  # type: ignore[union-attr]


def test_data_for_repair_is_unlabelled_then_recalibration_data_then_what_is_there(trained: nn.Module) -> None:
    told = selector(trained, unlabelled=X[POOL]).fit(X[TRAIN], Y[TRAIN])
    other = selector(trained, recalibration_data=X[POOL]).fit(X[TRAIN], Y[TRAIN])
    alone = selector(trained).fit(X[TRAIN], Y[TRAIN])
    assert_same(told._state.start.module, other._state.start.module)  # type: ignore[union-attr]
    assert not torch.equal(told._state.start.module[0].weight, alone._state.start.module[0].weight) or not torch.equal(
        told._state.start.module[3].weight,  # type: ignore[union-attr]
        alone._state.start.module[3].weight,  # type: ignore[union-attr]
    )


def test_arguments_of_repair_are_handed_on(trained: nn.Module) -> None:
    few = selector(trained, repair={"rows": 60}).prepare(X[POOL])
    report = few.proxy.repair_report
    assert report is not None
    assert report.rows == 60
    with pytest.raises(InputError, match=r"repair=.*there is no 'epochs' to set; known: batch_size"):
        selector(trained, repair={"epochs": 3})
    with pytest.raises(InputError, match="repair='yes'; pass True, False, or a dict"):
        selector(trained, repair="yes")


def test_what_cannot_be_repaired_is_said_and_cut_as_before(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise InputError("no such rows")

    monkeypatch.setattr("prunefuse_al.proxies.pruned.repair", fails)
    chosen = selector(trained)
    with pytest.warns(FallbackWarning, match="is not repaired: no such rows"):
        chosen.prepare(X[POOL])
    assert [row.stage for row in chosen.costs.rows()] == ["prune", "recalibrate"]
    for asked in ({"pretrained": True}, {"repair": {"rows": 50}}):
        with pytest.raises(InputError, match="no such rows"):
            selector(trained, **asked).prepare(X[POOL])


# ---- the way back


def test_an_untrained_repaired_proxy_gives_the_network_itself(trained: nn.Module) -> None:
    chosen = selector(trained, recalibrate=False).prepare(X[POOL])
    assert_same(chosen.fuse(X[POOL]), trained)
    assert_same(fuse(trained, chosen.proxy, cross="delta"), trained)
    assert_same(fuse(trained, chosen.proxy, cross="auto"), trained)


def test_of_a_proxy_that_was_not_repaired_delta_is_copy(trained: nn.Module) -> None:
    proxy = prune(trained, X[:2], 0.5)
    trainer().fit(proxy.module, (X[TRAIN], Y[TRAIN]), seed=0)
    assert_same(fuse(trained, proxy, cross="delta"), fuse(trained, proxy, cross="copy"))
    assert_same(fuse(trained, proxy, cross=Delta(0)), trained)


def test_auto_goes_by_the_network() -> None:
    new, old = network(), network()
    trainer(epochs=2).fit(old, (X, Y), seed=0)
    assert_same(fuse(new, prune(new, X[:2], 0.5), cross="auto"), fuse(new, prune(new, X[:2], 0.5), cross="preserve"))
    proxy = prune(old, X[:2], 0.5)
    assert_same(fuse(old, proxy, cross="auto"), fuse(old, proxy, cross="delta"))


def test_harm_is_not_taken_home(trained: nn.Module) -> None:
    """A proxy that has unlearned everything leaves the dense network as it was: weight 0 is among the choices."""
    chosen = selector(trained, recalibrate=False).prepare(X[POOL])
    with torch.no_grad():
        for parameter in chosen.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 5)
    state: Any = chosen._state
    object.__setattr__(state, "labelled", fakes_dataset())
    assert_same(chosen.fuse(), trained)


def fakes_dataset() -> Any:
    from prunefuse_al.data import as_dataset

    return as_dataset(X[TRAIN], Y[TRAIN])


def test_a_target_starts_no_further_from_what_the_network_knows(trained: nn.Module) -> None:
    """Law 9: on the labelled rows the fused start is at least as good as the network itself."""
    loss = nn.CrossEntropyLoss()
    chosen = selector(trained, recalibrate=False).fit(X[TRAIN], Y[TRAIN])
    with torch.no_grad():
        start, own = (loss(copy.deepcopy(net).eval()(X[TRAIN]), Y[TRAIN]) for net in (chosen.fuse(), trained))
    assert start <= own + 1e-6


def test_what_is_frozen_stays_and_is_said(trained: nn.Module) -> None:
    dense = copy.deepcopy(trained)
    dense[3].weight.requires_grad_(False)
    proxy = prune(dense, X[:2], 0.5)
    with torch.no_grad():
        proxy.module[3].weight.add_(1)
    with pytest.warns(FallbackWarning, match=r"fuse\(cross='delta'\).*what the proxy learned there to be added"):
        target = fuse(dense, proxy, cross="delta")
    assert torch.equal(target[3].weight, dense[3].weight)
    repaired = repair(dense, proxy, X[POOL], device="cpu")
    kept = proxy.channel_map.tensors["3.weight"].kept
    assert kept[0] is not None
    assert torch.equal(repaired.module[3].weight, proxy.module[3].weight)


@pytest.mark.parametrize("weight", ["all", float("nan"), [1]])
def test_a_weight_is_a_number(weight: Any) -> None:
    with pytest.raises(InputError, match=r"weight=.*how much of what was learned"):
        Delta(weight)
    assert Delta().weight is None


# ---- files, copies, hosts


@pytest.mark.parametrize("cross", ["auto", Delta(0.5), Copy(0.5)])
def test_it_comes_back_from_a_file(trained: nn.Module, tmp_path: Path, cross: Any) -> None:
    chosen = selector(trained, cross=cross, unlabelled=X[POOL]).fit(X[TRAIN], Y[TRAIN])
    chosen.save(tmp_path / "file")
    loaded = PrunedProxySelector.load(tmp_path / "file", network())  # of other weights, which do not look trained
    assert loaded.options.pretrained == "auto"
    assert loaded.proxy.repaired is not None
    np.testing.assert_array_equal(loaded.query(X, 9), chosen.query(X, 9))
    data = (X[TRAIN], Y[TRAIN])
    for other in (loaded, pickle.loads(pickle.dumps(chosen)), copy.deepcopy(chosen)):
        assert_same(other.fit_target(*data), chosen.fit_target(*data))


def test_an_estimator_takes_the_pool_it_knows(trained: nn.Module) -> None:
    from sklearn.base import clone

    est = PruneFuseEstimator(trained, trainer=trainer(), unlabelled=X[POOL].numpy(), scorer="margin", random_state=0)
    assert clone(est).unlabelled is est.unlabelled
    est.fit(X[TRAIN].numpy(), Y[TRAIN].numpy())
    assert "repair" in est.costs_.totals()
    alone = selector(trained, trainer=trainer(), unlabelled=X[POOL]).fit(X[TRAIN], Y[TRAIN])
    np.testing.assert_array_equal(est.query(X.numpy(), 9), alone.query(X, 9))
