"""Repair: what was redundant comes back exactly, what is frozen or not understood stays, nothing else is touched."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from fakes import mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunefuse_al import Proxy, prune, repair
from prunefuse_al.errors import FallbackWarning, FusionError, InputError, NoEffectWarning, NonFiniteError
from prunefuse_al.network import named_tensors
from prunefuse_al.pruning import Imitation
from prunefuse_al.pruning.repairing import live_bytes
from prunefuse_al.pruning.repairing.ridge import RIDGES, Layer, refit

from .redundant import REDUNDANT, difference, first_ones, pictures, rows

CPU: dict[str, Any] = {"device": "cpu"}


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(module).items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def cut(name: str, *, ratio: float = 0.5) -> tuple[nn.Module, Proxy, Any]:
    """Return a redundant network, the proxy that keeps the first half of its channels, and what makes its data."""
    case = REDUNDANT[name]
    net = case.build().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # some parts are kept whole on purpose
        return net, prune(net, case.data(2), ratio, importance=first_ones, keep=case.keep), case.data


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("name", REDUNDANT)
def test_what_was_redundant_comes_back(name: str, sequential: bool) -> None:
    net, proxy, data = cut(name)
    repaired = repair(net, proxy, data(300), sequential=sequential, **CPU)
    fresh = data(50)
    assert difference(proxy.module, net, fresh) > 0.02
    assert difference(repaired.module.eval(), net, fresh) < 1e-4
    assert repaired.repair_report is not None
    assert all(layer.after < 1e-6 for layer in repaired.repair_report.layers)
    assert repaired.channel_map is proxy.channel_map
    assert repaired.pruning_report is proxy.pruning_report


@pytest.mark.parametrize("name", ["convolutions", "transformer", "lstm"])
def test_networks_and_proxies_are_left_alone(name: str) -> None:
    net, proxy, data = cut(name)
    net.train()
    calls: list[int] = []
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
    handles = [m.register_forward_hook(lambda *_: calls.append(1) and None) for m in (net, proxy.module)]
    before, of_proxy = values(net), values(proxy.module)
    modes = [m.training for m in (*net.modules(), *proxy.module.modules())]
    repaired = repair(net, proxy, data(40), **CPU)
    assert_same(values(net), before)
    assert_same(values(proxy.module), of_proxy)
    assert [m.training for m in (*net.modules(), *proxy.module.modules())] == modes
    assert [m.training for m in repaired.module.modules()] == [m.training for m in proxy.module.modules()]
    assert bool((next(net.parameters()).grad == 1).all())  # type: ignore[union-attr]
    assert all(len(m._forward_hooks) == 1 for m in (net, proxy.module))
    assert all(p.grad is None and p.requires_grad for p in repaired.module.parameters())
    for handle in handles:
        handle.remove()


def test_what_changed_is_kept_and_nothing_else() -> None:
    net, proxy, data = cut("convolutions")
    repaired = repair(net, proxy, data(100), **CPU)
    old, new = values(proxy.module), values(repaired.module)
    assert repaired.repaired is not None
    assert proxy.repaired is None
    assert repaired.repaired.keys() == {name for name in old if not torch.equal(old[name], new[name])}
    assert_same(dict(repaired.repaired), {name: new[name] for name in repaired.repaired})
    assert all(value.untyped_storage().data_ptr() != named_tensors(repaired.module)[name].untyped_storage().data_ptr()
               for name, value in repaired.repaired.items())  # fmt: skip


@pytest.mark.parametrize("name", REDUNDANT)
def test_what_is_frozen_stays(name: str) -> None:
    net = REDUNDANT[name].build().eval()
    for number, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        proxy = prune(net, REDUNDANT[name].data(2), 0.5, importance=first_ones, keep=REDUNDANT[name].keep)
        repaired = repair(net, proxy, REDUNDANT[name].data(100), **CPU)
    still = {name for name, p in net.named_parameters() if not p.requires_grad}
    old, new = values(proxy.module), values(repaired.module)
    assert_same({n: new[n] for n in still}, {n: old[n] for n in still})


def test_frozen_norms_keep_their_statistics() -> None:
    net, _, data = cut("convolutions")
    net[1].requires_grad_(False)  # type: ignore[index]
    proxy = prune(net, data(2), 0.5)
    repaired = repair(net, proxy, data(100), **CPU)
    assert_same(values(repaired.module[1]), values(proxy.module[1]))  # type: ignore[index]
    assert repaired.repair_report is not None
    assert repaired.repair_report.left["1.running_mean"] == "it is frozen"


@pytest.mark.parametrize("name", REDUNDANT)
def test_nothing_removed_is_nothing_to_repair(name: str) -> None:
    net, proxy, data = cut(name, ratio=0.0)
    with pytest.warns(NoEffectWarning, match="nothing is thinned"):
        repaired = repair(net, proxy, data(20), **CPU)
    assert_same(values(repaired.module), values(net))
    assert repaired.module is not proxy.module


def test_the_same_seed_gives_the_same_proxy() -> None:
    net, proxy, data = cut("convolutions")
    options = {**CPU, "rows": 60, "positions": 2}
    first, second, other = (repair(net, proxy, data(200), random_state=seed, **options) for seed in (3, 3, 4))
    assert_same(values(first.module), values(second.module))
    assert not torch.equal(first.module[5].weight, other.module[5].weight)  # type: ignore[index]


def error(found: nn.Module, expected: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((found.eval()(x) - expected(x)).square().mean())


@settings(max_examples=8)
@given(st.integers(0, 99), st.sampled_from([0.3, 0.5]))
def test_trained_networks_answer_more_like_themselves(seed: int, ratio: float) -> None:
    net = mlp(6, 24, 24, 24, 3, seed=seed).train()
    x = rows(400)
    target = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), torch.sin(x[:, 3])], 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    net.eval()
    proxy = prune(net, x[:2], ratio)
    both = [repair(net, proxy, x, sequential=sequential, **CPU) for sequential in (True, False)]
    was = error(proxy.module, net, x)
    assert error(both[0].module, net, x) < 0.5 * was
    assert error(both[1].module, net, x) < was


def test_fitting_to_its_own_inputs_is_no_worse_over_networks() -> None:
    ratios = []
    for seed in range(6):
        net = mlp(6, 24, 24, 24, 24, 3, seed=seed).eval()
        proxy, x = prune(net, rows(2), 0.5), rows(500)
        own, dense = (repair(net, proxy, x, sequential=each, **CPU) for each in (True, False))
        ratios.append(error(own.module, net, x) / error(dense.module, net, x))
    assert np.mean(ratios) < 1


# ---- one layer, against slow versions ----


def layer_of(p: int, d: int, kept: int, outputs: int, *, centred: bool, noise: float = 0.3) -> Layer:
    generator = torch.Generator().manual_seed(p + d)
    mixing = torch.randn(kept, d, generator=generator)
    thin = torch.randn(p, kept, generator=generator) + 1
    dense = thin @ mixing + noise * torch.randn(p, d, generator=generator) + 0.5
    wide = torch.randn(outputs, d, generator=generator)
    if outputs <= d:
        return Layer(dense @ wide.T, thin, None, wide[:, :kept], centred)
    return Layer(dense, thin, wide, wide[:, :kept], centred)


def summed(layer: Layer) -> np.ndarray[Any, Any]:
    return (layer.dense.double() if layer.wide is None else layer.dense.double() @ layer.wide.double().T).numpy()


def slow_ridge(layer: Layer, chosen: np.ndarray[Any, Any], ridge: float) -> tuple[Any, Any]:
    """Return weights and shift by least squares on a design matrix with one row more for each input."""
    t = summed(layer)[chosen]
    x = layer.thin.double().numpy()[chosen]
    means = (t.mean(0), x.mean(0)) if layer.centred else (0 * t[0], 0 * x[0])
    t, x = t - means[0], x - means[1]
    damping = np.sqrt(ridge * (x**2).sum() / x.shape[1]) * np.eye(x.shape[1])
    solved = np.linalg.lstsq(np.vstack([x, damping]), np.vstack([t, np.zeros((len(damping), t.shape[1]))]), rcond=None)
    weight = solved[0].T
    return weight, means[0] - weight @ means[1]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("p", "d", "kept", "outputs"), [(200, 12, 6, 5), (200, 12, 6, 40), (40, 90, 60, 5), (40, 90, 60, 200)]
)
def test_one_layer_against_least_squares(p: int, d: int, kept: int, outputs: int, centred: bool) -> None:
    layer = layer_of(p, d, kept, outputs, centred=centred)
    held = torch.arange(p) % 5 == 4
    fit = refit(layer, held)
    t = summed(layer)[held]
    x = layer.thin.double().numpy()[held]

    def missed(weight: Any, shift: Any) -> float:
        return float(((t - x @ weight.T - shift) ** 2).sum())

    errors = {ridge: missed(*slow_ridge(layer, ~held.numpy(), ridge)) for ridge in RIDGES}
    best = fit.ridge
    assert best is not None
    assert errors[best] <= min(errors.values()) * (1 + 1e-4)  # the smallest ridges give the same weights to rounding
    energy = ((t - t.mean(0)) ** 2).sum() if centred else (t**2).sum()
    assert fit.after == pytest.approx(errors[best] / energy, rel=1e-4)
    assert fit.before == pytest.approx(missed(layer.cut.double().numpy(), 0) / energy, rel=1e-6)
    weight, shift = slow_ridge(layer, np.ones(p, bool), best)
    x = layer.thin.double().numpy()
    np.testing.assert_allclose(x @ fit.weight.numpy().T + fit.shift.numpy(), x @ weight.T + shift, rtol=1e-5, atol=1e-4)


def test_a_layer_that_nothing_betters_stays_as_it_was_cut() -> None:
    dense = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    dense[:, 4:] = 0
    wide = torch.randn(5, 8)
    layer = Layer(dense, dense[:, :4], wide, wide[:, :4], centred=False)
    fit = refit(layer, torch.arange(30) % 5 == 4)
    assert fit.ridge is None
    assert torch.equal(fit.weight, layer.cut.double())


def test_one_channel_that_stays() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    ).eval()
    proxy = prune(net, pictures(2), 0.5)
    assert proxy.module[2].weight.shape[1] == 1  # type: ignore[index]
    report = repair(net, proxy, pictures(60), **CPU).repair_report
    assert report is not None
    assert [layer.name for layer in report.layers] == ["2.weight", "5.weight"]


def test_channels_last() -> None:
    net, _, data = cut("convolutions")
    net = net.to(memory_format=torch.channels_last)
    proxy = prune(net, data(2), 0.5, importance=first_ones)
    repaired = repair(net, proxy, data(300).contiguous(memory_format=torch.channels_last), **CPU)
    assert difference(repaired.module.eval(), net, data(50)) < 1e-4


# ---- what is not understood ----


class Shared(nn.Module):
    """One layer twice, a layer whose weight is computed, experts with a matrix each, and rows that mix."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.plain = nn.Linear(6, 16), nn.Linear(16, 16)
        self.twice, self.normed = nn.Linear(16, 16), nn.Linear(16, 16)
        nn.utils.parametrizations.weight_norm(self.normed)
        self.experts, self.head = nn.Parameter(torch.randn(2, 16, 16) / 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.plain(torch.relu(self.into(x))))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        x = torch.relu(self.normed(x))
        x = torch.bmm(x.expand(2, *x.shape), self.experts).sum(0)
        return self.head(x - x.mean(0))


