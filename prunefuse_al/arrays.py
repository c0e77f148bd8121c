"""What arrays, labels and weights must be before a network sees them; nothing here copies a whole array."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError


def map_leaves(x: Any, function: Callable[[Any], Any]) -> Any:
    """Apply `function` to a tensor or array, or to every one in a tuple, list or dict of them."""
    if isinstance(x, Mapping):
        return {key: map_leaves(value, function) for key, value in x.items()}
    if isinstance(x, tuple | list):
        return tuple(map_leaves(value, function) for value in x)
    return function(x)


def leaves(x: Any) -> list[Any]:
    """Return the tensors or arrays of a structure as a list."""
    found: list[Any] = []
    map_leaves(x, found.append)
    return found


def as_arrays(X: Any) -> Any:
    """Return an array, or a tuple or dict of arrays, over the same memory; lists are the one thing converted."""
    if isinstance(X, Mapping):
        return {key: _as_array(value) for key, value in X.items()}
    if isinstance(X, tuple):
        return tuple(_as_array(value) for value in X)
    return _as_array(X)


def _as_array(x: Any) -> Any:
    """Return a dense tensor or numeric array over the same memory; lists are the one thing converted."""
    if isinstance(x, list) and x and isinstance(x[0], Tensor):
        x = _stacked(x)
    array: Any
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise InputError(f"Sparse data was passed ({x.layout}), but dense data is required. Use '.to_dense()'.")
        array = x.detach()
    elif (hasattr(x, "toarray") and not hasattr(x, "__array__")) or "sparse" in type(x).__module__:
        raise InputError(
            f"Sparse data was passed ({type(x).__name__}), but dense data is required. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    else:
        array = x if isinstance(x, np.ndarray) else _from_objects(x)
        if array.dtype.kind not in "fiub":
            raise InputError(f"X has dtype {array.dtype}; numbers are needed: convert or encode it first")
    if array.ndim == 0:
        raise InputError("X is a single number; the first dimension must be the rows")
    return array


def _stacked(tensors: list[Tensor]) -> Tensor:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise InputError(
            f"X is a list of tensors of {len(shapes)} shapes, {min(shapes)} to {max(shapes)}: all rows need one shape; "
            "for texts of several lengths pass a Dataset, and TorchTrainer(collate=...) to pad each batch"
        )
    return torch.stack(tensors)


def _from_objects(x: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(x)
    except ValueError as error:
        raise InputError(f"X is ragged ({error}): all rows need one shape") from error


def common_length(x: Any) -> int:
    """Return the number of rows of one or several inputs."""
    lengths = [len(leaf) for leaf in leaves(x)]
    if len(set(lengths)) != 1:
        raise InputError(f"the inputs in X have {lengths} rows; all need the same number")
    return lengths[0]


def take(array: Any, rows: Tensor) -> Tensor:
    """Return rows int64 [b] of an array or tensor as a new tensor [b ...]."""
    if isinstance(array, Tensor):
        return array[rows.to(array.device)]
    return _native(np.asarray(array[rows.numpy()]))


def _native(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a tensor of an array, in a type that torch has; a copy of what may not be written to."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(np.require(array, requirements="W"))


def as_labels(y: Any, n: int) -> Tensor:
    """Return labels as int64 [n], or [n ...] of several a row, or what is floating in its own shape and type.

    Integers [n 1] are numbers of classes, [n]; floating numbers [n 1] are as many as a network with one output gives.
    """
    labels = y.detach().cpu() if isinstance(y, Tensor) else np.asarray(y)
    if np.ma.is_masked(y):
        raise InputError(
            f"labels are masked in {describe_rows(_rows_with(np.ma.getmaskarray(y)), len(y))}: drop these rows"
        )
    if isinstance(labels, np.ndarray):
        refuse_missing(labels)
        if labels.dtype.kind not in "fiub":
            raise InputError(
                f"labels have dtype {labels.dtype}; integers 0..C-1 are needed: encode them "
                "(sklearn.preprocessing.LabelEncoder), or use PruneFuseEstimator, which does"
            )
        labels = _native(labels)
    if labels.is_complex():
        raise InputError(f"labels have dtype {labels.dtype}; integers 0..C-1, or real numbers, are needed")
    if labels.ndim == 0 or len(labels) != n:
        raise InputError(f"X has {n} rows and y has {len(labels) if labels.ndim else 'no'} rows; they must match")
    if labels.is_floating_point():
        return labels
    return (labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels).to(torch.int64)


def refuse_missing(labels: np.ndarray[Any, Any]) -> None:
    """Raise `InputError` where objects among labels [n ...] are None, naming the rows."""
    if labels.dtype.kind != "O" or labels.ndim == 0:
        return
    missing = _rows_with(np.equal(labels, np.array(None, dtype=object)))
    if len(missing):
        raise InputError(
            f"labels are None in {describe_rows(missing, len(labels))}: what is not labelled cannot be trained on; "
            "drop these rows"
        )


def _rows_with(found: Any) -> Tensor:
    """Return the rows, int64 [m], in which any of bool [n ...] is true."""
    return torch.from_numpy(np.flatnonzero(np.asarray(found, dtype=bool).reshape(len(found), -1).any(1)))


def as_weights(sample_weight: Any, n: int) -> Tensor:
    """Return sample weights as float64 [n], finite, 0 or within `WEIGHTS`."""
    given = sample_weight.detach().cpu() if isinstance(sample_weight, Tensor) else np.asarray(sample_weight)
    if isinstance(given, np.ndarray) and given.dtype.kind not in "fiub":
        raise InputError(f"sample_weight has dtype {given.dtype}; one number for each of {n} rows is needed")
    weights = torch.from_numpy(np.require(given, np.float64, "W"))
    if weights.shape != (n,):
        raise InputError(f"sample_weight has shape {tuple(weights.shape)}; one weight for each of {n} rows is needed")
    check_weights(weights, torch.arange(n), n)
    if not weights.any():
        raise InputError(
            f"sample_weight is zero in all {n:,} rows; at least one must be above 0"
        )  # as scikit-learn asks
    return weights


WEIGHTS = (1e-30, 1e30)
"""The smallest weight above 0 and the largest one: sums of them, and of their products with losses, stay finite."""


def check_weights(weights: Tensor, rows: Tensor, total: int) -> None:
    """Raise `InputError` unless the weights [n] of `rows` can be used.

    Args:
        weights: numbers.
        rows: of data of `total` rows, int64 [n].
        total: rows there are.
    """
    weights, (least, most) = weights.reshape(len(rows), -1).amax(1).cpu(), WEIGHTS
    bad = (~torch.isfinite(weights) | (weights < 0)).nonzero().flatten()
    if len(bad):
        raise InputError(
            f"sample_weight is negative or not finite in {describe_rows(rows[bad], total)}; "
            "weights must be finite and >= 0"
        )
    far = ((weights > most) | ((weights > 0) & (weights < least))).nonzero().flatten()
    if len(far):
        raise InputError(
            f"sample_weight is {float(weights[far[0]]):g} in {describe_rows(rows[far], total)}, and single "
            f"precision holds no sums of weights outside {least:g} to {most:g}: divide all by the largest"
        )


def nonfinite_rows(x: Any) -> Tensor:
    """Return the positions, int64 [m], of rows of a batch that hold NaN or infinity in any of its tensors."""
    bad: Tensor | None = None
    for leaf in leaves(x):
        # A sum is finite only if all terms are: one cheap pass for the usual case.
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or bool(leaf.sum().isfinite()):
            continue
        rows = ~leaf.isfinite().reshape(leaf.shape[0], -1).all(dim=1)  # [b]
        bad = rows if bad is None else bad | rows
    return torch.empty(0, dtype=torch.int64) if bad is None else bad.nonzero().flatten().cpu()


def describe_rows(rows: Tensor, total: int, show: int = 5) -> str:
    """Return for example ``"rows 3, 8, 9 (3 of 100)"``, naming at most `show` rows."""
    shown = ", ".join(str(int(row)) for row in rows[:show])
    more = ", ..." if len(rows) > show else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more} ({len(rows)} of {total})"
