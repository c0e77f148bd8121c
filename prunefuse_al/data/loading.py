"""Reads datasets batch by batch; for a CUDA device ahead of it, so that it need not wait."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .. import checks
from ..errors import InputError, NoEffectWarning, NonFiniteError, PruneFuseError, warn
from .arrays import describe_rows, map_leaves, nonfinite_rows
from .items import Collate, Columns, Parts, collate_parts, columns_of, is_number, split_item
from .stores import read_items, row_given, store_of, taken

Batch = tuple[Tensor, Any, Tensor | None, Tensor | None]  # row numbers int64 [b], x [b ...], y [b], w [b]
T = TypeVar("T")
_WHOLE = (Tensor, np.ndarray)
"""Inputs that have no entries of which a network might take some only."""
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
        num_workers: processes that read a foreign dataset's items; stores (`Rows`), arrays among them, are always read
            in this process.
        seed: seeds the workers; no global random state is touched.
        collate: makes a batch of a list of a foreign dataset's inputs (stores give batches by themselves); None stacks.
        network: what the batches are for: entries of dict items that its `forward` does not take are left out, with a
            warning where they are numbers; None keeps them all.
        labelled: whether labels and weights of a foreign dataset are read; else batches have none, whatever it has.
        device: where the batches will go. For CUDA, stores in the CPU's memory are read `AHEAD` batches early by a
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
        network: nn.Module | None = None,
        labelled: bool = True,
        device: torch.device | None = None,
    ) -> None:
        batch_size, num_workers = check_reading(batch_size, num_workers, None, collate)
        self.dataset, self.batch_size = dataset, batch_size
        store, cuda = store_of(dataset), device is not None and device.type == "cuda"
        # What lies on a device is taken on the stream of whoever asks, so by no other thread.
        self._ahead = device if cuda and store is not None and not store.on_device else None
        self._chunks: list[list[int]] = []
        self._loader: DataLoader[Any] | None = None
        self._network, self._warned = type(network).__name__, False
        if store is None:
            self._loader = DataLoader(
                _Items(dataset, collate, None if network is None else columns_of(network), labelled),
                batch_sampler=_Chunks(self._chunks),
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                # Without workers items are read in this thread, where pinning would take as long as it saves.
                pin_memory=cuda and num_workers > 0,
                collate_fn=_as_read,
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
        yield from self.of(chunks)

    def of(self, chunks: list[Tensor]) -> Iterator[Batch]:
        """Yield what `batches` does for lists of row numbers, int64 [b] each, one batch for each."""
        if self._loader is None:
            read = ((rows, *taken(self.dataset, rows)) for rows in chunks)
            yield from read if self._ahead is None else read_ahead(map(_pinned, read), device=self._ahead)
            return
        self._chunks[:] = [rows.tolist() for rows in chunks]
        for rows, read in zip(chunks, self._loader, strict=True):
            if isinstance(read, _Failure):
                raise read.error from RuntimeError(f"in a worker process:\n{read.trace}")
            (x, y, w), left_out = read
            if left_out and not self._warned:
                self._warned = True
                self._warn(left_out)
            yield rows, x, y, w

    def _warn(self, left_out: list[str]) -> None:
        names = ", ".join(map(repr, left_out))
        words = f"items of the dataset have {names}, which {self._network}.forward does not take: left out"
        warn(words, NoEffectWarning)


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


class _Items(Dataset[Any]):
    """A foreign dataset that gives a batch for a list of rows, in the process that asks or in a worker."""

    def __init__(self, dataset: Any, collate: Collate | None, columns: Columns | None, labelled: bool) -> None:
        self.dataset, self.collate, self.columns, self.labelled = dataset, collate, columns, labelled

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: list[int]) -> Any:
        """Return (x, y, w) of a batch and the numbers that were left out of it, by name; or, in a worker, a failure."""
        try:
            parts = self._split(rows, read_items(self.dataset, rows))
            taken, left_out = parts, []
            if self.columns is not None and not all(isinstance(x, _WHOLE) for x, _, _ in parts):
                taken = [(self.columns.of(x), y, w) for x, y, w in parts]
                left_out = _left_out(parts, taken)
            return collate_parts(taken, self.collate, labelled=self.labelled), left_out
        except PruneFuseError as error:
            if get_worker_info() is None:
                raise
            return _Failure(error, traceback.format_exc())

    def _split(self, rows: list[int], items: list[Any]) -> list[Parts]:
        parts: list[Parts] = []
        try:
            for item in items:
                parts.append(split_item(item))
        except InputError as error:
            row = row_given(self.dataset, rows[len(parts)])
            raise InputError(f"row {row} of the data: {error}") from error
        return parts


@dataclass(frozen=True)
class _Failure:
    """What a worker process could not read, and where it came from."""

    error: PruneFuseError
    trace: str


def _left_out(whole: list[Parts], taken: list[Parts]) -> list[str]:
    """Return the names of numbers that inputs had and have no more."""
    pairs = [(x, kept) for (x, _, _), (kept, _, _) in zip(whole, taken, strict=True) if kept is not x]
    return sorted({name for x, kept in pairs for name in x.keys() - kept.keys() if is_number(x[name])})


def _as_read(batch: Any) -> Any:
    return batch


class _Chunks:
    """A batch sampler that hands out whatever row lists it holds when an epoch begins."""

    def __init__(self, chunks: list[list[int]]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


def check_finite(dataset: Any, *, batch_size: int = 1024, **options: Any) -> None:
    """Raise `NonFiniteError` naming the rows whose inputs hold NaN or infinity; reads the data once, by batches.

    Args:
        dataset: from `as_dataset`.
        batch_size: rows read at once.
        **options: see `BatchLoader`.
    """
    read = batches(dataset, batch_size, labelled=False, **options)
    bad = [rows[nonfinite_rows(x)] for rows, x, _, _ in read]
    found = torch.cat(bad)
    if len(found):
        raise NonFiniteError(
            f"inputs hold NaN or infinity in {describe_rows(found, len(dataset))}: repair or drop them"
        )
