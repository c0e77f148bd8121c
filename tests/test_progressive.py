"""Progressive pruning in the selector: the ratio rises while the proxy is trained, and all else stays true."""

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
from fakes import PlainTrainer, assert_same, batch_norm, blobs, mlp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.random_networks import Spec, build, example, specs
from torch import Tensor, nn

from prunefuse_al import ProgressivePruning, PrunedProxySelector, prune
from prunefuse_al.errors import FusionError, InputError, PruningError
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning import rebuild
from prunefuse_al.training import Distillation

X, Y = blobs(160)
WIDTHS = (6, 16, 12, 3)


trainer = partial(fakes.trainer, epochs=5, lr=0.1)


def selector(model: nn.Module | None = None, **options: Any) -> PrunedProxySelector:
    options = {"trainer": trainer(), "random_state": 0, "progressive": ProgressivePruning(3, 3), **options}
    return PrunedProxySelector(mlp(*WIDTHS) if model is None else model, 0.5, **options)


def widths(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()}


@pytest.mark.parametrize(
    "importance", ["l2", "l1", "random", lambda name, tensor, dim: -torch.arange(tensor.shape[dim])]
)
def test_the_last_widths_are_those_of_pruning_at_once(importance: Any) -> None:
    chosen = selector(batch_norm(), importance=importance).fit(X, Y)
    assert widths(chosen.model) == widths(prune(batch_norm(), X[:2], 0.5).module)
    assert chosen.proxy.report().pruning_ratio == 0.5
    assert str(chosen.model) == str(rebuild(batch_norm(), chosen.proxy.channel_map))
    assert len(chosen.query(X, 9)) == 9
    with torch.no_grad():
        torch.testing.assert_close(chosen.fuse().eval()(X), chosen.model.eval()(X), rtol=1e-4, atol=1e-5)
    assert (chosen.fit_target()(X).argmax(1) == Y).float().mean() > 0.9


def test_channels_are_chosen_by_what_was_learnt_so_each_round_has_its_own() -> None:
    chosen, at_once = selector(), selector(progressive=None)
    maps = [chosen.fit(X[part], Y[part]).proxy.channel_map for part in (slice(0, 60), slice(60, 160), slice(0, 60))]
    assert maps[0] != maps[1]
    assert maps[0] == maps[2]  # a round is a function of its data
    assert at_once.fit(X[:60], Y[:60]).proxy.channel_map != maps[0]
    assert_same(selector().fit(X[:60], Y[:60]).model, chosen.fit(X[:60], Y[:60]).model)


def test_macs_are_counted_at_the_widths_they_were_spent_at() -> None:
    chosen = selector().fit(X, Y)
    rows = chosen.costs.rows()
    assert [row.stage for row in rows] == ["prune", *["prune"] * 3, "train_proxy"]
    thin = [prune(mlp(*WIDTHS), X[:2], 0.5 * step / 3).module for step in range(4)]
    sizes = [sum(m.in_features * m.out_features for m in net.modules() if isinstance(m, nn.Linear)) for net in thin]
    inputs = [net.get_submodule("0").out_features * 6 for net in thin]  # type: ignore[operator]
    epochs = [1, 1, 1, 2]
    dense = 3 * sizes[0] - inputs[0]
    assert rows[-1].forward_macs == sum(160 * e * size for e, size in zip(epochs, sizes, strict=True)) + 2 * sizes[0]
    assert (
        rows[-1].macs
        == sum(160 * e * (3 * size - own) for e, size, own in zip(epochs, sizes, inputs, strict=True)) + 2 * sizes[0]
    )
    assert rows[-1].dense_macs == 5 * 160 * dense + 2 * sizes[0]
    assert rows[-1].samples == 5 * 160 + 2  # two rows are tried before the training starts
    parameters = [sum(p.numel() for p in net.parameters()) for net in thin]
    assert [row.parameters for row in rows] == [parameters[3], *parameters[1:], parameters[3]]
    at_once = selector(progressive=None).fit(X, Y)
    assert at_once.costs.rows()[-1].macs < rows[-1].macs < dense * 5 * 160


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("sync_every", [None, 2])
def test_it_can_be_saved_between_any_rounds(tmp_path: Path, rounds: int, sync_every: int | None) -> None:
    chosen = selector(batch_norm(), sync_every=sync_every, scorer="margin")
    for number in range(rounds):
        chosen.fit(X[: 60 + 20 * number], Y[: 60 + 20 * number])
    chosen.save(tmp_path / "s")
    copies = [PrunedProxySelector.load(tmp_path / "s", batch_norm()), pickle.loads(pickle.dumps(chosen))]
    for other in copies:
        assert other.options.progressive == ProgressivePruning(3, 3)
        np.testing.assert_array_equal(other.query(X, 20), chosen.query(X, 20))
        assert other.proxy.channel_map == chosen.proxy.channel_map
        assert_same(other.fuse(), chosen.fuse())
    picks = [each.fit(X[:120], Y[:120]).query(X, 20) for each in (chosen, *copies)]
    np.testing.assert_array_equal(picks[0], picks[1])
    np.testing.assert_array_equal(picks[0], picks[2])