def test_what_is_not_understood_is_left_with_the_reason() -> None:
    net = Shared().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        proxy = prune(net, rows(4), 0.5)
    repaired = repair(net, proxy, rows(60), **CPU)
    report = repaired.repair_report
    assert report is not None
    assert report.left["twice.weight"] == "it is used more than once"
    assert report.left["head.weight"] == "its inputs do not follow the rows"
    assert "no product was seen" in report.left["normed.parametrizations.weight.original1"]
    assert "no product was seen" in report.left["experts"]
    old, new = values(proxy.module), values(repaired.module)
    assert_same({name: new[name] for name in report.left}, {name: old[name] for name in report.left})
    assert "head.weight: its inputs do not follow the rows" in str(report)


def test_wider_than_what_was_seen() -> None:
    """More inputs than positions: what was seen is given back, and no more is claimed."""
    net = mlp(6, 200, 3).eval()
    proxy = prune(net, rows(2), 0.5)
    repaired = repair(net, proxy, rows(40), **CPU)
    assert error(repaired.module, net, rows(40)) < 0.2 * error(proxy.module, net, rows(40))


def test_few_rows() -> None:
    net, proxy, data = cut("perceptron")
    repaired = repair(net, proxy, data(3), **CPU)
    assert repaired.repair_report is not None
    assert "only 3 positions were seen" in repaired.repair_report.left["2.weight"]
    assert_same(values(repaired.module), values(proxy.module))


