"""What rows are read from: stores that give whole batches, some rows of one, and labels beside one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..errors import InputError, PruneFuseError
from .arrays import as_labels, describe_rows, leaves, map_leaves, take
from .items import Parts, describe_entry, split_item, usable


class Rows(Dataset[Any], ABC):
    """A store that gives whole batches of rows; it can be passed wherever data is taken.

    Arrays, memory maps and sparse tables are read through one. For a store of your own (shards of files, what an engine
    has materialised) write a subclass with `__len__` and `take`. A dataset that gives items, each of which may need
    padding or decoding, is none: give that ``__getitems__``, and worker processes read it in batches.

    `take` is called by one thread at a time, though not always the same, and in this process. It draws no global
    random numbers.

    Example:
        >>> class Squares(Rows):
        ...     def __len__(self):
        ...         return 10
        ...     def take(self, rows):
        ...         return (rows[:, None] ** 2).float(), rows % 2, None
        >>> Squares()[3]
        (tensor([9.]), tensor(1))
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return how many rows there are."""

    @abstractmethod
    def take(self, rows: Tensor) -> Parts:
        """Return (x, y, sample_weight) of some rows, y and sample_weight None where there are none.

        Args:
            rows: int64 [b], in any order.

        Returns:
            x, a tensor [b ...] or a tuple or dict of them; labels [b ...]; weights, floats [b].
        """

    @property
    def on_device(self) -> bool:
        """Whether batches come on another device than the CPU; such a store is not read ahead, by another thread."""
        return False

    def __getitem__(self, row: int) -> Any:
        n = len(self)
        if not -n <= row < n:
            raise IndexError(f"row {row} was asked for; the data has rows 0..{n - 1}")  # where a loop over rows ends
        return self.__getitems__([row % n])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the items of several rows, read at once."""
        parts = split_rows(self, rows)
        return [x if y is None else (x, y) if w is None else (x, y, w) for x, y, w in parts]


class ArrayDataset(Rows):
    """Rows of arrays kept by reference: whatever a batch needs is read when it is needed.

    Attributes:
        x: array or tensor [n ...], or a tuple or dict of them.
        y: labels, int64 [n] (or float [n ...] for soft targets), or None.
        sample_weight: float64 [n], or None.
    """

    def __init__(self, x: Any, y: Tensor | None = None, sample_weight: Tensor | None = None) -> None:
        self.x, self.y, self.sample_weight = x, y, sample_weight
        self._n = len(leaves(x)[0])

    def __len__(self) -> int:
        return self._n

    def take(self, rows: Tensor) -> Parts:
        """Return (x, y, sample_weight) of `rows`, int64 [b], as new tensors [b ...]."""
        x = map_leaves(self.x, lambda leaf: take(leaf, rows))
        y = None if self.y is None else self.y[rows]
        return x, y, None if self.sample_weight is None else self.sample_weight[rows]

    @property
    def on_device(self) -> bool:
        """Whether any of the inputs lies on another device than the CPU."""
        return any(isinstance(leaf, Tensor) and leaf.device.type != "cpu" for leaf in leaves(self.x))


class PairedDataset(Dataset[Any]):
    """A dataset's inputs with labels, and perhaps weights, given beside it; labels of its own are ignored."""

    def __init__(self, dataset: Any, y: Tensor, sample_weight: Tensor | None = None) -> None:
        self.dataset, self.y, self.sample_weight = dataset, y, sample_weight

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        label = self.y[row]  # beyond the last one an IndexError, where a loop over rows ends
        return self._paired(row, label, split_row(self.dataset, row))

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the items of several rows, their inputs read at once where the dataset can."""
        parts = split_rows(self.dataset, rows)
        return [self._paired(row, self.y[row], part) for row, part in zip(rows, parts, strict=True)]

    def take(self, rows: Tensor) -> Parts:
        """Return (x, y, sample_weight) of `rows`, int64 [b], where the dataset gives batches."""
        weights = None if self.sample_weight is None else self.sample_weight[rows]
        return taken(self.dataset, rows)[0], self.y[rows], weights

    def _paired(self, row: int, label: Tensor, parts: Parts) -> Any:
        x, own, _ = parts
        if self.y.ndim == 1 and isinstance(own, Tensor | np.ndarray) and own.ndim and own.shape != (1,):
            raise InputError(
                f"items of the dataset are (x, {describe_entry(own)}), which is not one label, and y was given beside "
                "them: several inputs go together as a tuple or dict, ((x, other), None)"
            )
        return (x, label) if self.sample_weight is None else (x, label, self.sample_weight[row])


class RowSubset(Dataset[Any]):
    """Some rows of a dataset, in the order given; see `subset`."""

    def __init__(self, dataset: Any, rows: Tensor) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, row: int) -> Any:
        return read_item(self.dataset, int(self.rows[row]))

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the items of several rows, read at once where the dataset can."""
        return read_items(self.dataset, self.rows.numpy()[list(rows)].tolist())  # torch takes four times as long

    def take(self, rows: Tensor) -> Parts:
        """Return (x, y, sample_weight) of `rows`, int64 [b] of this subset, where the dataset gives batches."""
        return taken(self.dataset, self.rows.take(rows))


