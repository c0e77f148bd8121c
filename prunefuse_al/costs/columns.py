"""A ledger as columns of tensors and back: hundreds of thousands of rows in a file, and none in its header."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .ledger import CostLedger, CostRow

MAX_ROWS = 10_000_000
_WORDS = [field.name for field in fields(CostRow) if field.type == "str"]
_SECONDS = [field.name for field in fields(CostRow) if field.type == "float"]
_BITS = 62  # of a whole number that may be larger than an int64, in two parts


def to_columns(ledger: CostLedger) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return a column of tensors [n] for each measure, and the words that the columns of words count through.

    Whole numbers of more than 62 bits make a column [n 2], of a high and a low part.

    Raises:
        InputError: more than ten million rows.
    """
    rows = ledger.rows()
    if len(rows) > MAX_ROWS:
        raise InputError(f"the ledger has {len(rows):,} rows, and a file holds {MAX_ROWS:,}")
    columns, words = {}, {}
    for field in fields(CostRow):
        values = [getattr(row, field.name) for row in rows]
        if field.name in _WORDS:
            words[field.name] = sorted(set(values))
            place = {word: number for number, word in enumerate(words[field.name])}
            values = [place[value] for value in values]
        columns[field.name] = _column(values, real=field.name in _SECONDS)
    return columns, words


def _column(values: list[Any], *, real: bool) -> Tensor:
    if real:
        return torch.tensor(values, dtype=torch.float64)
    if max(values, default=0) < 2**_BITS:
        return torch.tensor(values, dtype=torch.int64)
    return torch.tensor([divmod(value, 2**_BITS) for value in values], dtype=torch.int64)


def from_columns(columns: Mapping[str, Tensor], words: Mapping[str, Any]) -> CostLedger:
    """Return the ledger that `to_columns` wrote.

    Raises:
        InputError: the columns are not those of a ledger.
    """
    kept = [field.name for field in fields(CostRow) if field.name in columns or field.default is MISSING]
    lists = {name: _values(name, columns, words) for name in kept}
    if len({len(values) for values in lists.values()}) > 1:
        raise InputError(f"the columns of the ledger are of {sorted({len(values) for values in lists.values()})} rows")
    return CostLedger(CostRow(**dict(zip(kept, row, strict=True))) for row in zip(*lists.values(), strict=True))


def _values(name: str, columns: Mapping[str, Tensor], words: Mapping[str, Any]) -> list[Any]:
    column = columns.get(name)
    dtype = torch.float64 if name in _SECONDS else torch.int64
    if column is None or column.dtype != dtype or list(column.shape[1:]) not in ([], [2]) or not column.ndim:
        raise InputError(f"the ledger has no column {name!r} of numbers")
    bad = column[~((column >= 0) & (column < math.inf))]
    if len(bad):
        raise InputError(f"the column {name!r} of the ledger holds {bad[0].item()}; a finite number from 0 is needed")
    values: list[Any] = column.tolist()
    if column.ndim == 2:
        values = [high * 2**_BITS + low for high, low in values]
    if name not in _WORDS:
        return values
    known = words.get(name)
    if not isinstance(known, list) or set(map(type, known)) - {str} or max(values, default=-1) >= len(known):
        raise InputError(f"the ledger has no words for its column {name!r}")
    return [known[value] for value in values]
