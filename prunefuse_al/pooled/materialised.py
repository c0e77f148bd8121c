"""Rows of an engine's table in this process, to train on: in the order of their ids, whatever order they came in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..data import ArrayDataset, as_dataset, map_leaves
from ..errors import InputError
from .asking import Batch, Table
from .ids import Ids, shown_ids, together


class IdentifiedRows(ArrayDataset):
    """Rows with labels, to be passed to `fit`; `ids` [n] are the user's, sorted."""

    ids: Ids


def materialised(batches: Iterable[Batch], table: Table, label: str, ids: Any = None) -> IdentifiedRows:
    """Return the rows of some batches, read one after the other, as arrays.

    Args:
        batches: of a table.
        table: where ids and inputs stand.
        label: the column of labels.
        ids: which rows; None: all.

    Raises:
        InputError: ids are missing, repeated or of mixed type, or some that are asked for are not there.
    """
    wanted = None if ids is None else table.ids({table.id: ids})
    parts: list[tuple[Ids, Any, Any]] = []
    for batch in batches:
        own = table.ids(batch)
        rows = np.arange(len(own)) if wanted is None else np.flatnonzero(np.isin(own, wanted))
        if len(rows):
            some = {name: np.asarray(values)[rows] for name, values in batch.items()}
            parts.append((own[rows], table.inputs(some), some[label]))
    found = together([part[0] for part in parts])
    missing = np.empty(0) if wanted is None else np.setdiff1d(wanted, found)
    if len(missing) or not parts:
        what = f"{len(missing):,} ids are not there, such as {shown_ids(missing)}" if len(missing) else "it has no rows"
        raise InputError(f"the rows to train on: {what}; pass ids of this table")
    order = np.argsort(found, kind="stable")
    x = _joined([part[1] for part in parts], order)
    data = as_dataset(x, np.concatenate([part[2] for part in parts])[order])
    rows_of = IdentifiedRows(data.x, data.y)
    rows_of.ids = found[order]
    return rows_of


def _joined(parts: list[Any], order: Any) -> Any:
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(each)[order] for each in zip(*parts, strict=True))
    return map_leaves(np.concatenate([np.asarray(part) for part in parts]), lambda leaf: leaf[order])