def store_of(dataset: Any) -> Rows | None:
    """Return the store under a dataset that gives whole batches, None for one that is read item by item."""
    while isinstance(dataset, RowSubset | PairedDataset):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, Rows) else None


def rooted(dataset: Any) -> tuple[Any, Tensor | None]:
    """Return the dataset under subsets and labels given beside it, and which of its rows, int64 [n]; None: all."""
    rows: Tensor | None = None
    while isinstance(dataset, RowSubset | PairedDataset | Subset):
        if not isinstance(dataset, PairedDataset):
            own = dataset.rows if isinstance(dataset, RowSubset) else torch.as_tensor(dataset.indices).long()
            rows = own if rows is None else own[rows]
        dataset = dataset.dataset
    return dataset, rows


def row_given(dataset: Any, row: int) -> int:
    """Return what a row of a dataset is called in the data that the user passed."""
    while isinstance(dataset, RowSubset | PairedDataset):
        row = int(dataset.rows[row]) if isinstance(dataset, RowSubset) else row
        dataset = dataset.dataset
    return row


def taken(dataset: Any, rows: Tensor) -> Parts:
    """Return (x, y, w) of rows, int64 [b], of a dataset that gives whole batches; see `Rows.take`.

    Raises:
        InputError: the store failed, or gave something else than it must.
    """
    try:
        batch = dataset.take(rows)
    except (PruneFuseError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a file that is gone, an engine that does not answer: anything
        where = describe_rows(rows, len(dataset))
        raise InputError(f"{where} of the data cannot be read: {type(error).__name__}: {error}") from error
    return batch if isinstance(dataset, ArrayDataset | RowSubset | PairedDataset) else _looked_at(dataset, batch, rows)


def _looked_at(store: Rows, batch: Any, rows: Tensor) -> Parts:
    """Return what a store of the user's own gave for some rows, or raise `InputError` if that is no batch of them."""
    name, n = f"{type(store).__name__}.take", len(rows)
    if not isinstance(batch, tuple) or len(batch) != 3:
        found = f"{type(batch).__name__}{f' of {len(batch)}' if isinstance(batch, tuple) else ''}"
        raise InputError(f"{name} gave a {found}; it must return (x, y, sample_weight), None where there are none")
    x, y, w = batch
    x = usable(x)
    if wrong := [list(leaf.shape) for leaf in leaves(x) if not leaf.ndim or len(leaf) != n]:
        raise InputError(f"{name} gave inputs of shape {wrong[0]} for {n} rows; it must return one for each row asked")
    if w is not None and not (isinstance(w, Tensor) and w.is_floating_point() and w.shape == (n,)):
        raise InputError(f"{name} gave sample weights {describe_entry(w)} for {n} rows; it must return floats [b]")
    return x, None if y is None else as_labels(y, n), None if w is None else w.double()


def read_item(dataset: Any, row: int) -> Any:
    """Return one item of a dataset; what a foreign dataset raises comes back with the number of the row in it."""
    try:
        return dataset[row]
    except (PruneFuseError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a picture that is damaged, a file that is gone: anything
        raise InputError(f"row {row} of the data cannot be read: {type(error).__name__}: {error}") from error


def read_items(dataset: Any, rows: Sequence[int]) -> list[Any]:
    """Return items of a dataset, read at once where it can; see `read_item`."""
    if not hasattr(dataset, "__getitems__"):
        return [read_item(dataset, row) for row in rows]
    try:
        items = list(dataset.__getitems__(rows))
    except (PruneFuseError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        for row in rows:
            read_item(dataset, row)
        raise InputError(f"rows {list(rows)} of the data cannot be read at once, only one by one: {error}") from error
    if len(items) != len(rows):
        raise InputError(f"{type(dataset).__name__}.__getitems__ gave {len(items)} items for {len(rows)} rows")
    return items


def split_row(dataset: Any, row: int) -> Parts:
    """Return (x, y, w) of a row; of a store without labels all is x, for two inputs would pass for a pair."""
    return split_rows(dataset, [row])[0] if _is_store(dataset) else split_item(read_item(dataset, row))


def split_rows(dataset: Any, rows: Sequence[int]) -> list[Parts]:
    """Return (x, y, w) of each of some rows, read at once where the dataset can; see `split_row`."""
    if not _is_store(dataset):
        return [split_item(item) for item in read_items(dataset, rows)]
    x, y, w = taken(dataset, torch.as_tensor(rows, dtype=torch.int64))
    inputs = [map_leaves(x, lambda leaf, i=i: leaf[i]) for i in range(len(rows))]  # type: ignore[misc]
    nothing = [None] * len(rows)
    return list(zip(inputs, nothing if y is None else y, nothing if w is None else w, strict=True))


def _is_store(dataset: Any) -> bool:
    """Tell whether something is a store, or some rows of one, with no labels beside it."""
    while isinstance(dataset, RowSubset):
        dataset = dataset.dataset
    return isinstance(dataset, Rows)
