"""Arrays, memory maps, tensors and datasets behind one face, kept by reference and never copied whole.

An item is `x`, `(x, y)` or `(x, y, w)`: input, label, sample weight, which is a floating-point number. `x` may itself
be a tuple or dict of tensors (the network is then called with several inputs), but a tuple must come with a label, or
inside an `ArrayDataset`. A dict may hold its own label, see `split_item`; of a dict, entries that are no arguments of
the network's `forward` are left out, with a warning where they are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from ..errors import InputError, PruneFuseError
from .arrays import (
    as_arrays,
    as_labels,
    as_weights,
    common_length,
    leaves,
    map_leaves,
    take,
)
from .items import describe_entry, raw_labels
from .items import split_item as split_item
from .randomness import isolated_rng


class ArrayDataset(Dataset[Any]):
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

    def __getitem__(self, row: int) -> Any:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the items of several rows, read at once."""
        x, y, w = self.take(torch.as_tensor(rows))
        items = [map_leaves(x, lambda leaf, i=i: leaf[i]) for i in range(len(rows))]  # type: ignore[misc]
        if y is None:
            return items
        if w is None:
            return list(zip(items, y, strict=True))
        return list(zip(items, y, w, strict=True))

    def take(self, rows: Tensor) -> tuple[Any, Tensor | None, Tensor | None]:
        """Return (x, y, sample_weight) of `rows`, int64 [b], as new tensors [b ...]."""
        x = map_leaves(self.x, lambda leaf: take(leaf, rows))
        y = None if self.y is None else self.y[rows]
        return x, y, None if self.sample_weight is None else self.sample_weight[rows]


class PairedDataset(Dataset[Any]):
    """A dataset's inputs with labels, and perhaps weights, given beside it; labels of its own are ignored."""

    def __init__(self, dataset: Any, y: Tensor, sample_weight: Tensor | None = None) -> None:
        self.dataset, self.y, self.sample_weight = dataset, y, sample_weight

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        x, own, _ = split_row(self.dataset, row)
        if self.y.ndim == 1 and isinstance(own, Tensor | np.ndarray) and own.ndim and own.shape != (1,):
            raise InputError(
                f"items of the dataset are (x, {describe_entry(own)}), which is not one label, and y was given beside "
                "them: several inputs go together as a tuple or dict, ((x, other), None)"
            )
        return (x, self.y[row]) if self.sample_weight is None else (x, self.y[row], self.sample_weight[row])

    def take(self, rows: Tensor) -> tuple[Any, Tensor | None, Tensor | None]:
        """Return (x, y, sample_weight) of `rows`, int64 [b], where the dataset is read by batches."""
        weights = None if self.sample_weight is None else self.sample_weight[rows]
        return self.dataset.take(rows)[0], self.y[rows], weights


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
        return read_items(self.dataset, self.rows[list(rows)].tolist())

    def take(self, rows: Tensor) -> tuple[Any, Tensor | None, Tensor | None]:
        """Return (x, y, sample_weight) of `rows`, int64 [b], counted in this subset."""
        taken: tuple[Any, Tensor | None, Tensor | None] = self.dataset.take(self.rows[rows])
        return taken


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


def row_given(dataset: Any, row: int) -> int:
    """Return what a row of a dataset is called in the data that the user passed."""
    while isinstance(dataset, RowSubset | PairedDataset):
        row = int(dataset.rows[row]) if isinstance(dataset, RowSubset) else row
        dataset = dataset.dataset
    return row


def as_dataset(X: Any, y: Any = None, *, sample_weight: Any = None) -> Any:
    """Return `X` as a map-style dataset, without copying it.

    Args:
        X: array, `np.memmap`, tensor or nested list [n ...]; a frame or series of pandas, of numbers (its values); a
            tuple or dict of those (several inputs; of a dict, an entry "labels" or "label" is y); a map-style dataset,
            which passes through; or a `DataLoader` that reads all rows of one, which gives its dataset.
        y: integer labels [n], or soft targets [n ...]. Replaces a dataset's own labels.
        sample_weight: finite weights >= 0, [n]; needs labels.

    Raises:
        InputError: what holds no plain numbers (sparse, ragged, complex, masked, structured or object arrays, texts,
            None); lengths that differ; no rows; an iterable dataset; several datasets; a loader that does more than to
            read the rows of its dataset.
    """
    if isinstance(X, DataLoader):
        return as_dataset(_loaded(X), y, sample_weight=sample_weight)
    if _streams(X):
        raise InputError(
            f"{type(X).__name__} is an iterable without row numbers, and candidates are named by row number: "
            "pass a map-style Dataset (with __len__ and __getitem__) or an array"
        )
    foreign = _is_dataset(X)
    if isinstance(X, Mapping) and not issparse(X):  # a matrix of keys is a dict as well
        if splits := [name for name, part in X.items() if _is_dataset(part) or _streams(part)]:
            kind, names = type(X).__name__, ", ".join(map(repr, splits))
            raise InputError(f"X holds several datasets, {kind} of {names}: pass one of them, X[{splits[0]!r}]")
        X, own, _ = split_item(X)
        y = own if y is None else y
    x = X if foreign else as_arrays(X)
    n = len(X) if foreign else common_length(x)
    if n == 0:
        raise InputError("the data has 0 rows; at least one is needed")
    labels = None if y is None else as_labels(y, n)
    weights = None if sample_weight is None else as_weights(sample_weight, n)
    if not foreign:
        _refuse_weights_alone(labels, weights)
        return ArrayDataset(x, labels, weights)
    if labels is None:
        _refuse_weights_alone(labels, weights)
        return X
    return PairedDataset(X, labels, weights)


