"""Reads datasets batch by batch; for a CUDA device ahead of it, so that it need not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from . import checks
from .arrays import describe_rows, leaves, map_leaves, nonfinite_rows
from .data import ArrayDataset, PairedDataset, RowSubset
from .errors import NonFiniteError
from .items import Collate, collate_items

Batch = tuple[Tensor, Any, Tensor | None, Tensor | None]  # row numbers int64 [b], x [b ...], y [b], w [b]
T = TypeVar("T")
AHEAD = 2
"""Batches read before they are asked for: one that waits, and one being read."""


def check_reading(batch_size: int, num_workers: int, transform: Any, collate: Any) -> tuple[int, int]:
    """Return `batch_size` and `num_workers` as ints, or raise `InputError` unless data can be read as asked."""
    checks.maybe(checks.function, "transform", transform, "a function of a batch of inputs")
    checks.maybe(checks.function, "collate", collate, "a function of the list of a dataset's inputs")
    return checks.whole("batch_size", batch_size, least=1), checks.whole("num_workers", num_workers, least=0)


class BatchLoader:
    """Reads batches of a dataset, in any order, as often as asked; `batches` is the one-off form.

    Args:
        dataset: from `as_dataset`.
        batch_size: rows per batch.
        num_workers: processes that read a foreign dataset's items; arrays are always read in this process.
        seed: seeds the workers; no global random state is touched.
        collate: makes a batch of a list of a foreign dataset's inputs (arrays are batches by themselves); None stacks.
        device: where the batches will go. For CUDA, arrays in the CPU's memory are read `AHEAD` batches early by a
            thread, into memory that is copied from without waiting; what worker processes read is copied so as well.
            Which rows come is the same.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        num_workers: int = 0,
        seed: int = 0,
        collate: Collate | None = None,
        device: torch.device | None = None,
    ) -> None:
        batch_size, num_workers = check_reading(batch_size, num_workers, None, collate)
        self.dataset, self.batch_size = dataset, batch_size
        arrays, cuda = _arrays(dataset), device is not None and device.type == "cuda"
        # What lies on a device is taken on the stream of whoever asks, so by no other thread.
        self._ahead = device if cuda and arrays is not None and not _on_device(arrays.x) else None
        self._chunks: list[list[int]] = []
        self._loader: DataLoader[Any] | None = None
        if arrays is None:
            self._loader = DataLoader(
                dataset,
                batch_sampler=_Chunks(self._chunks),
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                # Without workers items are read in this thread, where pinning would take as long as it saves.
                pin_memory=cuda and num_workers > 0,
                collate_fn=partial(collate_items, collate=collate),
                generator=torch.Generator().manual_seed(seed),
            )

    def batches(self, order: Tensor | None = None, *, merge_single: bool = False) -> Iterator[Batch]:
        """Yield (row numbers int64 [b], x, y, w) for the rows of `order`, int64 [m]; None reads all rows in order.

        Args:
            order: row numbers.
            merge_single: a last batch of one row joins the batch before it (batch norm cannot train on one row).
        """
        order = torch.arange(len(self.dataset)) if order is None else order
        chunks = list(order.split(self.batch_size))
        if merge_single and len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks[-2:] = [torch.cat(chunks[-2:])]
        if self._loader is None:
            read = ((rows, *self.dataset.take(rows)) for rows in chunks)
            yield from read if self._ahead is None else read_ahead(map(_pinned, read), device=self._ahead)
            return
        self._chunks[:] = [rows.tolist() for rows in chunks]
        for rows, (x, y, w) in zip(chunks, self._loader, strict=True):
            yield rows, x, y, w


def batches(dataset: Any, batch_size: int, *, order: Tensor | None = None, **options: Any) -> Iterator[Batch]:
    """Yield (row numbers int64 [b], x, y or None, w or None) as tensors; see `BatchLoader`, also for the options."""
    return BatchLoader(dataset, batch_size, **options).batches(order)


def read_ahead(items: Iterator[T], *, device: torch.device | None = None) -> Iterator[T]:
    """Yield the items of an iterator, which a thread reads up to `AHEAD` of them before they are asked for.

    What reading an item raises is raised in its place. The iterator must not draw global random numbers: what else
    draws them would get others.

    Args:
        items: read by one thread, one after the other.
        device: a CUDA device that the thread works with.
    """
    start = None if device is None else partial(torch.cuda.set_device, device)
    end: Any = object()
    with ThreadPoolExecutor(1, "prunefuse_al.reader", initializer=start) as reader:
        waiting = deque(reader.submit(next, items, end) for _ in range(AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(reader.submit(next, items, end))
            yield item


def _pinned(batch: Batch) -> Batch:
    """Return a batch in page-locked memory."""
    rows, x, y, w = batch
    return (
        rows,
        map_leaves(x, Tensor.pin_memory),
        None if y is None else y.pin_memory(),
        None if w is None else w.pin_memory(),
    )


class _Chunks:
    """A batch sampler that hands out whatever row lists it holds when an epoch begins."""

    def __init__(self, chunks: list[list[int]]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


def check_finite(dataset: Any, *, batch_size: int = 1024, collate: Collate | None = None) -> None:
    """Raise `NonFiniteError` naming the rows whose inputs hold NaN or infinity; reads the data once, by batches."""
    bad = [rows[nonfinite_rows(x)] for rows, x, _, _ in batches(dataset, batch_size, collate=collate)]
    found = torch.cat(bad)
    if len(found):
        raise NonFiniteError(
            f"inputs hold NaN or infinity in {describe_rows(found, len(dataset))}: repair or drop them"
        )


def _arrays(dataset: Any) -> ArrayDataset | None:
    """Return the arrays under a dataset that is read by batches, None for one that is read item by item."""
    while isinstance(dataset, RowSubset | PairedDataset):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, ArrayDataset) else None


def _on_device(x: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.device.type != "cpu" for leaf in leaves(x))
