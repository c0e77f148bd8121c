"""Run a network that is not ours: without gradients, random states left alone, and what it raises in one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..network import Arguments


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


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
