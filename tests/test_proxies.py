"""Kinds of proxies: the ones there are, one of the user's own, and ways back of the user's own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from fakes import blobs, mlp
from torch import nn

from prunefuse_al import FallingRatio, ProgressivePruning, PrunedProxySelector, TorchTrainer, fuse, prune
from prunefuse_al.costs import Stage
from prunefuse_al.errors import FallbackWarning, FusionError, InputError
from prunefuse_al.fusing import Copy, Fusion, Preserve
from prunefuse_al.proxies import Another, AnyProxy, Dense, Prepared, Pruned, Task, Training

X, Y = blobs(60)


def selector(**options: Any) -> PrunedProxySelector:
    trainer = TorchTrainer(3, progress=False, device="cpu")
    return PrunedProxySelector(mlp(6, 16, 3), trainer=trainer, random_state=0, scorer="margin", **options)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- the kinds there are


def test_pruned_says_the_options_itself() -> None:
    told, kind = (
        selector(pruning_ratio=0.75, importance="l1", keep="2"),
        selector(proxy=Pruned(0.75, importance="l1", keep="2")),
    )
    assert (kind.options.pruning_ratio, kind.options.importance, kind.options.keep) == (0.75, "l1", "2")
    np.testing.assert_array_equal(kind.fit(X, Y).query(X, 9), told.fit(X, Y).query(X, 9))


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"importance= was given both to the selector and to proxy=Pruned"):
        selector(importance="l1", proxy=Pruned(importance="bn_scale"))


def test_dense_is_what_nothing_pruned_gives(tmp_path: Path) -> None:
    dense, nothing = selector(proxy=Dense()).fit(X, Y), selector(pruning_ratio=0).fit(X, Y)
    np.testing.assert_array_equal(dense.query(X, 9), nothing.query(X, 9))
    assert same(dense.fit_target(), nothing.fit_target())
    assert dense.proxy.report().mac_share == 1
    dense.save(tmp_path / "file")
    loaded = PrunedProxySelector.load(tmp_path / "file", mlp(6, 16, 3))
    assert loaded.options.proxy == Dense()
    np.testing.assert_array_equal(loaded.query(X, 9), dense.query(X, 9))


def test_dense_takes_what_cannot_be_pruned() -> None:
    class Own(nn.Module):  # nothing in it can be thinned
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.table

    chosen = PrunedProxySelector(Own(), proxy=Dense(), trainer=TorchTrainer(2, progress=False), random_state=0)
    assert len(chosen.prepare(X).query(X, 4)) == len(chosen.fit(X, Y).query(X, 4)) == 4


def test_another_is_a_network_given() -> None:
    one, other = selector(proxy=mlp(6, 4, 3)).fit(X, Y), selector(proxy=Another(mlp(6, 4, 3))).fit(X, Y)
    np.testing.assert_array_equal(one.query(X, 9), other.query(X, 9))
    with pytest.raises(FusionError, match="which has no place in the dense one"):
        other.fuse()


@pytest.mark.parametrize("proxy", [3, Dense, Pruned, object()])
def test_what_is_no_kind_is_refused(proxy: Any) -> None:
    with pytest.raises((InputError, TypeError), match="proxy"):
        selector(proxy=proxy)


@pytest.mark.parametrize("options", [{"sync_every": 1}, {"progressive": ProgressivePruning(1, 1)}])
def test_what_is_never_pruned_excludes_options_of_pruning(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"proxy=Dense\(\) never does"):
        selector(proxy=Dense(), **options)


def test_a_function_of_the_labels_goes_into_pruned_as_well() -> None:
    falling = FallingRatio(0.75, 0.25, labels=(20, 60))
    chosen = selector(proxy=Pruned(falling))
    widths = [chosen.fit(X[:n], Y[:n]).model[0].out_features for n in (20, 60)]
    assert widths == [4, 12]


def test_a_measure_with_labels_goes_with_thinning_while_training() -> None:
    chosen = selector(importance="taylor", progressive=ProgressivePruning(2, 2)).fit(X, Y)
    assert chosen.model[0].out_features == 8


# ---- one of the user's own


@dataclass(frozen=True)
class First:
    """A kind of proxy: the network without its last hidden layers is not needed here, so a fresh small one is made."""

    width: int
    fuses: ClassVar[bool] = False

    def cut(self, task: Task, before: AnyProxy | None = None) -> AnyProxy:
        torch.manual_seed(task.seed("prune"))
        return Another(mlp(6, self.width, 3)).cut(task)

    def prepare(self, task: Task) -> Prepared:
        start = self.cut(task)
        return Prepared(start, start.with_module(copy.deepcopy(start.module)))

    def stale(self, proxy: AnyProxy, n: int) -> bool:
        return False

    def begin(self, task: Task, start: AnyProxy, stage: Stage) -> Training:
        network = copy.deepcopy(start.module)
        return Training(network, lambda: start.with_module(network), begun=start.module)

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        raise FusionError("it has no place there")


def test_a_kind_of_ones_own() -> None:
    with torch.random.fork_rng():
        chosen = selector(proxy=First(5)).fit(X, Y)
        assert chosen.model[0].out_features == 5
        assert len(chosen.query(X, 7)) == 7
        assert chosen.fit_target()[0].out_features == 16
        assert [row.stage for row in chosen.costs.rows()][:2] == ["prune", "train_proxy"]


# ---- ways back of the user's own


@dataclass(frozen=True)
class Half:
    """A way back: half way from the dense network's values to the proxy's, at the proxy's positions."""

    exact: ClassVar[bool] = False

    def __call__(self, dense: nn.Module, proxy: Any) -> nn.Module:
        own = {name: tensor.detach() for name, tensor in dense.state_dict().items()}
        mine = proxy.channel_map.extract(own)
        half = {name: (mine[name] + value.detach()) / 2 for name, value in proxy.module.state_dict().items()}
        dense.load_state_dict(proxy.channel_map.scatter(half, own))
        return dense


