"""A width that is written in a network's code: where it stands is said, and what to read instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import seeded
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, TorchTrainer, prune
from prunefuse_al.errors import NoEffectWarning, PruningError

X, Y = torch.randn(40, 10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
HIDDEN = 32


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.LSTM(3, 32, batch_first=True), nn.Linear(32, 2)
        self.hidden, self.config = 32, SimpleNamespace(hidden=32)

    def state(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        state = self.state(x)
        logits: Tensor = self.head(self.read(x, (state, state))[0][:, -1])
        return logits


class Number(Reader):
    def state(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), 32)


class Name(Reader):
    def state(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), HIDDEN)


class Config(Reader):
    def state(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), self.config.hidden)


class Attribute(Reader):
    def state(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), self.hidden)


class FromLayer(Reader):
    def state(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, len(x), self.read.hidden_size)


class Within(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.more, self.head = part, nn.Linear(2, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.more(self.part(x)).relu())
        return logits


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 20, 3), nn.Linear(160, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x.transpose(1, 2)).view(-1, 160))
        return logits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            Number,
            r"32 is written in Number.state \(test_written.py, line \d+: `return torch.zeros\(1, len.*, 32\)`\)",
        ),
        (Name, r"32 is written in Name.state .*`return torch.zeros\(1, len\(x\), HIDDEN\)`"),
        (Config, r"32 is written in Config.state .*self.config.hidden\)`"),
        (Number, r"if it is this width, read it from the layer, self.read.hidden_size, or from the shape of a tensor"),
        (Flat, r"160 is written in Flat.forward .*read it from the layer, self.head.in_features"),
    ],
)
def test_where_a_width_is_written_is_said(make: Any, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(seeded(make), X[:2], 0.5)


def test_where_it_is_written_is_said_of_what_is_kept_whole_too() -> None:
    with pytest.warns(NoEffectWarning, match=r"(32 is written in Number.state(?!.*32 is written))"):
        reasons = prune(seeded(lambda: Within(Number())), X[:2], 0.5).report().kept_whole
    assert "32 is written in Number.state" in reasons["part.read.weight_hh_l0, dimension 1"]
    assert "self.read.hidden_size" in reasons["part.read.weight_hh_l0, dimension 1"]


@pytest.mark.parametrize("make", [Attribute, FromLayer])
def test_a_width_that_can_follow_is_followed(make: Any) -> None:
    trainer = TorchTrainer(1, device="cpu", progress=False)
    chosen = PrunedProxySelector(seeded(make), 0.5, trainer=trainer, random_state=0).fit(X, Y)
    assert chosen.model.read.hidden_size == 16  # type: ignore[union-attr]
    assert len(chosen.query(X, 3)) == 3
