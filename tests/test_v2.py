"""V2: between rounds the proxy is fused, the target trained, and the next proxy cut out of that target."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import PlainTrainer, assert_same, batch_norm, blobs, mlp, seeded
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, prune
from prunefuse_al.errors import CostWarning, InputError, NonFiniteError
from prunefuse_al.network.states import named_tensors
from prunefuse_al.selector.state import Trained

X, Y = blobs(160)


class PreNorm(nn.Module):
    """A residual stream read through LayerNorms, which preserving fusion rewrites (epsilon included)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1, self.norm2 = nn.Linear(6, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(torch.relu(self.up(self.norm1(x))))
        logits: Tensor = self.head(self.norm2(x))
        return logits


NETWORKS = {"plain": lambda: mlp(6, 16, 12, 3), "batch": batch_norm, "layer": lambda: seeded(PreNorm)}


trainer = partial(fakes.trainer, epochs=4)


def selector(network: str = "batch", **options: Any) -> PrunedProxySelector:
    options = {"sync_every": 2, "trainer": trainer(), "random_state": 0, "scorer": "margin", **options}
    return PrunedProxySelector(NETWORKS[network](), 0.5, **options)


def stages(chosen: PrunedProxySelector, number: int) -> list[str]:
    return [row.stage for row in chosen.costs.rows() if row.round == number]


def test_every_second_round_ends_with_a_target_that_is_pruned_next() -> None:
    chosen, plain = selector("plain"), selector("plain", sync_every=None)
    for m in (30, 40):
        chosen.fit(X[:m], Y[:m])
        plain.fit(X[:m], Y[:m])
    assert_same(chosen.model, plain.model)  # this round was chosen with the proxy before
    assert (stages(chosen, 1), stages(chosen, 2)) == (["prune", "train_proxy"], ["train_proxy", "sync_fuse", "sync"])
    target = chosen.fit_target()
    assert_same(target, plain.fit_target())
    chosen.fit(X[:50], Y[:50])
    assert stages(chosen, 3) == ["prune", "train_proxy"]
    expected = prune(target, X[:2], 0.5)
    assert chosen.proxy.channel_map == expected.channel_map
    assert isinstance(chosen._state, Trained)
    assert_same(chosen._state.start.module, expected.module)
    assert stages(chosen.fit(X[:60], Y[:60]), 4) == ["train_proxy", "sync_fuse", "sync"]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_proxy_is_fused_into_the_network_it_was_cut_from(network: str) -> None:
    chosen = selector(network)
    for m in (30, 40, 50, 60, 70):
        chosen.fit(X[:m], Y[:m])
    state, fused = chosen._state, chosen.fuse()
    with torch.no_grad():
        torch.testing.assert_close(fused.eval()(X), chosen.model.eval()(X), rtol=1e-4, atol=1e-5)
    copied = PrunedProxySelector.fuse(_with(chosen, cross="copy", recalibrate=False))
    values, kept = named_tensors(copied), chosen.proxy.channel_map.tensors
    for name, dense in named_tensors(state.dense).items():
        expected = dense.detach().clone()
        indices = [torch.arange(n) if k is None else k for n, k in zip(dense.shape, kept[name].kept, strict=True)]
        expected[torch.meshgrid(*indices, indexing="ij") if indices else ()] = named_tensors(chosen.model)[
            name
        ].detach()
        assert torch.equal(values[name], expected), name


def _with(chosen: PrunedProxySelector, **options: Any) -> PrunedProxySelector:
    from dataclasses import replace

    changed = copy.deepcopy(chosen)
    changed.options = replace(changed.options, **options)
    return changed


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rounds", [1, 2])
def test_saved_in_the_middle_it_goes_on_with_the_same_picks(tmp_path: Path, network: str, rounds: int) -> None:
    chosen = selector(network)
    for number in range(rounds):
        chosen.fit(X[: 30 + 10 * number], Y[: 30 + 10 * number])
    chosen.save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", NETWORKS[network]())
    if rounds % 2 == 0:  # the target was trained already: no data is needed
        assert_same(loaded.fit_target(), chosen.fit_target())
    for number in range(rounds, 3):
        m = 30 + 10 * number
        assert_same(loaded.fuse(X[:m]), chosen.fuse(X[:m]))
        np.testing.assert_array_equal(loaded.query(X, 20), chosen.query(X, 20))
        assert_same(loaded.fit(X[:m], Y[:m]).model, chosen.fit(X[:m], Y[:m]).model)
        np.testing.assert_array_equal(loaded.query(X, 20), chosen.query(X, 20))
    assert [row.stage for row in loaded.costs.rows()] == [row.stage for row in chosen.costs.rows()]


def test_a_target_is_trained_once_not_twice_on_the_same_data() -> None:
    chosen = selector(sync_every=1, target_trainer=trainer(epochs=1)).fit(X[:40], Y[:40])
    rows = len(chosen.costs)
    target = chosen.fit_target()
    assert len(chosen.costs) == rows
    assert_same(target, chosen.fit_target(X[:40], Y[:40]))
    assert len(chosen.costs) > rows
    with pytest.raises(InputError, match="fit_target: y and sample_weight came without labelled; pass labelled"):
        chosen.fit_target(None, Y[:40], torch.ones(40))
    with torch.no_grad():
        target.get_parameter("0.weight").zero_()  # the user's own: the next proxy does not see it
    assert chosen.fit_target().get_parameter("0.weight").any()


def test_same_channels_are_kept_without_a_search() -> None:
    long = trainer(epochs=15, lr=0.3)  # enough for the largest channels to be others than at the start
    same = selector(sync_importance="same", trainer=long, target_trainer=long)
    again = selector(trainer=long, target_trainer=long)
    for m in (30, 40):
        same.fit(X[:m], Y[:m])
        again.fit(X[:m], Y[:m])
    before, target = same.proxy.channel_map, same.fit_target()
    same.fit(X[:50], Y[:50])
    assert same.proxy.channel_map == before
    assert again.fit(X[:50], Y[:50]).proxy.channel_map != before
    assert isinstance(same._state, Trained)
    cut = before.extract(target.state_dict())
    weights = {name: value for name, value in same._state.start.module.state_dict().items() if "running" not in name}
    assert all(torch.equal(weights[name], cut[name]) for name in weights if "num_batches" not in name)
    assert selector(sync_importance="l1").fit(X, Y).round == 1


def test_statistics_are_estimated_after_every_prune_and_fuse() -> None:
    chosen = selector(cross="copy")
    for m in (30, 40, 50):
        chosen.fit(X[:m], Y[:m])
    assert stages(chosen, 2) == ["train_proxy", "sync_fuse", "sync_recalibrate", "sync"]
    assert stages(chosen, 3) == ["prune", "recalibrate", "train_proxy"]
    assert isinstance(chosen._state, Trained)
    start: Any = chosen._state.start.module
    hidden = start[0](X[:50])
    torch.testing.assert_close(start[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(start[1].running_var, hidden.var(0), rtol=1e-4, atol=1e-5)
    left = selector(cross="copy", recalibrate=False)
    for m in (30, 40, 50):
        left.fit(X[:m], Y[:m])
    assert not {"recalibrate", "sync_recalibrate"} & left.costs.totals().keys()


def test_what_a_sync_costs_is_paid_to_choose() -> None:
    epochs, rounds = 4, (30, 40, 50, 60)
    chosen = selector("plain")
    for m in rounds:
        chosen.fit(X[:m], Y[:m])
    dense, proxy = (6 * 16 + 16 * 12 + 12 * 3), (6 * 8 + 8 * 6 + 6 * 3)
    totals = chosen.costs.totals()
    per_row = {"dense": 3 * dense - 6 * 16, "proxy": 3 * proxy - 6 * 8}  # no gradient of the inputs
    probes = 2 * len(rounds)  # a trainer tries two rows before it starts
    assert totals["train_proxy"]["macs"] == epochs * sum(rounds) * per_row["proxy"] + probes * proxy
    assert totals["sync"]["macs"] == epochs * (40 + 60) * per_row["dense"] + 4 * dense
    paid = totals["train_proxy"]["macs"] + totals["sync"]["macs"]
    assert chosen.costs.ratio() == pytest.approx(paid / totals["train_proxy"]["dense_macs"])
    chosen.fit_target()
    assert chosen.costs.ratio(total=True) == chosen.costs.ratio()  # the last target came out of the last sync


def test_v2_that_cannot_pay_is_said() -> None:
    share = prune(NETWORKS["plain"](), X[:2], 0.5).report().mac_share
    with pytest.warns(CostWarning, match=rf"sync_every=1 costs about {share + 1:.2f} of choosing.*V1") as caught:
        chosen = selector("plain", sync_every=1).fit(X[:40], Y[:40])
    assert caught[0].filename == __file__
    assert "of the dense loop's MACs: it does not pay after 1 round; syncs alone took 1.0" in str(chosen.costs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen.fit(X[:50], Y[:50])  # said once
        cheap = selector("plain", sync_every=1, target_trainer=trainer(epochs=1)).fit(X[:40], Y[:40])
    assert str(cheap.costs).endswith("of the dense loop's MACs: it pays")


def test_a_sync_that_fails_leaves_the_round_undone() -> None:
    class Breaks(PlainTrainer):
        def fit(self, *args: Any, **kwargs: Any) -> float:
            raise NonFiniteError("diverged")

    chosen = selector("plain", target_trainer=Breaks(epochs=4)).fit(X[:30], Y[:30])
    rows, model = chosen.costs.rows(), chosen.model
    with pytest.raises(NonFiniteError, match="diverged"):
        chosen.fit(X[:40], Y[:40])
    assert (chosen.round, chosen.costs.rows(), chosen.model) == (1, rows, model)


def test_v2_options_that_contradict() -> None:
    for every in (True, 0, 1.5):
        with pytest.raises(InputError, match=rf"sync_every={every}; pass a number of rounds from 1 \(V2\), or None"):
            selector(sync_every=every)
    with pytest.raises(InputError, match="sync_importance='same' says how V2 prunes again"):
        selector(sync_every=None, sync_importance="same")
    with pytest.raises(InputError, match="one of the two"):
        selector(proxy=mlp(6, 4, 3))
