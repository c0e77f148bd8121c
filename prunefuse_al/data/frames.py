"""Tables with named columns as rows of a network's input: pandas, Arrow, and Parquet files of any size."""

from __future__ import annotations

import difflib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from .arrays import describe_rows, take
from .items import Parts
from .stores import Rows

Array = np.ndarray[Any, Any]
Inputs = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None


class Columns(Protocol):
    """What a table is read by."""

    names: list[str]

    def __len__(self) -> int: ...

    def take(self, rows: Array, names: Sequence[str]) -> Mapping[str, Any]:
        """Return columns of some rows, int64 [b], by name: each a pandas series or an Arrow array [b]."""
        ...


class TableRows(Rows):
    """Rows of a table with named columns, read batch by batch: of Parquet files no more is in memory than `memory`.

    Whole tables are kept by reference. Columns are numbers, or lists of numbers of one length; nothing else is a
    network's input, so texts and categories are to be encoded first.

    Args:
        table: a `pandas.DataFrame`; a `pyarrow.Table`, or whatever gives one (polars, DuckDB); or Parquet files: a
            path, a folder of them (read in the order of their names), or a list of paths.
        label: the column of labels, numbers of classes or what the trainer's loss takes; None: there are none.
        inputs: None, every other column, side by side, [b d]; a list of columns, these; the name of one column, what is
            in it, [b] or [b ...]; or a dict from names of arguments of the network's `forward` to columns of any of
            these forms.
        sample_weight: the column of weights; None: there are none.
        memory: bytes of Parquet that are kept once read. Files are read by row groups: a pool is read in order, each
            group once; rows drawn from more groups than fit are read again and again. For training on many rows of
            large files, write smaller groups, or map an Arrow file,
            ``pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all()``.

    Raises:
        InputError: a column that is not there, or is not numbers; no table, or no files.
        MissingDependencyError: Parquet or Arrow without pyarrow.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"height": [1.5, 2.5], "weight": [3.0, 4.0], "kind": [0, 1]})
        >>> TableRows(frame, "kind")[1]
        (tensor([2.5000, 4.0000], dtype=torch.float64), tensor(1))
    """

    def __init__(
        self,
        table: Any,
        label: str | None = None,
        *,
        inputs: Inputs = None,
        sample_weight: str | None = None,
        memory: int = 2**30,
    ) -> None:
        self._columns = _columns_of(table, checks.whole("memory", memory, least=0))
        self.label = checks.maybe(self._name, "label", label)
        self.sample_weight = checks.maybe(self._name, "sample_weight", sample_weight)
        rest = [name for name in self._columns.names if name not in (self.label, self.sample_weight)]
        self.inputs = self._inputs(rest if inputs is None else inputs)
        if len(self):
            self.take(torch.zeros(1, dtype=torch.int64))  # what is no number is refused at the door

    def __len__(self) -> int:
        return len(self._columns)

    def take(self, rows: Tensor) -> Parts:
        """Return (x, y, sample_weight) of `rows`, int64 [b]; see the class."""
        parts = self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs]
        inputs = [name for part in parts for name in ([part] if isinstance(part, str) else part)]
        names = dict.fromkeys([*inputs, *filter(None, (self.label, self.sample_weight))])
        found = self._columns.take(rows.numpy(), list(names))
        numbers = {name: _numbers(name, column, rows, len(self)) for name, column in found.items()}
        y = None if self.label is None else _tensor(numbers[self.label])
        w = None if self.sample_weight is None else _tensor(numbers[self.sample_weight]).double()
        if isinstance(self.inputs, dict):
            return {argument: _joined(part, numbers) for argument, part in self.inputs.items()}, y, w
        return _joined(self.inputs, numbers), y, w

    def _inputs(self, inputs: Any) -> str | list[str] | dict[str, str | list[str]]:
        if isinstance(inputs, Mapping) and inputs:
            return {str(argument): self._names(part) for argument, part in inputs.items()}
        return self._names(inputs)

    def _names(self, part: Any) -> str | list[str]:
        if isinstance(part, str):
            return self._name("inputs", part)
        what = "the name of a column, a list of names, or a dict of those by argument of the network"
        if not isinstance(part, Sequence) or not part:
            raise checks.refused("inputs", part, what)
        return [self._name("inputs", name) for name in part]

    def _name(self, argument: str, value: Any) -> str:
        names = self._columns.names
        if isinstance(value, str) and value in names:
            return value
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise checks.refused(argument, value, f"a column of the table, which has {', '.join(map(repr, names))}{hint}")