def test_a_synced_target_is_what_the_next_proxy_starts_as() -> None:
    chosen = selector(sync_every=1, target_trainer=trainer(epochs=2)).fit(X[:60], Y[:60])
    target = chosen.fit_target()
    chosen.fit(X, Y)
    assert chosen._state.start.module is chosen._state.dense
    assert_same(chosen._state.dense, target)
    with torch.no_grad():
        torch.testing.assert_close(chosen.fuse()(X), chosen.model(X), rtol=1e-4, atol=1e-5)


def test_a_warm_start_goes_on_thin() -> None:
    chosen = selector().fit(X[:60], Y[:60])
    before, rows = chosen.proxy.channel_map, len(chosen.costs)
    chosen.fit(X, Y, warm_start=True)
    assert chosen.proxy.channel_map == before
    assert [row.stage for row in chosen.costs.rows()[rows:]] == ["train_proxy"]


def test_the_dense_baseline_and_the_teacher_are_left_alone() -> None:
    dense = PrunedProxySelector(
        mlp(*WIDTHS), 0, trainer=trainer(), progressive=ProgressivePruning(3, 3), random_state=0
    ).fit(X, Y)
    plain = PrunedProxySelector(mlp(*WIDTHS), 0, trainer=trainer(), random_state=0).fit(X, Y)
    assert_same(dense.model, plain.model)
    taught = selector(distillation=Distillation(0.5)).fit(X, Y)
    before = copy.deepcopy(taught.model.state_dict())
    taught.fit_target()
    torch.testing.assert_close(taught.model.state_dict(), before, rtol=0, atol=0)


def test_globally_the_weights_of_the_moment_decide_on_the_widths() -> None:
    chosen = selector(scope="global").fit(X, Y)
    kept = [chosen.model.get_submodule(name).out_features for name in ("0", "2")]
    assert sum(kept) == pytest.approx(14, abs=1)


def test_a_step_that_leads_too_far_is_left_out_and_a_wrong_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """More careful readings of a network may keep more whole at one ratio than at another."""
    instead: dict[float, float] = {}

    def other_widths(model: nn.Module, inputs: Any, ratio: float, **options: Any) -> Any:
        return prune(model, inputs, instead.get(round(ratio, 2), ratio), **options)

    monkeypatch.setattr("prunefuse_al.proxies.pruned.prune", other_widths)
    instead[0.17] = 0.7
    chosen = selector().fit(X, Y)
    assert widths(chosen.model) == widths(prune(mlp(*WIDTHS), X[:2], 0.5).module)
    dense, *rest = (row.parameters for row in chosen.costs.rows() if row.stage == "prune")
    assert rest[0] == sum(p.numel() for p in mlp(*WIDTHS).parameters()) > rest[1] > rest[2] == dense
    instead[0.5] = 0.4
    with pytest.raises(PruningError, match="cannot be reached step by step in this network; leave progressive= out"):
        chosen.fit(X, Y)
    assert chosen.round == 1


