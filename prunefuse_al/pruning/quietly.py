"""Run a network that is not ours: without gradients, random states left alone, and what it raises in one line."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..network import Arguments


def draws_put_back() -> AbstractContextManager[None]:
    """Return a block after which the states of torch's random generators are what they were."""
    found: AbstractContextManager[None] = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    return found


def answer_of(module: nn.Module, arguments: Arguments) -> Any:
    """Return what a network answers with, called as its user calls it."""
    args, kwargs = arguments
    with draws_put_back(), torch.no_grad():
        return module(*args, **kwargs)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