# ---- data of every kind ----


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 16, 16, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.net(torch.cat([first, second], 1))


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Any:
        return {"numbers": self.x[row]}, 0


def test_the_form_of_the_data_makes_no_difference() -> None:
    net, x = mlp(6, 16, 16, 3).eval(), rows(80)
    proxy = prune(net, x[:2], 0.5)
    wanted = values(repair(net, proxy, x, **CPU).module)
    dataset = torch.utils.data.TensorDataset(x, torch.zeros(80, dtype=torch.int64))
    for data, options in (
        (x.numpy(), {}),
        (dataset, {}),
        (dataset, {"num_workers": 1}),
        (Items(x), {"collate": lambda inputs: torch.stack([entry["numbers"] for entry in inputs])}),
        (x / 2, {"transform": lambda batch: batch * 2}),
        (x, {"batch_size": 7}),
    ):
        found = values(repair(net, proxy, data, **options, **CPU).module)
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_several_inputs() -> None:
    net, x = TwoInputs().eval(), rows(80)
    data = {"first": x[:, :2], "second": x[:, 2:]}
    proxy = prune(net, {k: v[:2] for k, v in data.items()}, 0.5)
    repaired = repair(net, proxy, data, **CPU)
    with torch.no_grad():
        errors = [float((m.eval()(**data) - net(**data)).square().mean()) for m in (repaired.module, proxy.module)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_precisions(kind: torch.dtype) -> None:
    net, x = mlp(6, 32, 32, 3).to(kind).eval(), rows(300).to(kind)
    proxy = prune(net, x[:2], 0.5)
    repaired = repair(net, proxy, x, **CPU)
    assert {p.dtype for p in repaired.module.parameters()} == {kind}
    assert error(repaired.module, net, x) < 0.5 * error(proxy.module, net, x)


def test_memory_is_bounded_and_what_it_costs_is_said() -> None:
    net, proxy, data = cut("convolutions")
    with pytest.warns(FallbackWarning, match=r"of 200 rows fit into 0.0003 GiB"):
        repaired = repair(net, proxy, data(200), memory=3e-4, **CPU)
    assert repaired.repair_report is not None
    assert 10 < repaired.repair_report.rows < 200
    assert difference(repaired.module.eval(), net, data(50)) < difference(proxy.module, net, data(50))


def test_positions_are_the_first_to_go() -> None:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(6):
        layers += [nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 36, 3)).eval()
    proxy = prune(net, pictures(2), 0.5)
    with pytest.warns(FallbackWarning, match=r"of 1000 positions per input channel fit into 0.0004 GiB"):
        repaired = repair(net, proxy, pictures(20), memory=4e-4, positions=1000, **CPU)
    assert repaired.repair_report is not None
    assert repaired.repair_report.rows == 20


