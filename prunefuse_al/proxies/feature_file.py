"""A file of features that survives the process, of one network and one dataset.

It is a .npy file, features [n d], that any reader of such files takes. Behind the features it holds the digests of the
rows (of arrays), and in JSON what network and what data it is of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..data import replacing, shortage
from ..errors import InputError

_MAGIC = b"prunefuse_al features"
_FORM = {"network": str, "class": str, "rows": int, "item": str, "sample": list, "digests": bool}


@dataclass(frozen=True)
class Identity:
    """What data features are of, as far as a few rows tell.

    Attributes:
        rows: how many.
        item: types and shapes of an input.
        sample: digests of a few of them, evenly spaced.
    """

    rows: int
    item: str
    sample: tuple[str, ...]

    def difference(self, other: Identity) -> str:
        """Return in words what other data differ in; "" where they are the same."""
        if other.rows != self.rows:
            return f"it is of {self.rows:,} rows, and the data has {other.rows:,}"
        if other.item != self.item:
            return f"its rows are {self.item}, and those of the data {other.item}"
        changed = sum(a != b for a, b in zip(self.sample, other.sample, strict=False))
        if changed or len(self.sample) != len(other.sample):
            return f"{changed} of {len(self.sample)} rows that were compared are others in the data"
        return ""


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """A file of features as it lies on the disk, mapped into memory.

    Attributes:
        path: where it is.
        values: features [n d].
        digests: of the rows, uint64 [n 2]; None where the data gave none.
        network: digest of the network's trunk.
        of: what the network is called.
        identity: of the data.
    """

    path: str
    values: np.ndarray[Any, Any]
    digests: np.ndarray[Any, Any] | None
    network: str
    of: str
    identity: Identity


def read_features(path: str) -> FeatureFile | None:
    """Return the file of features at a path; None where there is none.

    Raises:
        InputError: there is something else, or what was written is damaged.
    """
    try:
        shape, dtype, start, size, length, said = _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"features={path!r} cannot be read ({error.strerror}); name another place") from error
    except (ValueError, EOFError) as error:
        raise _foreign(path) from error
    if any(type(said.get(name)) is not kind for name, kind in _FORM.items()) or said["rows"] != shape[0]:
        raise _foreign(path)
    after = start + shape[0] * shape[1] * dtype.itemsize
    if size != after + 16 * shape[0] * said["digests"] + length + 8 + len(_MAGIC):
        raise _foreign(path)
    digests = np.memmap(path, np.uint64, "r", after, (shape[0], 2)) if said["digests"] else None
    identity = Identity(said["rows"], said["item"], tuple(map(str, said["sample"])))
    values = np.memmap(path, dtype, "r", start, shape)
    return FeatureFile(path, values, digests, said["network"], said["class"], identity)


def _read(path: str) -> tuple[tuple[int, ...], np.dtype[Any], int, int, int, dict[str, Any]]:
    """Return the shape and the type of the array in a file, where it starts, the file's size, and what ends it.

    Raises:
        ValueError: it is no file of features.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(max(start, size - 8 - len(_MAGIC)))
        length = int.from_bytes(file.read(8), "little")
        if file.read() != _MAGIC or length > size or len(shape) != 2 or dtype not in (np.float32, np.float64):
            raise ValueError("nothing that a Probe wrote")
        file.seek(max(start, size - 8 - len(_MAGIC) - length))
        said = json.loads(file.read(length))
    if not isinstance(said, dict):
        raise ValueError("nothing that a Probe wrote")
    return shape, dtype, start, size, length, said


def write_features(
    path: str, parts: Iterator[Tensor], digests: np.ndarray[Any, Any] | None, network: str, of: str, identity: Identity
) -> None:
    """Write features to a file, whole or not at all; see `FeatureFile`.

    Args:
        path: where.
        parts: features [b d] of all rows in order, one part after the other.
        digests: see `FeatureFile`.
        network: see `FeatureFile`.
        of: see `FeatureFile`.
        identity: of the data.

    Raises:
        InputError: it cannot be written there.
    """
    size = 0
    try:
        with replacing(path) as file:
            for number, part in enumerate(parts):
                values = part.numpy()
                if not number:
                    size = identity.rows * values[0].nbytes
                    descr, shape = np.lib.format.dtype_to_descr(values.dtype), (identity.rows, values.shape[1])
                    header = {"descr": descr, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(values).data)
            if digests is not None:
                file.write(np.ascontiguousarray(digests).data)
            said = {"network": network, "class": of, **vars(identity), "digests": digests is not None}
            text = json.dumps(said).encode()
            file.write(text + len(text).to_bytes(8, "little") + _MAGIC)
    except OSError as error:
        short = shortage(error, path, size)
        raise InputError(
            f"features={path!r} cannot be written ({error.strerror}){short}; name another place, or pass "
            "features='memory'"
        ) from error


def _foreign(path: str) -> InputError:
    return InputError(
        f"features={path!r} is there, and it is no file of features that a Probe wrote whole: name another place, or "
        "remove it"
    )