def _columns_of(table: Any, memory: int) -> Columns:
    """Return what a table is read by."""
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return _Pandas(table)
    if isinstance(table, str | os.PathLike) or (isinstance(table, list | tuple) and table):
        return _Parquet(_files(table), memory)
    if hasattr(table, "take") and hasattr(table, "column_names") and hasattr(table, "schema"):
        return _Arrow(table)
    if hasattr(table, "__arrow_c_stream__"):
        return _Arrow(checks.installed("pyarrow", extra="data").table(table))
    raise checks.refused("table", table, "a DataFrame, an Arrow table, or the path of Parquet files")


class _Pandas:
    def __init__(self, frame: Any) -> None:
        self.frame, self.names = frame, [str(name) for name in frame.columns]
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise InputError(f"the table has several columns called {', '.join(map(repr, twice))}: give each its name")

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: Array, names: Sequence[str]) -> dict[str, Any]:
        return {name: self.frame.iloc[:, self.names.index(name)].iloc[rows] for name in names}


class _Arrow:
    def __init__(self, table: Any) -> None:
        self.table, self.names = table, list(table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, rows: Array, names: Sequence[str]) -> dict[str, Any]:
        some = self.table.select(list(names)).take(rows)
        return {name: some.column(name) for name in names}


@dataclass(frozen=True)
class _Group:
    """One row group of one file: what Parquet is read by."""

    path: str
    number: int
    rows: int