# ---- refusals ----


def test_data_that_cannot_be_used_is_refused() -> None:
    net, proxy, data = cut("perceptron")
    bad = data(20)
    bad[3, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="row 3"):
        repair(net, proxy, bad, **CPU)
    with pytest.raises(InputError, match="0 rows"):
        repair(net, proxy, bad[:0], **CPU)
    with pytest.raises(InputError, match="failed on a batch"):
        repair(net, proxy, bad[:, :4].nan_to_num(), **CPU)


def test_activations_without_end_are_refused() -> None:
    net, proxy, data = cut("perceptron")
    with torch.no_grad():
        net[0].weight.mul_(1e30)  # type: ignore[index]
        net[2].weight.mul_(1e30)  # type: ignore[index]
    with pytest.raises(NonFiniteError, match=r"'4\.weight'"):
        repair(net, proxy, data(20), **CPU)


def test_a_proxy_of_another_network_is_refused() -> None:
    _, proxy, data = cut("perceptron")
    with pytest.raises(FusionError, match="not cut from model"):
        repair(mlp(6, 16, 3), proxy, data(20), **CPU)
    with pytest.raises(InputError, match="proxy="):
        repair(mlp(6, 16, 3), proxy.module, data(20), **CPU)  # type: ignore[arg-type]


def test_a_repaired_proxy_trains_and_can_be_copied() -> None:
    net, proxy, data = cut("transformer")
    repaired = copy.deepcopy(repair(net, proxy, data(60), **CPU))
    repaired.module.train()(data(8)).square().sum().backward()
    assert all(p.grad is not None for p in repaired.module.parameters())


def test_in_inference_mode_it_comes_back_trainable() -> None:
    net, proxy, data = cut("convolutions")
    with torch.inference_mode():
        repaired = repair(net, proxy, data(60), **CPU)
    repaired.module(pictures(4)).sum().backward()


# ---- imitating the dense network ----


