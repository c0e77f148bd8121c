"""What `PruneFuseEstimator` makes of the X and y it is given."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..data import as_arrays, as_dataset, given_labels, leaves, refuse_missing, split_row, subset
from ..errors import InputError
from ..network import SIGMOID, modes_kept, of_trainer, seen_by_scorers, single
from ..training import LOGITS
from ..types import Trainer
from .sparse import SparseRows
from .targets import read_labels, several


def read_labelled(
    estimator: Any, X: Any, y: Any, call: str, *, reset: bool = False
) -> tuple[Any, np.ndarray[Any, Any]]:
    """Return X checked, and labels [n], or [n c] of 0 and 1."""
    X = _admitted(X)
    if y is None and isinstance(X, tuple) and estimator.dataset is None:
        raise InputError(f"{call}: X is a tuple of {len(X)} and y is None; labels go beside it: {call}(X, y)")
    if _is_array(estimator, X):
        labels = y
        if several(y):
            labels = read_labels(y)
        elif not issparse(y):
            refuse_missing(np.asarray(y))
        x, labels = validate_data(estimator, X, labels, reset=reset, multi_output=several(y), **_array_rules(estimator))
        return _rows(x), read_labels(labels)
    data = as_dataset(read(estimator, X, reset=reset))
    labels = given_labels(data) if y is None else y
    if labels is None:
        raise InputError(f"{call}: the data has no labels; pass y, or a Dataset whose items are (input, label)")
    return data, read_labels(labels)


def read(estimator: Any, X: Any, *, reset: bool = False) -> Any:
    """Return X checked; row numbers become rows of `dataset`."""
    X = _admitted(X)
    if estimator.dataset is not None:
        rows = np.asarray(X)
        if rows.dtype.kind not in "iu" or rows.ndim == 0 or rows.size != len(rows):
            raise InputError(
                f"with dataset=, X must be row numbers of it, [n] or [n 1]; found {list(rows.shape)} of {rows.dtype}"
            )
        return subset(as_dataset(estimator.dataset), rows.reshape(-1))
    if _is_array(estimator, X):
        return _rows(validate_data(estimator, X, reset=reset, **_array_rules(estimator)))
    if estimator.module is None:
        shapes = " and ".join(str(list(np.shape(part))) for part in X) if isinstance(X, tuple) else ""
        found = type(X).__name__ + (f" of arrays {shapes}" if shapes else "")
        raise InputError(
            f"X is a {found}; without module= a perceptron for tables is built: pass an array [n d], or a module"
        )
    return X


def _admitted(X: Any) -> Any:
    """Return X, the dataset of a loader; or raise `InputError` where scikit-learn would take it for something else."""
    if isinstance(X, DataLoader):
        return as_dataset(X)
    foreign = isinstance(X, str | bytes | PathLike | Tensor | np.ma.MaskedArray | None)
    if foreign or (isinstance(X, np.ndarray) and X.dtype.kind in "mMV"):
        return as_arrays(X)
    return X


def _is_array(estimator: Any, X: Any) -> bool:
    """Tell whether scikit-learn should check X; with a module, tensors, memmaps and datasets are read by batch."""
    if estimator.dataset is not None:
        return False
    if issparse(X):
        return True
    if estimator.module is None:
        several = isinstance(X, tuple) and any(getattr(part, "ndim", 0) > 1 for part in X)
        return not several and not isinstance(X, Dataset | Mapping)
    return isinstance(X, list) or (hasattr(X, "__array__") and not isinstance(X, Tensor | np.memmap))


def _array_rules(estimator: Any) -> dict[str, Any]:
    if estimator.module is None:
        return {"dtype": (np.float64, np.float32), "accept_sparse": "csr"}
    return {"dtype": "numeric", "accept_sparse": "csr", "allow_nd": True, "ensure_2d": False}


def _rows(x: Any) -> Any:
    return SparseRows(x) if issparse(x) else x


def count_outputs(trainer: Trainer, module: nn.Module, X: Any) -> tuple[int, bool]:
    """Return how many classes `module` has outputs for, or independent labels, and whether these are independent."""
    data = as_dataset(X)
    with modes_kept(module):
        signals = trainer.infer(module, subset(data, range(min(2, len(data)))), LOGITS)
    signals = seen_by_scorers(signals, of_trainer(trainer))
    assert signals.logits is not None
    return 1 if single(signals.logits) else int(signals.logits.shape[1]), signals.outputs == SIGMOID


def row_shape(X: Any) -> tuple[int, ...]:
    """Return the shape of one input; of several inputs, the first one's."""
    return tuple(np.shape(leaves(split_row(as_dataset(X), 0)[0])[0]))
