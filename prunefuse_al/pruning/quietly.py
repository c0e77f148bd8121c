"""Run a network that is not ours: without gradients, random states left alone, and what it raises in one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..network import Arguments
from .places import place_raised


@contextmanager
def draws_put_back() -> Iterator[None]:
    """Put the states of all random generators back after the block: of torch, of NumPy (wav2vec's masks), of Python."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


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