def to_dataset(data: Any) -> Any:
    """Return a trainer's data as a dataset: a tuple is (X, y) or (X, y, sample_weight), else see `as_dataset`."""
    if isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise InputError(f"data is a tuple of {len(data)}; a tuple must be (X, y) or (X, y, sample_weight)")
        return as_dataset(data[0], data[1], sample_weight=data[2] if len(data) == 3 else None)
    return as_dataset(data)


def subset(dataset: Any, indices: Any) -> Any:
    """Return the rows `indices` (integers, or a boolean mask [n]) of a dataset, nothing copied.

    Raises:
        InputError: a row number that is not whole or outside the dataset, or a mask of another length.
    """
    given, n = np.require(indices.cpu() if isinstance(indices, Tensor) else indices, requirements="W"), len(dataset)
    if given.size and given.dtype.kind not in "biu":
        raise InputError(f"rows are named by whole numbers or a boolean mask; {given.dtype} was given")
    rows = torch.from_numpy(given)
    if rows.dtype == torch.bool:
        if rows.shape != (n,):
            raise InputError(f"a boolean mask of shape {tuple(rows.shape)} was given for {n} rows")
        rows = rows.nonzero().flatten()
    rows = rows.reshape(-1).to(torch.int64)
    bad = rows[(rows < 0) | (rows >= n)]
    if len(bad):
        raise InputError(
            f"row {int(bad[0])} was asked for; the data has rows 0..{n - 1} ({len(bad)} of {len(rows)} outside)"
        )
    return RowSubset(dataset, rows)


def labels_of(dataset: Any, *, read: bool = True) -> Tensor | None:
    """Return all labels of a dataset, [n ...]; None where it has none.

    Args:
        dataset: from `as_dataset`.
        read: read a foreign dataset item by item; with False its labels count as unknown.
    """
    found = given_labels(dataset, read=read)
    return None if found is None else as_labels(found, len(dataset))


def given_labels(dataset: Any, *, read: bool = True) -> Any:
    """Return what `labels_of` does, but labels of items of whatever kind, strings as a list."""
    if isinstance(dataset, ArrayDataset | PairedDataset):
        return dataset.y
    if isinstance(dataset, RowSubset):
        whole = given_labels(dataset.dataset, read=False)
        if whole is not None:
            return whole[dataset.rows]
    return raw_labels(_item_labels(dataset)) if read else None


def _item_labels(dataset: Any) -> list[Any]:
    """Return the label of every item; of the first alone if that has none."""
    with isolated_rng(0):  # items may draw, as augmentation does
        first = split_row(dataset, 0)[1]
        return [first] if first is None else [split_row(dataset, row)[1] for row in range(len(dataset))]


def has_labels(dataset: Any) -> bool:
    """Return whether the first item of a dataset has a label."""
    with isolated_rng(0):  # items may draw, as augmentation does
        return split_row(dataset, 0)[1] is not None


def split_row(dataset: Any, row: int) -> tuple[Any, Any, Any]:
    """Return (x, y, w) of a row; of arrays without labels all is x, for two inputs would pass for a pair."""
    arrays = dataset
    while isinstance(arrays, RowSubset):
        arrays = arrays.dataset
    bare = isinstance(arrays, ArrayDataset) and arrays.y is None
    item = read_item(dataset, row)
    return (item, None, None) if bare else split_item(item)


def _loaded(loader: DataLoader[Any]) -> Any:
    """Return the dataset of a loader that reads it as it is: all of its rows, each once, and nothing done to them."""
    dataset: Any = loader.dataset
    sampler, by_batches = loader.sampler, loader.batch_sampler
    if isinstance(dataset, IterableDataset):
        return dataset  # refused as such
    if by_batches is None:
        raise InputError("X is a DataLoader with batch_size=None, whose items may be whole batches: pass its dataset")
    if loader.collate_fn is not default_collate:
        raise InputError(
            f"X is a DataLoader with a collate_fn of its own ({loader.collate_fn!r}): pass its dataset, and "
            "TorchTrainer(collate=...), which makes a batch of a list of inputs without their labels"
        )
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples >= len(dataset)
    )
    if not whole or type(by_batches) is not BatchSampler:
        who = type(by_batches if whole else sampler).__name__
        raise InputError(
            f"X is a DataLoader whose {who} chooses rows: pass its dataset; "
            "some rows of it are torch.utils.data.Subset(dataset, rows), and weights go in sample_weight"
        )
    return dataset


def _is_dataset(X: Any) -> bool:
    if isinstance(X, Dataset) or hasattr(X, "__getitems__"):  # of Hugging Face's datasets, which also have a shape
        return True
    array_like = isinstance(X, list | tuple | range | Mapping | Tensor | str | bytes)
    array_like = array_like or hasattr(X, "__array__") or hasattr(X, "shape")
    return not array_like and hasattr(X, "__getitem__") and hasattr(X, "__len__")


def _streams(X: Any) -> bool:
    return isinstance(X, IterableDataset) or (hasattr(X, "__iter__") and not hasattr(X, "__len__"))


def _refuse_weights_alone(labels: Tensor | None, weights: Tensor | None) -> None:
    if weights is not None and labels is None:
        raise InputError("sample_weight was given without y; pass the labels too")
