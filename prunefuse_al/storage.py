"""Where what a network says is kept: tensors that are allocated once and filled batch by batch, features on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from . import checks
from .arrays import nonfinite_rows
from .errors import InputError, NonFiniteError

FEATURE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class RowStore:
    """Named tensors [n ...] that are filled from the top; a context, so that a file appears whole or not at all.

    Args:
        n: rows.
        features_dtype: "float32" (as they come) or "float16", of the tensor called "features".
        features_path: a .npy file for "features", mapped into memory: written beside its place and moved there at the
            end. Tensors that are mapped from an older file of that name stay as they are.

    Raises:
        InputError: another dtype, or a path that is no .npy file in a folder that can be written to.
    """

    def __init__(
        self, n: int, *, features_dtype: str = "float32", features_path: str | os.PathLike[str] | None = None
    ) -> None:
        check_storage(features_dtype, features_path)
        self.n, self.filled = n, 0
        self.tensors: dict[str, Tensor] = {}
        self._half, self._path, self._part = features_dtype == "float16", features_path, ""

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
        path = Path(self._path)
        try:
            handle, self._part = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
            os.close(handle)
            dtype = np.dtype(str(like.dtype).removeprefix("torch."))
            return torch.from_numpy(np.lib.format.open_memmap(self._part, mode="w+", dtype=dtype, shape=shape))
        except OSError as error:
            raise InputError(f"features_path={str(path)!r} cannot be written ({error}); name another place") from error

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._part:
            return
        if error is None and self._path is not None:
            os.replace(self._part, self._path)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._part)


def check_storage(features_dtype: str, features_path: str | os.PathLike[str] | None) -> None:
    """Raise `InputError` unless features can be kept as asked; see `RowStore`."""
    checks.one_of("features_dtype", features_dtype, FEATURE_DTYPES)
    if features_path is None:
        return
    path = Path(checks.path("features_path", features_path))
    if path.suffix != ".npy" or not path.parent.is_dir():
        raise InputError(f"features_path={str(path)!r}; name a .npy file in a folder that is there")


def _halved(values: Tensor) -> Tensor:
    half = values.half()
    lost = nonfinite_rows(half)
    if len(lost) > len(nonfinite_rows(values)):
        raise NonFiniteError(
            f"features up to {float(values[lost].abs().max()):.3g} do not fit half precision, which ends at 65,504; "
            "use features_dtype='float32'"
        )
    return half
