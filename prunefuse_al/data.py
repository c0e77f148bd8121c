"""Arrays, memory maps, tensors and datasets behind one face, kept by reference and never copied whole.

An item is `x`, `(x, y)` or `(x, y, w)`: input, label, sample weight. `x` may itself be a tuple or dict of tensors (the
network is then called with several inputs), but a tuple must come with a label, or inside an `ArrayDataset`. A dict may
hold its own label, see `split_item`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from .arrays import (
    as_arrays,
    as_labels,
    as_weights,
    common_length,
    leaves,
    map_leaves,
    take,
)
from .errors import InputError
from .items import split_item as split_item
from .rng import isolated_rng


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
        x = split_row(self.dataset, row)[0]
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
        return self.dataset[int(self.rows[row])]

    def take(self, rows: Tensor) -> tuple[Any, Tensor | None, Tensor | None]:
        """Return (x, y, sample_weight) of `rows`, int64 [b], counted in this subset."""
        taken: tuple[Any, Tensor | None, Tensor | None] = self.dataset.take(self.rows[rows])
        return taken


def as_dataset(X: Any, y: Any = None, *, sample_weight: Any = None) -> Any:
    """Return `X` as a map-style dataset, without copying it.

    Args:
        X: array, `np.memmap`, tensor or nested list [n ...]; a tuple or dict of those (several inputs; of a dict, an
            entry "labels" or "label" is y); or a map-style dataset, which passes through.
        y: integer labels [n], or soft targets [n ...]. Replaces a dataset's own labels.
        sample_weight: finite weights >= 0, [n]; needs labels.

    Raises:
        InputError: sparse, ragged, complex or object arrays; lengths that differ; no rows; an iterable dataset.
    """
    if isinstance(X, IterableDataset) or (hasattr(X, "__iter__") and not hasattr(X, "__len__")):
        raise InputError(
            f"{type(X).__name__} is an iterable without row numbers, and candidates are named by row number: "
            "pass a map-style Dataset (with __len__ and __getitem__) or an array"
        )
    foreign = _is_dataset(X)
    if isinstance(X, Mapping):
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
        InputError: a row number outside the dataset, or a mask of another length.
    """
    rows, n = torch.from_numpy(np.require(indices, requirements="W")), len(dataset)
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
    if isinstance(dataset, ArrayDataset | PairedDataset):
        return dataset.y
    if isinstance(dataset, RowSubset):
        if isinstance(dataset.dataset, ArrayDataset | PairedDataset | RowSubset) or not read:
            whole = labels_of(dataset.dataset, read=read)
            return None if whole is None else whole[dataset.rows]
    elif not read:
        return None
    if not has_labels(dataset):
        return None
    with isolated_rng(0):  # items may draw, as augmentation does
        return torch.as_tensor(np.asarray([np.asarray(split_item(dataset[i])[1]) for i in range(len(dataset))]))


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
    return (dataset[row], None, None) if bare else split_item(dataset[row])


def _is_dataset(X: Any) -> bool:
    if isinstance(X, Dataset) or hasattr(X, "__getitems__"):  # of Hugging Face's datasets, which also have a shape
        return True
    array_like = isinstance(X, list | tuple | Mapping | Tensor | str) or hasattr(X, "__array__") or hasattr(X, "shape")
    return not array_like and hasattr(X, "__getitem__") and hasattr(X, "__len__")


def _refuse_weights_alone(labels: Tensor | None, weights: Tensor | None) -> None:
    if weights is not None and labels is None:
        raise InputError("sample_weight was given without y; pass the labels too")
