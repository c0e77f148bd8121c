"""Small stand-ins shared by tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


def seeded(make: Callable[[], T], seed: int = 0) -> T:
    """Return `make()` with torch's global generator seeded for it and put back after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mlp(*widths: int, seed: int = 0, dtype: Any = torch.float32) -> nn.Sequential:
    """Return a multilayer perceptron with the given widths, the same for the same seed."""

    def make() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after, dtype=dtype), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return seeded(make, seed)
