"""Where what a network says is kept: tensors that are allocated once and filled batch by batch, features on disk."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..data import nonfinite_rows, replacing, reserve, shortage
from ..errors import InputError, NonFiniteError

FEATURE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class RowStore:
    """Named tensors [n ...] that are filled from the top; a context, so that a file appears whole or not at all.

    Args:
        n: rows.
        features_dtype: "float32" (as they come) or "float16", of the tensor called "features".
        features_path: a .npy file for "features", mapped into memory: written beside its place and moved there at the
            end (see `files.replacing`). Tensors that are mapped from an older file of that name stay as they are.

    Raises:
        InputError: another dtype, a path that is no .npy file in a folder that can be written to, or a disk without
            room for it: `add` says so before anything is written.
    """

    def __init__(
        self, n: int, *, features_dtype: str = "float32", features_path: str | os.PathLike[str] | None = None
    ) -> None:
        check_storage(features_dtype, features_path)
        self.n, self.filled = n, 0
        self.tensors: dict[str, Tensor] = {}
        self._half, self._path, self._files = features_dtype == "float16", features_path, contextlib.ExitStack()

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Put tensors [b ...] below those that are there; every batch must have the same names.

        Raises:
            NonFiniteError: finite features that half precision cannot hold.
        """
        size = 0
        for name, values in batch.items():
            size = len(values)
            if name == "features" and self._half:
                values = _halved(values)
            if name not in self.tensors:
                self.tensors[name] = self._empty(name, values)
            self.tensors[name][self.filled : self.filled + size] = values
        self.filled += size

    @torch.inference_mode(False)  # what is made within it could not be changed outside
    def _empty(self, name: str, like: Tensor) -> Tensor:
        shape = (self.n, *like.shape[1:])
        if name != "features" or self._path is None:
            return torch.empty(shape, dtype=like.dtype)
        return torch.from_numpy(self._mapped(self._path, shape, np.dtype(str(like.dtype).removeprefix("torch."))))

    def _mapped(self, path: str | os.PathLike[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return an array in a new .npy file that has its place on the disk already."""
        size = math.prod(shape) * dtype.itemsize
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        try:
            file = self._files.enter_context(replacing(path, lasting=False))  # every query writes it anew
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            reserve(file, start + size)
            return np.memmap(file, dtype, "r+", start, shape)
        except OSError as error:
            short = shortage(error, path, size)
            less = ", or features_dtype='float16' for half of it" if short and not self._half else ""
            raise InputError(
                f"features_path={os.fspath(path)!r} cannot be written ({error.strerror}){short}; "
                f"name another place{less}"
            ) from error

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.__exit__(kind, error, at)


def check_storage(features_dtype: str, features_path: str | os.PathLike[str] | None) -> None:
    """Raise `InputError` unless features can be kept as asked; see `RowStore`."""
    checks.one_of("features_dtype", features_dtype, FEATURE_DTYPES)
    if features_path is None:
        return
    path = Path(checks.path("features_path", features_path))
    if path.suffix != ".npy" or not path.parent.is_dir() or (path.exists() and not path.is_file()):
        raise InputError(f"features_path={str(path)!r}; name a .npy file in a folder that is there")


def _halved(values: Tensor) -> Tensor:
    half = values.half()
    lost = nonfinite_rows(half)
    if len(lost) > len(nonfinite_rows(values)):
        raise NonFiniteError(
            f"features up to {float(values[lost].abs().max()):.3g} do not fit half precision, which ends at 65,504; "
            "use features_dtype='float32', or Probe(features='memory')"
        )
    return half