@dataclass
class _Parquet:
    """Parquet files, of which the row groups that were asked for last are kept."""

    paths: list[str]
    memory: int
    names: list[str] = field(init=False)
    groups: list[_Group] = field(init=False)
    kept: OrderedDict[tuple[int, tuple[str, ...]], Any] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        parquet, self.groups = checks.installed("pyarrow.parquet", extra="data"), []
        first: Any = None
        for path in self.paths:
            try:
                with parquet.ParquetFile(path) as file:
                    schema, about = file.schema_arrow, file.metadata
            except (OSError, ValueError) as error:  # what pyarrow raises is one of both
                raise InputError(f"{path} cannot be read as Parquet: {error}") from error
            first = schema if first is None else first
            if not schema.equals(first):
                raise InputError(f"{path} has other columns than {self.paths[0]}: {schema.names}, {first.names}")
            self.groups += [_Group(path, n, about.row_group(n).num_rows) for n in range(about.num_row_groups)]
        self.names = list(first.names)
        self.starts = np.cumsum([0, *(group.rows for group in self.groups)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, rows: Array, names: Sequence[str]) -> dict[str, Any]:
        pyarrow = checks.installed("pyarrow", extra="data")
        of = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(of, kind="stable")
        parts = [self._group(g, tuple(names)).take(rows[of == g] - self.starts[g]) for g in np.unique(of).tolist()]
        together = pyarrow.concat_tables(parts).take(np.argsort(order))  # back in the order that was asked for
        return {name: together.column(name) for name in names}

    def _group(self, number: int, names: tuple[str, ...]) -> Any:
        key = (number, names)
        if key not in self.kept:
            group = self.groups[number]
            with checks.installed("pyarrow.parquet", extra="data").ParquetFile(group.path) as file:
                self.kept[key] = file.read_row_group(group.number, columns=list(names))
        self.kept.move_to_end(key)
        while len(self.kept) > 1 and sum(table.nbytes for table in self.kept.values()) > self.memory:
            self.kept.popitem(last=False)
        return self.kept[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": OrderedDict()}


def _files(given: Any) -> list[str]:
    """Return the paths of Parquet files."""
    if isinstance(given, list | tuple):
        return [checks.path("table", path, "paths of Parquet files") for path in given]
    path = Path(checks.path("table", given))
    if not path.is_dir():
        return [str(path)]
    found = sorted(str(file) for file in path.rglob("*.parquet") if not file.name.startswith((".", "_")))
    if not found:
        raise InputError(f"table={str(path)!r} is a folder without files called *.parquet")
    return found


def _numbers(name: str, column: Any, rows: Tensor, total: int) -> Array:
    """Return a column of some rows as numbers [b ...], or raise `InputError` unless it is made of them."""
    missing = _missing(column)
    if missing.any():
        where = describe_rows(rows[torch.from_numpy(missing)], total)
        raise InputError(f"column {name!r} has no value in {where}: fill these cells, or leave the rows out")
    values = column.to_numpy() if hasattr(column, "iloc") else _of_arrow(column)
    if values.dtype == object:
        values = _stacked(name, values)
    if values.dtype.kind not in "fiub":
        kind = getattr(column, "dtype", None) or column.type
        raise InputError(
            f"column {name!r} holds {kind}, and a network takes numbers: encode it, or name the columns that are "
            "numbers in inputs=[...]"
        )
    return values


def _missing(column: Any) -> Array:
    """Return the mask [b] of cells that are empty; NaN among floats is a number, which is looked at elsewhere."""
    if not hasattr(column, "iloc"):
        return np.array(column.is_null())
    floats = isinstance(column.dtype, np.dtype) and column.dtype.kind == "f"
    return np.zeros(len(column), bool) if floats else np.array(column.isna())


def _of_arrow(column: Any) -> Array:
    """Return an Arrow array as one of NumPy: lists of one length as further dimensions."""
    types = checks.installed("pyarrow", extra="data").types
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if types.is_fixed_size_list(column.type) or types.is_list(column.type) or types.is_large_list(column.type):
        inner = _of_arrow(column.flatten())
        lengths = np.asarray(column.value_lengths())
        if len(column) and (lengths == lengths[0]).all() and inner.dtype != object:
            return inner.reshape(len(column), int(lengths[0]), *inner.shape[1:])
    if types.is_dictionary(column.type) or types.is_temporal(column.type):
        return np.empty(len(column), dtype="U1")  # no numbers, whatever stands for them
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _stacked(name: str, cells: Array) -> Array:
    """Return cells that are lists or arrays of numbers as one array [b ...]; others as they are."""
    arrays = [np.asarray(cell) for cell in cells] if all(isinstance(c, list | np.ndarray) for c in cells) else []
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise InputError(
            f"column {name!r} holds lists of {len(shapes)} lengths, {min(shapes)} to {max(shapes)}: all rows need one "
            "shape; for texts of several lengths pass a Dataset, and TorchTrainer(collate=...) to pad each batch"
        )
    return np.stack(arrays) if arrays else cells.astype("U1")


def _joined(part: str | list[str], numbers: Mapping[str, Array]) -> Tensor:
    """Return one column as it is, or several side by side, [b d]."""
    if isinstance(part, str):
        return _tensor(numbers[part])
    if wide := [name for name in part if numbers[name].ndim > 1 and len(part) > 1]:
        raise InputError(f"column {wide[0]!r} holds lists and cannot stand beside others: name it alone in inputs")
    if len(part) == 1 and numbers[part[0]].ndim > 1:
        return _tensor(numbers[part[0]])
    return _tensor(np.column_stack([numbers[name] for name in part]))


def _tensor(values: Array) -> Tensor:
    return take(values, torch.arange(len(values)))
