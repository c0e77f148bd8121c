"""Arrays, memory maps, tensors and datasets behind one face, kept by reference and never copied whole.

An item is `x`, `(x, y)` or `(x, y, w)`: input, label, sample weight, which is a floating-point number. `x` may itself
be a tuple or dict of tensors (the network is then called with several inputs), but a tuple must come with a label, or
inside an `ArrayDataset`. A dict may hold its own label, see `split_item`; of a dict, entries that are no arguments of
the network's `forward` are left out, with a warning where they are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    Subset,
    default_collate,
)

from ..errors import InputError
from .arrays import as_arrays, as_labels, as_weights, common_length
from .items import raw_labels
from .items import split_item as split_item
from .randomness import isolated_rng
from .stores import ArrayDataset as ArrayDataset
from .stores import PairedDataset as PairedDataset
from .stores import RowSubset as RowSubset
from .stores import split_row as split_row
from .stores import split_rows

_READ = 64  # items read at once for their labels: few enough that pictures of any size fit


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
    X = _by_items(X)
    if _streams(X):
        raise InputError(
            f"{type(X).__name__} is an iterable without row numbers, and candidates are named by row number: "
            "pass a map-style Dataset (with __len__ and __getitem__) or an array; tar shards, as of WebDataset, "
            "are read by prunefuse_al.data.TarShards"
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
        if first is None:
            return [first]
        parts = (split_rows(dataset, rows.tolist()) for rows in torch.arange(len(dataset)).split(_READ))
        return [y for some in parts for _, y, _ in some]


def has_labels(dataset: Any) -> bool:
    """Return whether the first item of a dataset has a label."""
    with isolated_rng(0):  # items may draw, as augmentation does
        return split_row(dataset, 0)[1] is not None


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


def _by_items(X: Any) -> Any:
    """Return a dataset of Hugging Face's whose items are tables of one row with dicts of numbers for items instead."""
    if isinstance(X, Subset):
        whole = _by_items(X.dataset)
        return X if whole is X.dataset else Subset(whole, X.indices)
    said = getattr(X, "format", None)
    if isinstance(said, dict) and said.get("type") in ("arrow", "pandas", "polars") and hasattr(X, "with_format"):
        return X.with_format("numpy", columns=said["columns"])
    return X


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