@pytest.mark.parametrize("on", ["both", "outputs", "features"])
def test_imitating_brings_it_nearer(on: str) -> None:
    net, x = mlp(6, 32, 32, 32, 3).eval(), rows(600)
    proxy = prune(net, x[:2], 0.5)
    options = {"distil": Imitation(epochs=6, lr=3e-3, batch_size=32, on=on)}
    plain, taught = (repair(net, proxy, x[:400], **each, **CPU) for each in ({}, options))
    assert taught.repair_report is not None
    assert len(taught.repair_report.imitated) == 6
    assert taught.repair_report.imitated[-1] < 0.9 * taught.repair_report.imitated[0]
    assert error(taught.module, net, x[400:]) < 0.9 * error(plain.module, net, x[400:])


@pytest.mark.parametrize("name", REDUNDANT)
def test_imitating_leaves_what_is_frozen_and_goes_on_from_what_it_says(name: str) -> None:
    net = REDUNDANT[name].build().eval()
    for number, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    before = values(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        proxy = prune(net, REDUNDANT[name].data(2), 0.5, importance=first_ones, keep=REDUNDANT[name].keep)
        repaired = repair(net, proxy, REDUNDANT[name].data(40), distil=1, **CPU)
    assert_same(values(net), before)
    still = {name for name, p in net.named_parameters() if not p.requires_grad}
    old, new = values(proxy.module), values(repaired.module)
    assert_same({n: new[n] for n in still}, {n: old[n] for n in still})
    assert repaired.repaired is not None
    assert_same(dict(repaired.repaired), {n: new[n] for n in new if not torch.equal(new[n], old[n])})
    assert [m.training for m in repaired.module.modules()] == [m.training for m in proxy.module.modules()]
    assert all(p.grad is None for p in (*repaired.module.parameters(), *net.parameters()))
    assert [p.requires_grad for p in repaired.module.parameters()] == [p.requires_grad for p in net.parameters()]


def test_imitating_is_the_same_for_the_same_seed() -> None:
    net, proxy, data = cut("convolutions")
    first, second, other = (
        values(repair(net, proxy, data(60), distil=1, random_state=seed, **CPU).module) for seed in (0, 0, 1)
    )
    assert_same(first, second)
    assert not torch.equal(first["5.weight"], other["5.weight"])


class Functional(nn.Module):
    """Its last layer is no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.weight = nn.Linear(6, 16), nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.into(x)) @ self.weight.T


def test_features_that_cannot_be_looked_at_are_refused() -> None:
    net = Functional().eval()
    proxy = prune(net, rows(2), 0.5)
    before = values(proxy.module)
    with pytest.raises(InputError, match=r"on='outputs'"):
        repair(net, proxy, rows(40), distil=Imitation(epochs=1, on="features"), **CPU)
    assert_same(values(proxy.module), before)


def test_imitating_at_a_hopeless_rate_is_refused() -> None:
    net, proxy, data = cut("perceptron")
    with pytest.raises(NonFiniteError, match=r"lr=1e\+30"):
        repair(net, proxy, data(100), distil=Imitation(epochs=3, lr=1e30, batch_size=16), **CPU)


class Lengths(torch.utils.data.Dataset[Any]):
    """Sequences, one of which is longer than the others."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> Any:
        generator = torch.Generator().manual_seed(row)
        return torch.randn(7 if row == 7 else 3, 6, generator=generator), 0


def test_the_teacher_is_asked_again_where_what_it_says_cannot_be_kept() -> None:
    net = nn.Sequential(mlp(6, 32, 32, 3)).eval()
    asked: list[int] = []
    handle = net.register_forward_hook(lambda *_: asked.append(1) and None)
    proxy = prune(net, rows(2), 0.5)
    padded: dict[str, Any] = {"collate": lambda x: nn.utils.rnn.pad_sequence(x, batch_first=True)}
    counts = []
    for data, options in ((rows(40), {}), (rows(40), {"memory": 4e-6}), (Lengths(), padded)):
        asked.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            how = Imitation(epochs=3, batch_size=10)
            repaired = repair(net, proxy, data, distil=how, **options, **CPU)
        counts.append(len(asked))
        assert repaired.repair_report is not None
        assert repaired.repair_report.imitated[-1] < repaired.repair_report.imitated[0]
    handle.remove()
    assert counts[1] >= counts[0] + 6  # of 12 steps
    assert counts[2] >= counts[0] + 6


def test_views_of_weights_are_no_memory_that_rows_take() -> None:
    layer, x = nn.Linear(1000, 1000), torch.zeros(2, 1000)
    with torch.no_grad():
        assert live_bytes(lambda: layer(x)) == 2 * 1000 * 4
        assert live_bytes(lambda: (x + 1, x.relu())) == 2 * 2 * 1000 * 4
