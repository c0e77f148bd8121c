"""Each measure of importance against a slow version written from its paper, over everything a channel owns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from prunefuse_al import errors, prune
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning import GlobalScope, Hessian, Taylor
from tests.laws.random_networks import randomise

N = 8  # channels of every hidden layer
Part = tuple[str, int, list[int]]  # tensor, dimension, positions


class Residual(nn.Module):
    """A stream that one layer both reads and writes, an inner layer, and a head over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, N, 3, padding=1)
        self.bn1, self.same, self.bn2 = nn.BatchNorm2d(N), nn.Conv2d(N, N, 1, bias=False), nn.BatchNorm2d(N)
        self.inner, self.outer = nn.Conv2d(N, N, 1), nn.Conv2d(N, N, 3, padding=1)
        self.bn3, self.head = nn.BatchNorm2d(N), nn.Linear(N * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.same(torch.relu(self.bn1(x)))
        x = x + self.outer(torch.relu(self.bn3(self.inner(self.bn2(x)))))
        return self.head(x.flatten(1))


def stream(i: int) -> list[Part]:
    """Return everything that channel i of the residual stream owns."""
    columns = list(range(4 * i, 4 * i + 4))
    norms: list[Part] = [(f"{bn}.{name}", 0, [i]) for bn in ("bn1", "bn2") for name in ("weight", "bias")]
    writers: list[Part] = [("stem.weight", 0, [i]), ("stem.bias", 0, [i]), ("same.weight", 0, [i])]
    outer: list[Part] = [("outer.weight", 0, [i]), ("outer.bias", 0, [i])]
    return [*writers, *outer, *norms, ("same.weight", 1, [i]), ("inner.weight", 1, [i]), ("head.weight", 1, columns)]


def inner(i: int) -> list[Part]:
    """Return everything that channel i of the inner layer owns."""
    own: list[Part] = [(name, 0, [i]) for name in ("inner.weight", "inner.bias", "bn3.weight", "bn3.bias")]
    return [*own, ("outer.weight", 1, [i])]


OWNED = {"stem": [stream(i) for i in range(N)], "inner": [inner(i) for i in range(N)]}
X = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.fixture
def network() -> Residual:
    network = Residual()
    randomise(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.fill_(1)  # has seen data
    return network


def rankings(network: nn.Module, importance: Any) -> dict[str, list[int]]:
    """Return the channels of each layer, best first, as prune keeps one more of them each time."""
    orders: dict[str, list[int]] = {layer: [] for layer in OWNED}
    for width in range(1, N + 1):
        tensors = prune(network, X, (N - width) / N, importance=importance).channel_map.tensors
        for layer, order in orders.items():
            index = tensors[f"{layer}.weight"].kept[0]
            kept = set(range(N) if index is None else index.tolist())
            assert set(order) < kept
            order += kept - set(order)
    return orders


def slices(network: nn.Module, part: Part) -> list[Tensor]:
    name, dim, positions = part
    return [named_tensors(network)[name].detach().double().select(dim, p).flatten() for p in positions]


def axis_mean(network: nn.Module, part: Part, measure: Callable[[Tensor], Tensor]) -> float:
    tensor = named_tensors(network)[part[0]].detach().double()
    return float(measure(tensor).sum()) / tensor.shape[part[1]]


def entries_owned(network: nn.Module, parts: list[Part]) -> dict[str, Tensor]:
    """Return for each tensor which of its entries a channel owns: each once, whether by row or by column."""
    masks: dict[str, Tensor] = {}
    for name, dim, positions in parts:
        mask = masks.setdefault(name, torch.zeros(named_tensors(network)[name].shape, dtype=torch.bool))
        for position in positions:
            mask.select(dim, position).fill_(True)
    return masks


# --- the oracles: one number for a channel, given what every channel of its group owns


def oracle_l2(network: nn.Module, group: list[list[Part]], i: int) -> float:
    return sum(
        float(s.square().sum()) / axis_mean(network, part, torch.square)
        for part in group[i]
        for s in slices(network, part)
    )


def oracle_l1(network: nn.Module, group: list[list[Part]], i: int) -> float:
    return sum(
        float(s.abs().sum()) / axis_mean(network, part, torch.abs) for part in group[i] for s in slices(network, part)
    )


def oracle_lamp(network: nn.Module, group: list[list[Part]], i: int) -> float:
    norms = [oracle_l2(network, group, j) for j in range(len(group))]
    return norms[i] / sum(norm for norm in norms if norm >= norms[i])


def oracle_bn_scale(network: nn.Module, group: list[list[Part]], i: int) -> float:
    scales = [part for part in group[i] if part[0].startswith("bn") and part[0].endswith("weight")]
    return sum(float(s.abs()) for part in scales for s in slices(network, part)) / len(scales)


def oracle_fpgm(network: nn.Module, group: list[list[Part]], i: int) -> float:
    def vector(j: int) -> Tensor:
        return torch.cat(
            [s / math.sqrt(axis_mean(network, part, torch.square)) for part in group[j] for s in slices(network, part)]
        )

    return sum(float((vector(i) - vector(j)).norm()) for j in range(len(group)))


def gradients(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    twin = copy.deepcopy(network).eval()
    names, parameters = zip(*twin.named_parameters(), strict=True)
    loss = F.cross_entropy(twin(x), y)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def oracle_taylor(network: nn.Module, group: list[list[Part]], i: int) -> float:
    g, masks = gradients(network, X, Y), entries_owned(network, group[i])
    return sum(float((g[n] * named_tensors(network)[n].detach())[mask].sum()) for n, mask in masks.items()) ** 2


def oracle_hessian(network: nn.Module, group: list[list[Part]], i: int) -> float:
    masks, total = entries_owned(network, group[i]), 0.0
    for row in range(len(X)):
        g = gradients(network, X[row : row + 1], Y[row : row + 1])
        total += sum(
            float((g[n] * named_tensors(network)[n].detach()).square()[mask].sum()) for n, mask in masks.items()
        )
    return total / len(X) / 2


CASES: dict[str, tuple[Any, Callable[[nn.Module, list[list[Part]], int], float]]] = {
    "l2": ("l2", oracle_l2),
    "l1": ("l1", oracle_l1),
    "lamp": ("lamp", oracle_lamp),
    "bn_scale": ("bn_scale", oracle_bn_scale),
    "fpgm": ("fpgm", oracle_fpgm),
    "taylor": (Taylor(X, Y), oracle_taylor),
    "hessian": (Hessian(X, Y), oracle_hessian),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_are_ranked_as_the_paper_says(network: Residual, name: str) -> None:
    importance, oracle = CASES[name]
    expected = {}
    for layer, group in OWNED.items():
        scores = [oracle(network, group, i) for i in range(N)]
        expected[layer] = sorted(range(N), key=lambda i: -scores[i])
    assert rankings(network, importance) == expected
    assert expected["stem"] != expected["inner"], "the two groups must not agree by chance"


def test_the_measures_differ_from_one_another(network: Residual) -> None:
    """Or the test above could not tell them apart; lamp alone orders a group as l2 does."""
    orders = {
        name: tuple(sorted(range(N), key=lambda i: -oracle(network, OWNED["stem"], i)))
        for name, (_, oracle) in CASES.items()
    }
    assert orders["lamp"] == orders["l2"]
    assert len(set(orders.values())) == len(orders) - 1


RAW = ("lamp", "bn_scale", "taylor", "hessian")  # comparable between layers as they are


@pytest.mark.parametrize("name", CASES)
def test_globally_the_weakest_of_all_leave(network: Residual, name: str) -> None:
    importance, oracle = CASES[name]
    scores = {}
    for layer, group in OWNED.items():
        own = [oracle(network, group, i) for i in range(N)]
        mean = 1 if name in RAW else float(np.mean(own))
        scores.update({(layer, i): score / mean for i, score in enumerate(own)})
    expected = set(sorted(scores, key=lambda channel: -scores[channel])[:N])
    kept = prune(network, X, 0.5, importance=importance, scope=GlobalScope(0.0)).channel_map
    found = set()
    for layer in OWNED:
        index = kept.tensors[f"{layer}.weight"].kept[0]
        found |= {(layer, i) for i in (range(N) if index is None else index.tolist())}
    missing = {layer for layer in OWNED if not any(own == layer for own, _ in expected)}
    assert len(found) == N
    assert len(found ^ expected) == 2 * len(missing)  # a layer that would be emptied keeps its best channel


# --- data-driven measures leave everything as it was, and read data as the network needs it


@pytest.mark.parametrize("kind", [Taylor, Hessian])
def test_the_network_is_left_alone(network: Residual, kind: Any) -> None:
    network.train()
    network.head.eval()
    network.stem.weight.requires_grad_(False)
    network.head.weight.grad = torch.full_like(network.head.weight, 7.0)
    before = {n: t.detach().clone() for n, t in named_tensors(network).items()}
    state = torch.random.get_rng_state()
    entries = kind(X, Y).measure(network).entries
    assert all(torch.equal(t, before[n]) for n, t in named_tensors(network).items())
    assert network.training
    assert not network.head.training
    assert torch.equal(network.head.weight.grad, torch.full_like(network.head.weight, 7.0))
    assert network.inner.weight.grad is None
    assert not network.stem.weight.requires_grad
    assert not network.stem._forward_hooks
    assert torch.equal(torch.random.get_rng_state(), state)
    assert entries["stem.weight"].any(), "frozen weights matter too"


def test_gradients_do_not_depend_on_the_batches(network: Residual, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Taylor(X, Y).measure(network).entries
    monkeypatch.setattr("prunefuse_al.pruning.sensitivity.BATCH", 4)
    parts = Taylor(X, Y).measure(network).entries
    for name, value in whole.items():
        assert torch.allclose(parts[name], value, rtol=1e-4, atol=1e-7), name


def test_norms_that_have_seen_no_data_get_statistics_from_it(network: Residual) -> None:
    fresh, seen = copy.deepcopy(network), copy.deepcopy(network)
    for norm in (fresh.bn1, fresh.bn2, fresh.bn3):
        norm.reset_running_stats()
    for norm in (seen.bn1, seen.bn2, seen.bn3):
        norm.reset_running_stats()
        norm.momentum = 1.0
    seen.train()(X)
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-7)
        for a, b in zip(
            Taylor(X, Y).measure(fresh).entries.values(), Taylor(X, Y).measure(seen).entries.values(), strict=True
        )
    )
    assert not fresh.bn1.num_batches_tracked


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Any:
        return X[row], Y[row]


@pytest.mark.parametrize(
    "source",
    [
        Taylor(X.double().numpy(), Y.numpy()),
        Taylor(Rows()),
        Taylor(X, F.one_hot(Y, 3).float()),
        Taylor(X, Y, loss=lambda logits, labels: F.cross_entropy(logits, labels, reduction="none")),
        Taylor(X, Y, loss=nn.CrossEntropyLoss()),
    ],
    ids=["arrays", "dataset", "soft targets", "a loss per row", "a module"],
)
def test_forms_of_data_and_loss(network: Residual, source: Taylor) -> None:
    for name, value in Taylor(X, Y).measure(network).entries.items():
        assert torch.allclose(source.measure(network).entries[name], value, rtol=1e-4, atol=1e-7)


def test_several_inputs_by_name_and_recurrent_layers() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cell, self.head = nn.Embedding(11, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(9, 2)

        def forward(self, ids: Tensor, age: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(torch.cat([self.cell(self.embed(ids))[0][:, -1], age], 1))}

    inputs = {"ids": torch.arange(20).reshape(4, 5) % 11, "age": torch.ones(4, 1)}
    proxy = prune(Text(), inputs, 0.5, importance=Hessian(inputs, torch.tensor([0, 1, 0, 1])))
    assert proxy.module.cell.hidden_size == 4


def test_a_loss_of_ones_own_is_what_is_measured(network: Residual) -> None:
    """Only the first output counts, so nothing else of the head matters."""
    entries = Hessian(X, Y, loss=lambda logits, labels: logits[:, 0].square()).measure(network).entries
    assert entries["head.weight"][0].any()
    assert not entries["head.weight"][1:].any()


@pytest.mark.parametrize("kind", [Taylor, Hessian])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X,), errors.InputError, "there are 6 inputs and no labels; pass"),
        ((X, Y[:4]), errors.InputError, "X has 6 rows and y has 4 rows"),
        ((X, Y + 2), errors.InputError, r"labels \d..[34] found, the network has 3 outputs"),
        ((X, Y - 1), errors.InputError, r"labels -1..(1|-1) found"),
        ((X, torch.zeros(6, 2)), errors.InputError, r"soft targets have shape \[\d, 2\] and logits \[\d, 3\]"),
        ((X[:, :2], Y), errors.InputError, r"the network failed on a batch float32 \[\d, 2, 2, 2\]"),
        ((X / 0, Y), errors.NonFiniteError, "NaN or infinity in rows 0, 1, 2"),
        ((X, Y, lambda logits, labels: logits.sum() / 0), errors.NonFiniteError, "the loss of a batch of . rows is"),
    ],
)
def test_data_that_cannot_be_used(network: Residual, kind: Any, arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        prune(network, X, 0.5, importance=kind(*arguments))


@pytest.mark.parametrize(("name", "kind"), [("taylor", "Taylor"), ("hessian", "Hessian")])
def test_names_that_need_data_say_what_to_pass(network: Residual, name: str, kind: str) -> None:
    with pytest.raises(
        errors.InputError, match=rf"importance='{name}' needs a batch of labelled data: pass .*{kind}\("
    ):
        prune(network, X, 0.5, importance=name)


def test_repr_does_not_print_the_data() -> None:
    assert repr(Taylor(X, Y)) == "Taylor(loss=None)"


# --- norms: fallbacks and ties


def test_groups_without_a_norm_fall_back_and_say_so() -> None:
    network = nn.Sequential(nn.Linear(5, N), nn.ReLU(), nn.Linear(N, N), nn.BatchNorm1d(N), nn.ReLU(), nn.Linear(N, 3))
    with pytest.warns(errors.FallbackWarning, match=r"1 of 2 groups of channels go through no norm .*0.weight"):
        proxy = prune(network, torch.zeros(2, 5), 0.5, importance="bn_scale")
    fallback, plain = proxy.channel_map.tensors, prune(network, torch.zeros(2, 5), 0.5).channel_map.tensors
    assert torch.equal(fallback["0.weight"].kept[0], plain["0.weight"].kept[0])
    assert fallback["2.weight"].kept[0].tolist() == [0, 1, 2, 3]


def test_a_network_without_norms_is_refused() -> None:
    network = nn.Sequential(nn.Linear(5, N), nn.ReLU(), nn.Linear(N, 3))
    with pytest.raises(errors.InputError, match="no channel that can be thinned goes through one; pass another"):
        prune(network, torch.zeros(2, 5), 0.5, importance="bn_scale")


def test_norms_of_ones_own_are_found_by_their_name() -> None:
    class ScaleNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(1.0, N + 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x

    network = nn.Sequential(nn.Linear(5, N), ScaleNorm(), nn.Linear(N, 3))
    kept = prune(network, torch.zeros(2, 5), 0.5, importance="bn_scale").channel_map.tensors["0.weight"].kept[0]
    assert kept.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("importance", ["bn_scale", "fpgm", "l2", "lamp"])
def test_equal_channels_leave_every_layer_alike_and_the_first_stay(importance: str, scope: str) -> None:
    """As all scales are at initialisation: a global scope must not take it all from one layer, or nothing."""
    network = Residual()
    for p in network.parameters():
        nn.init.ones_(p)
    maps = [
        prune(network, X, 0.5, importance=importance, scope=scope, random_state=seed).channel_map.tensors
        for seed in (0, 1)
    ]
    for tensors in maps:
        assert tensors["stem.weight"].kept[0].tolist() == [0, 1, 2, 3]
        assert tensors["inner.weight"].kept[0].tolist() == [0, 1, 2, 3]
