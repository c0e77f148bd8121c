"""Batches read early are the batches, in their order, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fakes import mlp
from hypothesis import given
from hypothesis import strategies as st

from prunefuse_al import TorchTrainer
from prunefuse_al.data import as_dataset
from prunefuse_al.errors import NonFiniteError
from prunefuse_al.loading import AHEAD, BatchLoader, read_ahead
from prunefuse_al.signals import collect

WAIT = 30.0  # seconds after which a thread that should have come has not


@given(st.lists(st.integers()))
def test_reading_ahead_changes_nothing(items: list[int]) -> None:
    assert list(read_ahead(iter(items))) == items


def test_the_next_item_is_read_while_one_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(AHEAD + 3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    reading = read_ahead(items())
    assert next(reading) == 0
    assert all(event.wait(WAIT) for event in begun[: AHEAD + 1])
    assert not begun[AHEAD + 1].is_set()  # and no more of them, for they take memory


def test_an_error_comes_where_its_item_would_and_the_thread_ends() -> None:
    def items() -> Iterator[int]:
        yield from (0, 1, 2)
        raise OSError("the file ended")

    reading = read_ahead(items())
    assert [next(reading) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the file ended"):
        next(reading)
    left = read_ahead(iter(range(10)))
    assert next(left) == 0
    left.close()  # as a loop does that is left early
    assert not [t for t in threading.enumerate() if t.name.startswith("prunefuse_al.reader")]


def test_a_transform_in_place_cannot_hide_rows_that_are_not_finite() -> None:
    X = torch.ones(6, 2)
    X[4, 1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"row 4 \(1 of 6\)"):
        collect(mlp(2, 3), X, transform=lambda x: x.nan_to_num_())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_batches_early() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    X, y = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32), np.arange(50) % 2
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for data in (as_dataset(X, y), as_dataset({"a": X, "b": X}, y), as_dataset(torch.from_numpy(X).cuda(), y)):
        plain = BatchLoader(data, 8).batches(order, merge_single=True)
        early = BatchLoader(data, 8, device=device).batches(order, merge_single=True)
        for (rows, x, labels, _), (same_rows, same_x, same_labels, _) in zip(plain, early, strict=True):
            assert rows.equal(same_rows)
            assert labels is not None
            assert same_labels is not None
            assert labels.equal(same_labels)
            assert same_labels.is_pinned() != bool(isinstance(x, torch.Tensor) and x.is_cuda)  # which is not read early
            torch.testing.assert_close(same_x, x, rtol=0, atol=0)
    network = mlp(2, 8, 2)
    TorchTrainer(epochs=2, batch_size=8, device=device, progress=False).fit(network, (X, y), seed=0)
    there = collect(network, X, device=device).logits
    torch.testing.assert_close(there, collect(network, X, device="cpu").logits, rtol=1e-4, atol=1e-4)