def test_a_way_back_of_ones_own() -> None:
    dense = mlp(6, 16, 3)
    proxy = prune(dense, X, 0.5)
    with torch.no_grad():
        proxy.module[0].weight.add_(1)
    target, before = fuse(dense, proxy, cross=Half()), copy.deepcopy(dense)
    kept = proxy.channel_map.tensors["0.weight"].kept[0]
    assert kept is not None
    torch.testing.assert_close(target[0].weight[kept], dense[0].weight[kept] + 0.5)
    assert same(dense, before)
    chosen = selector(cross=Half()).fit(X, Y)
    assert same(chosen.fuse(), fuse(mlp(6, 16, 3), chosen.proxy, cross=Half()))


def test_what_is_frozen_is_put_back_after_it() -> None:
    dense = mlp(6, 16, 3)
    dense[2].weight.requires_grad_(False)
    proxy = prune(dense, X, 0.5)
    with torch.no_grad():
        proxy.module[2].weight.add_(1)
    with pytest.warns(
        FallbackWarning, match=r"1 tensors are frozen in the dense network .* such as '2.weight'"
    ) as said:
        target = fuse(dense, proxy, cross=Half())
    assert said[0].filename == __file__
    assert torch.equal(target[2].weight, dense[2].weight)


@pytest.mark.parametrize(
    "way", [lambda dense, proxy: proxy.module, lambda dense, proxy: mlp(6, 8, 3), lambda d, p: None]
)
def test_a_way_back_that_makes_no_such_network_is_refused(way: Any) -> None:
    way.exact = False
    dense = mlp(6, 16, 3)
    with pytest.raises(FusionError, match="a Fusion returns a network with the tensors of the dense one"):
        fuse(dense, prune(dense, X, 0.5), cross=way)


@pytest.mark.parametrize(("name", "way"), [("preserve", Preserve()), ("copy", Copy()), (0.25, Copy(0.25))])
def test_names_are_aliases(name: Any, way: Fusion) -> None:
    dense = mlp(6, 16, 3)
    proxy = prune(dense, X, 0.5)
    assert same(fuse(dense, proxy, cross=name), fuse(dense, proxy, cross=way))
    one, other = selector(cross=name).fit(X, Y), selector(cross=way).fit(X, Y)
    assert same(one.fit_target(), other.fit_target())
