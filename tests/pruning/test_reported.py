"""Networks that people reported: each is thinned, exactly, or refused in words that name the place and what helps."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured, ln_structured

from prunefuse_al import fuse, prune
from prunefuse_al.errors import NoEffectWarning, PruningError
from prunefuse_al.pruning.generic import make_generic

ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
DIGITS = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
GRAPH = (torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), torch.arange(14).view(2, 7) % 7)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 32), nn.Linear(32, 3)

    def hidden(self, x: Tensor) -> Tensor:
        return self.enter(x).relu()

    def forward(self, x: Tensor) -> Any:
        return self.leave(self.hidden(x))


class Distribution(Two):
    def forward(self, x: Tensor) -> Any:
        return torch.distributions.Categorical(logits=super().forward(x))


class Answer:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class AnObject(Two):
    def forward(self, x: Tensor) -> Any:
        return Answer(super().forward(x))


@dataclasses.dataclass
class Logits:
    logits: Tensor


class Dataclass(Two):
    def forward(self, x: Tensor) -> Any:
        return Logits(super().forward(x))


class Graph(Two):
    def forward(self, x: Tensor, edges: Tensor) -> Any:
        adjacency = torch.zeros(len(x), len(x))
        adjacency[edges[0], edges[1]] = 1
        return self.leave(adjacency @ self.hidden(x))


class History(Two):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Any:
        hidden = self.hidden(x)
        self.kept["hidden"], self.kept["deep"] = hidden, {"twice": [hidden * 2]}
        return self.leave(hidden)


class Dropping(Two):
    def hidden(self, x: Tensor) -> Tensor:
        return F.dropout(super().hidden(x), 0.5, training=True)


class Bayesian(Two):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(torch.randn(3, 32)), nn.Parameter(torch.randn(3, 32))

    def forward(self, x: Tensor) -> Any:
        return F.linear(self.hidden(x), self.mean + self.spread.exp() * torch.randn_like(self.mean))


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.read, self.leave = nn.Linear(320, 50), nn.Linear(50, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(self.one(x), 2).relu()
        x = F.max_pool2d(self.two(x), 2).relu()
        x = x.view(-1, 320)
        return self.leave(self.read(x).relu())


class Causal(Two):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv = 4, nn.Linear(32, 96)
        self.register_buffer("mask", torch.full((9, 9), float("-inf")).triu(1))

    def hidden(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        length = x.shape[1]
        q, k, v = self.qkv(x).view(len(x), length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) + self.mask[:length, :length]).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2).mean(1)


class Logarithms(Two):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("prior", torch.tensor([0.2, 0.0, 0.8]))

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + (self.prior + 1e-6).log()


class Branching(Two):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(32, 32)

    def hidden(self, x: Tensor) -> Tensor:
        x = super().hidden(x)
        if x.shape[1] > 100:
            x = self.extra(x)
        return x.mean(1)


class Root(Two):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((32,), 0.01))

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * self.scale.sqrt()


class Missing(Two):
    def hidden(self, x: Tensor) -> Tensor:
        return (self.enter(x) - 99).sqrt()


class Sorting(Two):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x).sort(1).values


class Counting(Two):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * x.new_tensor(self.enter.out_features)


class Constant(Two):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x).view(-1, 32)


def masked() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    l1_unstructured(network[0], "weight", 0.3)
    ln_structured(network[2], "weight", 0.3, 2, 0)
    return network


EXACT: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a cached tensor with history in a dict": (History, ROWS),
    "a view of 320": (Digits, DIGITS),
    "a causal mask with -inf": (Causal, TEXTS),
    "a log prior": (Logarithms, ROWS),
    "torch.nn.utils.prune": (masked, ROWS),
}


@pytest.mark.parametrize(("make", "inputs"), EXACT.values(), ids=EXACT)
def test_thinned_exactly(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    network = seeded(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proxy = prune(network, inputs)
    report = proxy.report()
    assert report.preserve_exact
    assert report.parameter_share < 0.6
    make_generic(proxy.module)
    expected = proxy.module.eval()(inputs)
    torch.testing.assert_close(fuse(network, proxy).eval()(inputs), expected, rtol=1e-4, atol=1e-4)


LINE = r"\(test_reported\.py, line \d+: `"

# network, inputs, where, and what helps
REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str, str]] = {
    "a distribution": (Distribution, ROWS, "Distribution.forward answers with Categorical", "return a tensor"),
    "an object": (AnObject, ROWS, "AnObject.forward answers with Answer", "return a tensor, or a tuple or dict"),
    "one graph": (Graph, GRAPH, rf"Graph.forward {LINE}adjacency\[", "a leading dimension of graphs"),
    "inputs that do not fit": (Two, TEXTS[..., :5], rf"Two.hidden {LINE}return self.enter", "pass inputs of the"),
    "dropout in eval": (Dropping, ROWS, rf"at Dropping.hidden {LINE}return F.dropout", "ask self.training first"),
    "weights drawn in eval": (Bayesian, ROWS, rf"at Bayesian.forward {LINE}return F.linear", "ask self.training first"),
    "a root of what may be negative": (Root, ROWS, rf"sqrt at Root.hidden {LINE}", "keep answers finite"),
    "no number": (Missing, ROWS, rf"sqrt at Missing.hidden {LINE}", "repair the weights"),
    "an order of channels": (Sorting, ROWS, rf"sort, which is not understood, at Sorting.* {LINE}", "register_rule"),
    "a number of channels": (Counting, ROWS, "enter.weight, dimension 0", "let no result depend on how many"),
    "a width in the code": (Constant, ROWS, rf"32 is written in Constant.hidden {LINE}", "read it from the layer"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "inputs", "where", "remedy"), REFUSED.values(), ids=REFUSED)
def test_refused_in_words_that_name_the_place_and_what_helps(make: Any, inputs: Any, where: str, remedy: str) -> None:
    with pytest.raises(PruningError, match=rf"(?s){where}.*{remedy}"):
        prune(seeded(make), inputs)


def test_a_ratio_of_0_asks_for_no_tensor() -> None:
    assert prune(seeded(Distribution), ROWS, 0).report().parameter_share == 1


def test_a_dataclass_is_thinned_or_refused() -> None:
    try:
        report = prune(seeded(Dataclass), ROWS).report()
    except PruningError as error:
        assert "Dataclass.forward answers with Logits" in str(error)  # noqa: PT017
    else:
        assert report.preserve_exact


def test_what_the_example_does_not_reach_is_said_and_warned_of_where_it_matters() -> None:
    with pytest.warns(NoEffectWarning) as warned:
        report = prune(seeded(Branching), TEXTS).report()
    assert any("extra was not used on example_inputs and keeps its width 32" in str(w.message) for w in warned)
    module, branch = report.not_executed
    assert module == "extra"
    assert branch.startswith("Branching.hidden (test_reported.py, line ")
    assert branch.endswith(": `x = self.extra(x)`)")
    assert f"not reached by the example:\n  extra\n  {branch}" in str(report)


class Unused(Two):
    """Has a part that nothing reads, of a width that nothing else has, and a branch that only raises."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(7))

    def hidden(self, x: Tensor) -> Tensor:
        if x.shape[1] > 100:
            raise ValueError(x.shape)
        return super().hidden(x)


def test_what_does_not_matter_is_said_and_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prune(seeded(Unused), ROWS).report().not_executed == ("spare",)
