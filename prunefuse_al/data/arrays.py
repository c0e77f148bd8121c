"""What arrays, labels and weights must be before a network sees them; nothing here copies a whole array."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from os import PathLike
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from ..errors import InputError

_FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})
_NUMBERS = _FLOATING | _UNSIGNED | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_AS_ARRAY = ("__array__", "__array_interface__", "__buffer__")
"""What has one of these is an array of its own kind."""


def map_leaves(x: Any, function: Callable[[Any], Any]) -> Any:
    """Apply `function` to a tensor or array, or to every one in a tuple, list or dict of them."""
    if isinstance(x, Tensor):  # the usual case, and asking for a Mapping takes a while
        return function(x)
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
    """Return an array, or a tuple or dict of arrays, over the same memory; lists and frames are what is converted."""
    if isinstance(X, Mapping) and not issparse(X):  # a matrix of keys is a dict as well
        return {key: _as_array(value) for key, value in X.items()}
    if isinstance(X, tuple):
        return tuple(_as_array(value) for value in X)
    return _as_array(X)


def _as_array(x: Any) -> Any:
    """Return a dense tensor or numeric array over the same memory; lists and frames are what is converted."""
    if isinstance(x, list) and x and isinstance(x[0], Tensor):
        x = _stacked(x)
    if issparse(x) or "sparse" in type(x).__module__:
        raise InputError(
            f"Sparse data was passed ({type(x).__name__}), but dense data is required. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    array: Any = check_tensor(x.detach()) if isinstance(x, Tensor) else _numeric(x)
    if array.ndim == 0:
        raise InputError("X is a single number; the first dimension must be the rows")
    return array


def check_tensor(x: Tensor, what: str = "X") -> Tensor:
    """Return a tensor, or raise `InputError` unless it holds plain numbers; `what` is what the user calls it."""
    if x.layout != torch.strided and not x.is_nested:
        raise InputError(f"Sparse data was passed ({x.layout}), but dense data is required. Use '.to_dense()'.")
    remedy = _remedy(x)
    if remedy:
        kind = "nested" if x.is_nested else f"{str(x.dtype).removeprefix('torch.')} of shape {list(x.shape)}"
        raise InputError(f"{what} is a tensor, {kind}{remedy}")
    return x


def _remedy(x: Tensor) -> str:
    """Return why a tensor cannot be worked with, and what to pass instead; nothing where it can."""
    if x.is_nested:
        return ": pad it, x.to_padded_tensor(0.0), or pass a Dataset and TorchTrainer(collate=...)"
    if x.is_meta:
        return ", on the device 'meta', so it has no values: pass the tensor that has them"
    if x.is_complex():
        return ", and networks are given real numbers: torch.view_as_real(x) has both parts of each"
    if x.is_quantized:
        return ", quantised: pass x.dequantize()"
    return "" if x.dtype in _NUMBERS else ", which torch cannot compute with: pass x.to(torch.float32)"


def unmasked(x: Any) -> Any:
    """Return an array without its mask, or raise `InputError` if that hides anything."""
    if not isinstance(x, np.ma.MaskedArray):
        return x
    if hidden := int(np.ma.getmaskarray(x).sum()):
        raise InputError(
            f"X is a masked array with {hidden:,} of {x.size:,} entries masked, and what is under the mask would pass "
            "for data: fill them, x.filled(value)"
        )
    return x.data


def _numeric(x: Any) -> np.ndarray[Any, Any]:
    """Return numbers as an array; of a frame, its values."""
    array = unmasked(x) if isinstance(x, np.ndarray) else _from_objects(x)
    if array.dtype.kind in "fiub":
        return array
    if array.dtype.names:
        needed = "one array of numbers, or a dict of one for each field"
        raise InputError(f"X is a structured array with the fields {', '.join(array.dtype.names)}; pass {needed}")
    if hasattr(x, "columns") and hasattr(x, "dtypes"):
        kinds = [f"{name} ({kind})" for name, kind in zip(x.columns, x.dtypes, strict=True)]
        raise InputError(
            f"X is a {type(x).__name__} with the columns {', '.join(kinds[:8])}{', ...' * (len(kinds) > 8)}: they must "
            "be numbers of one kind, for example X.astype(float); encode the others first"
        )
    _refuse_items(x)
    inside = f" of {type(array.flat[0]).__name__}" if array.dtype.kind == "O" and array.size else ""
    raise InputError(f"X has dtype {array.dtype}{inside}; real numbers are needed: convert or encode it first")


def _from_objects(x: Any) -> np.ndarray[Any, Any]:
    if x is None:
        raise InputError("X is None: pass the data, an array or tensor [n ...] or a Dataset")
    if isinstance(x, str | bytes | PathLike):
        raise InputError(
            f"X={x!r} is a text or a path: pass what is in it, for example np.load(path, mmap_mode='r') or "
            "torchvision.datasets.ImageFolder(path); of Parquet, prunefuse_al.data.TableRows(path, label=...)"
        )
    if isinstance(x, Mapping) or not (isinstance(x, Sequence | Number) or any(hasattr(x, name) for name in _AS_ARRAY)):
        raise InputError(f"X holds a {type(x).__name__} where an array or tensor [n ...] is needed")  # not read through
    for row in x if isinstance(x, list | tuple) else ():
        unmasked(row)
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        _refuse_items(x)
        raise InputError(f"X is ragged ({error}): all rows need one shape") from error


def _refuse_items(x: Any) -> None:
    """Raise `InputError` for a list of what a dataset gives one by one."""
    if isinstance(x, list) and x and isinstance(x[0], Mapping | tuple):
        raise InputError(
            f"X is a list of {type(x[0]).__name__}s: pass one array for each input, in a tuple or dict, or a Dataset "
            "with these as its items"
        )


def _stacked(tensors: list[Tensor]) -> Tensor:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise InputError(
            f"X is a list of tensors of {len(shapes)} shapes, {min(shapes)} to {max(shapes)}: all rows need one shape; "
            "for texts of several lengths pass a Dataset, and TorchTrainer(collate=...) to pad each batch"
        )
    return torch.stack(tensors)


def common_length(x: Any) -> int:
    """Return the number of rows of one or several inputs."""
    lengths = [len(leaf) for leaf in leaves(x)]
    if len(set(lengths)) != 1:
        raise InputError(f"the inputs in X have {lengths} rows; all need the same number")
    return lengths[0]


def take(array: Any, rows: Tensor) -> Tensor:
    """Return rows int64 [b] of an array or tensor as a new tensor [b ...], in a type that torch computes with."""
    if isinstance(array, Tensor):
        return native(array.index_select(0, rows.to(array.device)))  # torch 2.6 indexes no uint16
    return _native(np.asarray(_rows(array, rows.numpy())))


def _rows(array: Any, rows: np.ndarray[Any, Any]) -> Any:
    """Return rows of an array, copied: by `take`, which is the quicker, where it does not first copy all there is."""
    direct = isinstance(array, np.ndarray) and array.flags.c_contiguous and array.flags.aligned
    return array.take(rows, 0) if direct else array[rows]


def native(x: Tensor) -> Tensor:
    """Return a tensor with unsigned whole numbers, other than bytes, as int64; the rest as it is.

    Raises:
        InputError: a number of uint64 that int64 has not.
    """
    if x.dtype not in _UNSIGNED:
        return x
    if x.dtype == torch.uint64 and bool((x.view(torch.int64) < 0).any()):
        raise _beyond_int64()
    return x.to(torch.int64)


def _native(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a tensor of an array, in a type that torch computes with; a copy of what may not be written to."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and (array > np.iinfo(np.int64).max).any():
            raise _beyond_int64()
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _beyond_int64() -> InputError:
    return InputError(
        "the data has numbers of 2**63 or more in uint64, and torch computes with int64: they would turn negative; "
        "convert them first, for example to float64"
    )


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
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or math.isfinite(leaf.sum()):
            continue
        rows = ~leaf.isfinite().reshape(leaf.shape[0], -1).all(dim=1)  # [b]
        bad = rows if bad is None else bad | rows
    return torch.empty(0, dtype=torch.int64) if bad is None else bad.nonzero().flatten().cpu()


def describe_rows(rows: Tensor, total: int, show: int = 5) -> str:
    """Return for example ``"rows 3, 8, 9 (3 of 100)"``, naming at most `show` rows."""
    shown = ", ".join(str(int(row)) for row in rows[:show])
    more = ", ..." if len(rows) > show else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more} ({len(rows)} of {total})"
