"""What a scorer holds beside its inputs is what its documentation says, counted in numbers of single precision."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunefuse_al.scorers import badge, cal

BLOCKS = 12 * 2**18  # what is made of a block of rows, whatever their number


class Counted(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active and still held, and of NumPy's arrays."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.given, self.peak = {tensor.data_ptr() for tensor in given}, 0
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            storage = leaf.untyped_storage() if isinstance(leaf, Tensor) else None
            if storage is not None and storage.data_ptr() not in self.given:
                self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.held = {key: held for key, held in self.held.items() if not held[0].expired()}
        own = sum(size for _, size in self.held.values())
        self.peak = max(self.peak, own + tracemalloc.get_traced_memory()[0])
        return result


def numbers_held(call: Callable[..., Any], *given: Tensor) -> int:
    """Return the most numbers of single precision that a call holds at once beside what it is given."""
    few = [tensor[:50] for tensor in given]
    with Counted(*few):
        call(*few)  # what is imported or made once is not counted
    tracemalloc.start()
    try:
        with Counted(*given) as counted:
            call(*given)
        return max(counted.peak, tracemalloc.get_traced_memory()[1]) // 4
    finally:
        tracemalloc.stop()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n", "c", "d"), [(30_000, 100, 64), (4_000, 1000, 64), (60_000, 10, 100), (300_000, 2, 8)])
def test_badge_holds_one_matrix_like_the_logits(n: int, c: int, d: int) -> None:
    held = numbers_held(lambda z, h: badge(z, h, 4, rng=0), drawn(n, c), drawn(n, d))
    assert held <= n * c + 20 * n + BLOCKS


@pytest.mark.parametrize(
    ("n", "m", "c", "d"),
    [(30_000, 500, 100, 16), (2_000, 2_000, 1000, 16), (30_000, 3_000, 10, 50), (90_000, 50, 2, 4)],
)
def test_cal_holds_the_labelled_logits_in_double_precision(n: int, m: int, c: int, d: int) -> None:
    held = numbers_held(cal, drawn(n, c), drawn(n, d), drawn(m, c), drawn(m, d))
    assert held <= 2 * m * c + m * d + 4 * n + BLOCKS


def test_equal_rows_are_told_apart_in_blocks_too() -> None:
    """Where almost all gradients are copies, their distances are computed again from the differences."""
    n, c = 60_000, 40
    held = numbers_held(lambda z, h: badge(z, h, 3, rng=0), drawn(1, c).expand(n, c).clone(), torch.ones(n, 40))
    assert held <= n * c + 20 * n + BLOCKS
