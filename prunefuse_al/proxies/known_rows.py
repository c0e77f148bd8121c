"""Whose rows features are: a dataset recognised when it comes again, and rows of arrays by what is in them."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ..data import ArrayDataset, isolated_rng, leaves, split_rows
from .feature_file import Identity

COMPARED = 16
"""Rows of which it is looked at whether they are still what they were."""
_READ = 256


class Origin:
    """A dataset, recognised when it comes again: the same object, or arrays over the same memory; it is not kept."""

    def __init__(self, dataset: Any) -> None:
        things = leaves(dataset.x) if isinstance(dataset, ArrayDataset) else [dataset]
        self._marks = [_mark(thing) for thing in things]

    def same(self, dataset: Any) -> bool:
        """Tell whether it is this one."""
        things = leaves(dataset.x) if isinstance(dataset, ArrayDataset) else [dataset]
        return len(things) == len(self._marks) and all(
            mark(thing) for mark, thing in zip(self._marks, things, strict=True)
        )


def _mark(thing: Any) -> Callable[[Any], bool]:
    """Return a function that tells whether something is this, as long as this is alive."""
    if isinstance(thing, Tensor):  # of which a dataset has another object over the same memory
        storage, form = StorageWeakRef(thing.untyped_storage()), _form(thing)
        return lambda other: isinstance(other, Tensor) and not storage.expired() and _form(other) == form
    try:
        alive = weakref.ref(thing)
    except TypeError:  # what cannot be watched is kept
        return lambda other: other is thing
    return lambda other: alive() is other


def _form(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tells a tensor from all others that are alive, and from itself changed in place."""
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    version = None if tensor.is_inference() else tensor._version  # which is not counted in inference mode
    return *place, tensor.device, tensor.dtype, tensor.shape, tensor.stride(), version


def digests(dataset: Any, rows: Tensor) -> np.ndarray[Any, np.dtype[np.uint64]] | None:
    """Return digests of rows of arrays, uint64 [m 2], equal where all bytes are; None of what is no arrays.

    To read other data once more, a picture from its file, may take as long as the network does.
    """
    if not isinstance(dataset, ArrayDataset):
        return None
    found = bytearray()
    for part in rows.split(_READ):
        columns = [_bytes(leaf) for leaf in leaves(dataset.take(part)[0])]
        for row in range(len(part)):
            digest = hashlib.blake2b(digest_size=16)
            for kind, column in columns:
                digest.update(kind)
                digest.update(column[row])
            found += digest.digest()
    return np.frombuffer(bytes(found), np.uint64).reshape(-1, 2)


def _bytes(leaf: Tensor) -> tuple[bytes, np.ndarray[Any, Any]]:
    """Return what rows are, and their bytes [b ...]."""
    kind = f"{leaf.dtype} {list(leaf.shape[1:])}".encode()
    flat = leaf.detach().cpu().contiguous().reshape(len(leaf), -1)
    return kind, flat.view(torch.uint8).numpy() if flat.shape[1] else np.zeros((len(leaf), 0), np.uint8)


def identity_of(dataset: Any) -> Identity:
    """Return what tells data from others in another process."""
    with isolated_rng(0):  # items may draw, as augmentation does
        inputs = [x for x, _, _ in split_rows(dataset, sample_of(len(dataset)).tolist())]
    return Identity(len(dataset), _described(inputs[0]), tuple(map(_digest, inputs)))


def sample_of(n: int) -> Tensor:
    """Return a few of n rows, evenly spaced, int64 [m]."""
    rows: Tensor = torch.linspace(0, n - 1, min(n, COMPARED), dtype=torch.float64).round().long().unique()
    return rows


def _described(x: Any) -> str:
    return " and ".join(f"{value.dtype} {list(value.shape)}" for value in map(_as_array, leaves(x)))


def _digest(x: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for value in map(_as_array, leaves(x)):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(repr(value).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _as_array(leaf: Any) -> np.ndarray[Any, Any]:
    """Return one part of an input, a tensor, a number, a text or a picture, as an array."""
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu()
        leaf = leaf.float() if leaf.dtype == torch.bfloat16 else leaf
    return np.asarray(leaf)
