"""The user's own ids of rows: what they must be, the order they stand in, and the shard that each belongs to."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ..errors import InputError

Ids = np.ndarray[Any, Any]
"""int64 [n], or objects [n] that are all str."""
_SHOWN = 5
_WHAT = "give every row an id of its own, whole numbers or texts throughout"


def as_ids(values: Any, where: str) -> Ids:
    """Return ids as int64 [n] or str [n], or raise `InputError` unless they are all of one type and none is missing.

    Args:
        values: an array or a list; whole numbers of any width, or texts.
        where: whose they are, for messages.
    """
    found = np.asarray(values)
    if found.ndim != 1:
        raise InputError(f"{where}: ids have shape {list(found.shape)}; {_WHAT}")
    if found.dtype.kind in "iu":
        if found.dtype.kind == "u" and len(found) and int(found.max()) > np.iinfo(np.int64).max:
            raise InputError(f"{where}: ids reach {int(found.max())}, above 2**63 - 1; {_WHAT}")
        return found.astype(np.int64)
    given = found.astype(object) if found.dtype.kind == "U" else found
    missing = sum(value is None or value != value for value in given.tolist())
    if missing:
        raise InputError(f"{where}: {missing:,} of {len(found):,} rows have no id (None or NaN); {_WHAT}")
    kinds = sorted({_kind(value) for value in given.tolist()})
    if len(kinds) > 1:
        raise InputError(f"{where}: ids are of mixed type, {' and '.join(kinds)}; {_WHAT}")
    if kinds == ["int"]:
        return given.astype(np.int64)
    if kinds not in ([], ["str"]):
        raise InputError(f"{where}: ids are of type {kinds[0]}; {_WHAT}")
    return given.astype(object)


def together(parts: list[Ids]) -> Ids:
    """Return the ids of several parts as one, or raise `InputError` where their types differ or an id comes twice."""
    some = [part for part in parts if len(part)]
    if len({part.dtype.kind for part in some}) > 1:
        shown = " and ".join(repr(next(p for p in some if p.dtype.kind == kind)[0]) for kind in "iO")
        raise InputError(f"ids are of mixed type, such as {shown}; {_WHAT}")
    ids = np.concatenate(some) if some else np.empty(0, np.int64)
    ordered = np.sort(ids)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(twice):
        raise InputError(f"{len(twice):,} ids occur more than once, such as {shown_ids(twice)}; {_WHAT}")
    return ids


def shown_ids(ids: Ids) -> str:
    """Return the first few ids, for messages."""
    return f"[{', '.join(map(repr, ids[:_SHOWN].tolist()))}{', ...' if len(ids) > _SHOWN else ''}]"


def hashed(ids: Ids, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return a number for each id, uint64 [n], as good as random, and the same on every machine."""
    if ids.dtype.kind == "i":
        codes = ids.view(np.uint64)
    else:
        texts = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in ids.tolist())
        codes = np.array([int.from_bytes(text.digest(), "little") for text in texts], dtype=np.uint64)
    return _mixed(codes ^ _mixed(np.array([seed], np.uint64)))


def shard_of(ids: Ids, shards: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the number of each id's shard, int64 [n] below `shards`: however rows are parted, it is the same."""
    found: np.ndarray[Any, np.dtype[np.int64]] = (hashed(ids) % np.uint64(shards)).astype(np.int64)
    return found


def _mixed(codes: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the codes mixed by the finaliser of splitmix64 (Steele et al., 2014)."""
    codes = codes + np.uint64(0x9E3779B97F4A7C15)
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    codes ^= codes >> np.uint64(31)
    return codes


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int"
    return "str" if isinstance(value, str) else type(value).__name__
