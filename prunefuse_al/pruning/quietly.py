"""Run a network that is not ours: without gradients, random states left alone, and what it raises in one line."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..network import Arguments
from .places import place_raised


def draws_put_back() -> AbstractContextManager[None]:
    """Return a block after which the states of torch's random generators are what they were."""
    found: AbstractContextManager[None] = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    return found


def answer_of(module: nn.Module, arguments: Arguments) -> Any:
    """Return what a network answers with, called as its user calls it."""
    args, kwargs = arguments
    with draws_put_back(), torch.no_grad():
        return module(*args, **kwargs)


def same_values(one: list[Tensor] | None, other: list[Tensor] | None) -> bool:
    """True where two networks answer the same, bit for bit; None is the answer of one that fails."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in zip(one, other, strict=True)
    )


def first_line(error: Exception) -> str:
    """Return the kind of an error, the first line of what it says, and the line of the network's code that raised."""
    place = place_raised(error)
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said}{f' at {place}' if place else ''}"
