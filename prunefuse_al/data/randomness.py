"""Randomness that stays inside: seeded work that leaves every global random state as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .turns import alone


@contextmanager
def isolated_rng(seed: int | None, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed `random`, NumPy's legacy state and torch for the block, and put the old states back after it.

    The states are the process's: other threads that ask for a block wait until this one is over (see `turns`).

    Args:
        seed: int >= 0; None seeds from fresh entropy.
        device: the device whose torch generator is used beside the CPU's.
    """
    seed = fresh_seed() if seed is None else int(seed)
    device = torch.device(device)
    with alone():
        python_state, numpy_state = random.getstate(), np.random.get_state()
        torch_state = torch.random.get_rng_state()
        device_state = _device_state(device)
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            _seed_device(device, seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.random.set_rng_state(torch_state)
            _restore_device(device, device_state)


def fresh_seed() -> int:
    """Return a seed below 2**63 from the operating system's entropy."""
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1))


def _device_state(device: torch.device) -> torch.Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def _seed_device(device: torch.device, seed: int) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _restore_device(device: torch.device, state: torch.Tensor | None) -> None:
    if state is None:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.mps.set_rng_state(state)
