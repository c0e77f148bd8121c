"""Batches read early are the batches, in their order, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fakes import mlp
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data.datasets import as_dataset, subset
from prunefuse_al.data.loading import AHEAD, BatchLoader, read_ahead
from prunefuse_al.errors import InputError, NonFiniteError
from prunefuse_al.network.signals import collect

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


class Damaged(Dataset[Any]):
    """Pictures of which one is damaged, and one has an index for its weight."""

    def __init__(self, row: int, error: Exception | None) -> None:
        self.row, self.error = row, error

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> Any:
        if row != self.row:
            return torch.full((2,), float(row)), row % 2
        if self.error is None:
            return torch.zeros(2), 0, row
        raise self.error


class Own(Exception):
    """Cannot be unpickled, as some are."""

    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"{file} at {line}")


FAILURES = pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("image file is truncated"), "row 7 of the data cannot be read: OSError: image file is truncated"),
        (Own("cat.png", 3), "row 7 of the data cannot be read: Own: cat.png at 3"),
        (None, "row 7 of the data: the third entry of an item is its sample weight, and it is int 7"),
    ],
)


@FAILURES
def test_the_row_that_cannot_be_read_is_named_and_nothing_changes(error: Exception | None, says: str) -> None:
    data, trainer = Damaged(7, error), TorchTrainer(1, 4, device="cpu", progress=False)
    selector = PrunedProxySelector(mlp(2, 8, 2), trainer=trainer, random_state=0).fit(subset(data, range(6)))
    before = {name: value.clone() for name, value in selector.model.state_dict().items()}
    for read in (lambda: selector.query(data, 1), lambda: selector.fit(data), lambda: selector.fit_target(data)):
        with pytest.raises(InputError, match=f"^{says}") as caught:
            read()
        assert caught.value.__cause__ is not None
    assert all(torch.equal(value, before[name]) for name, value in selector.model.state_dict().items())
    assert selector.round == 1


@FAILURES
def test_a_worker_process_names_it_too_and_says_where_it_came_from(error: Exception | None, says: str) -> None:
    loader = BatchLoader(subset(Damaged(7, error), [11, 7, 2]), 3, num_workers=1)
    with pytest.raises(InputError, match=f"^{says}") as caught:
        list(loader.batches())
    assert "in a worker process" in str(caught.value.__cause__)
    assert ("in __getitem__" in str(caught.value.__cause__)) == (error is not None)


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