class OwnLoop(PlainTrainer):
    """A user's loop that keeps the protocol."""

    def fit(self, model: nn.Module, data: Any, *, on_epoch: Any = None, **_: Any) -> float:  # type: ignore[override]
        x, y = (torch.stack([torch.as_tensor(data[i][part]) for i in range(len(data))]) for part in (0, 1))
        optimizer = torch.optim.AdamW(model.parameters(), 0.02)
        for epoch in range(self.epochs):
            if on_epoch is not None:
                on_epoch(epoch, optimizer)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())


class Ignores(PlainTrainer):
    def fit(self, model: nn.Module, data: Any, **_: Any) -> float:  # type: ignore[override]
        return super().fit(model, data)


def test_a_loop_of_ones_own_keeps_the_protocol_or_is_told() -> None:
    own = selector(trainer=OwnLoop(epochs=30), fine_tune_lr_scale=None).fit(X, Y)
    assert widths(own.model) == widths(prune(mlp(*WIDTHS), X[:2], 0.5).module)
    assert (own.model(X).argmax(1) == Y).float().mean() > 0.9
    ignoring = selector(trainer=Ignores(epochs=30), fine_tune_lr_scale=None)
    with pytest.raises(InputError, match=r"Ignores\.fit ended and 3 steps were still due, the last one before epoch 3"):
        ignoring.fit(X, Y)
    assert (ignoring.round, len(ignoring.costs)) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer": PlainTrainer()}, r"PlainTrainer\.fit takes no on_epoch.*on_epoch\(epoch, optimizer\)"),
        ({"trainer": trainer(epochs=3)}, "ends after 3 epochs, but TorchTrainer trains for 3"),
        ({"progressive": 20}, r"progressive=20; pass ProgressivePruning"),
        ({"proxy": mlp(6, 4, 3)}, "progressive= prunes the dense network.*one of the two"),
        ({"sync_every": 2, "sync_importance": "same"}, "sync_importance='same' says how to choose before"),
    ],
)
def test_what_does_not_go_together_is_refused_at_the_door(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        selector(**options)


shares = st.tuples(st.sampled_from([0.1, 0.25, 0.4]), st.sampled_from([0.5, 0.6, 0.7]))


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(specs, shares, st.sampled_from(["l2", "random"]))
def test_pruning_twice_is_one_composed_map(spec: Spec, ratios: tuple[float, float], importance: str) -> None:
    """The law progressive pruning rests on, with other weights in between, as training leaves them."""
    network = build(spec)
    outer = prune(network, example(), ratios[0], importance=importance, random_state=0).channel_map
    other = build(Spec(**{**vars(spec), "seed": spec.seed + 1}))
    whole = prune(other, example(), ratios[1], importance=importance, random_state=0, within=outer).channel_map
    inner = whole.relative_to(outer)
    composed = outer.compose(inner)
    assert dict(composed.tensors) == dict(whole.tensors)
    twice = inner.extract(outer.extract(_state(other)))
    once = whole.extract(_state(other))
    assert all(torch.equal(twice[name], once[name]) for name in once)
    at_once = prune(other, example(), ratios[1]).channel_map
    assert {n: t.proxy_shape for n, t in whole.tensors.items()} == {
        n: t.proxy_shape for n, t in at_once.tensors.items()
    }


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in named_tensors(module).items()}


def test_maps_that_are_not_nested_are_told_apart() -> None:
    half, third = (prune(mlp(*WIDTHS), X[:2], ratio).channel_map for ratio in (0.5, 0.3))
    assert half.relative_to(half).tensors == half.relative_to(half).whole().tensors
    with pytest.raises(FusionError, match=r"'0.weight' keeps \[11, 6\] of \[16, 6\], but not out of the \[8, 6\]"):
        third.relative_to(half)
    with pytest.raises(InputError, match="within= is a map of another network"):
        prune(mlp(6, 12, 16, 3), X[:2], 0.5, within=half)
    with pytest.raises(FusionError, match="the maps differ in"):
        third.relative_to(prune(mlp(6, 16, 3), X[:2], 0.5).channel_map)
