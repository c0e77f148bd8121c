"""`FeatureStore`: what a frozen trunk says of rows, computed once and found again; `FeatureRows` are read instead."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..costs import Stage
from ..data import Rows, rooted
from ..errors import InputError
from ..network import named_tensors, stand_in
from ..training import Reader
from .feature_file import FeatureFile, read_features, write_features
from .known_rows import COMPARED, Origin, digests, identity_of, sample_of
from .probe_head import Head, head_of
from .protocol import Task

IN_MEMORY = ("memory", "float16")
"""Where features are kept, if not in a file."""
FEATURES = frozenset({"features"})
TABLES = 64
"""Askings whose features are kept; those that were not used for longest are forgotten."""
_ROUNDING = 0.02
"""How far features may be from those of an older file, beside the largest: another processor, or precision."""
_PART = 8192
"""Rows whose features are computed at once for a file."""


@dataclass(frozen=True, eq=False)
class Table:
    """Features of some rows of one dataset; never changed.

    Attributes:
        values: features [m d], float32, float64 or float16.
        rows: of the dataset, int64 [m], ascending.
        origin: the dataset; None where it is not known yet, as of a file.
        digests: of the rows, uint64 [m 2]; None of what is no arrays.
        order: of the digests, by their first halves, int64 [m].
    """

    values: Any
    rows: Tensor
    origin: Origin | None
    digests: np.ndarray[Any, Any] | None = None
    order: np.ndarray[Any, Any] | None = None

    @classmethod
    def of(cls, values: Any, rows: Tensor, origin: Origin | None, digests: np.ndarray[Any, Any] | None) -> Table:
        """Return a table in which rows can be looked for."""
        return cls(values, rows, origin, digests, None if digests is None else np.argsort(digests[:, 0]))

    def at(self, places: Tensor) -> Tensor:
        """Return features [b d] at places of the table, as floats of 32 or 64 bits."""
        found = torch.as_tensor(self.values[places if isinstance(self.values, Tensor) else places.numpy()])
        return found.float() if found.dtype == torch.float16 else found

    def of_rows(self, dataset: Any, rows: Tensor) -> Tensor:
        """Return where rows of a dataset are in the table, int64 [b], -1 where they are not."""
        missing = torch.full_like(rows, -1)
        if self.origin is None or not len(self.rows) or not self.origin.same(dataset):
            return missing
        place = torch.searchsorted(self.rows, rows).clamp_max(len(self.rows) - 1)
        found = torch.where(self.rows[place] == rows, place, missing)
        return found if self._as_they_were(dataset, rows, found) else missing

    def of_digests(self, wanted: np.ndarray[Any, Any]) -> Tensor:
        """Return where rows with these digests, uint64 [b 2], are in the table, int64 [b], -1 where they are not."""
        if self.digests is None or self.order is None or not len(self.order):
            return torch.full((len(wanted),), -1)
        first = self.digests[self.order, 0]
        place = self.order[np.searchsorted(first, wanted[:, 0]).clip(max=len(first) - 1)]
        return torch.from_numpy(np.where((self.digests[place] == wanted).all(1), place, -1))

    def _as_they_were(self, dataset: Any, rows: Tensor, places: Tensor) -> bool:
        """Tell whether a few of the rows found hold what they did: arrays may have been written to since."""
        found = (places >= 0).nonzero()[:, 0]
        if self.digests is None or not len(found):
            return True
        some = found[torch.linspace(0, len(found) - 1, min(len(found), COMPARED)).round().long()]
        now = digests(dataset, rows[some])
        return now is not None and bool((now == self.digests[places[some].numpy()]).all())


class FeatureRows(Rows):
    """Features of the rows of a dataset, in the place of its inputs.

    Attributes:
        tables: where they are.
    """

    def __init__(self, tables: list[Table], table: Tensor, place: Tensor) -> None:
        self.tables, self._table, self._place = tables, table, place

    def __len__(self) -> int:
        return len(self._table)

    def take(self, rows: Tensor) -> tuple[Tensor, None, None]:
        """Return features [b d] of rows that were asked for when this was made."""
        return _gathered(self.tables, self._table[rows], self._place[rows]), None, None


def _gathered(tables: list[Table], table: Tensor, place: Tensor) -> Tensor:
    """Return features [b d] from these tables and these places in them, both int64 [b]."""
    if bool((table < 0).any()):
        raise IndexError("their features were not asked for when the others were")
    empty = tables[0].at(torch.empty(0, dtype=torch.int64))  # [0 d]
    features = empty.new_empty(len(table), empty.shape[1])
    for number in table.unique().tolist():
        here = table == number
        features[here] = tables[number].at(place[here])
    return features


class _Asking:
    """Asks the dense network about rows of a dataset, within a stage; the network is only made ready where it is asked.

    Args:
        task: with the dense network and who asks it.
        root: dataset.
        stage: counts what passes.
        dtype: in which features are kept: "float32", as they come, or "float16".
    """

    def __init__(self, task: Task, root: Any, stage: Stage, dtype: str) -> None:
        self.root = root
        self._task, self._stage, self._dtype = task, stage, dtype
        self._reader: Reader | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Return features [b d] of rows, in the type in which they are kept."""
        if self._reader is None:
            self._reader = Reader(self._task.trainer, stand_in(self._task.dense), self.root)
            self._reader.watched(self._stage)
        features = self._reader.signals(rows, FEATURES, features_dtype=self._dtype).features
        assert features is not None
        return features if self._dtype == "float16" or features.dtype == torch.float64 else features.float()


class FeatureStore:
    """Features of one trunk.

    A dataset is recognised if it is the same object, or arrays over the same memory (also some rows of it, and with
    labels beside it); rows of arrays also where a copy of them comes, by all of their bytes. Tensors that were written
    to are noticed, arrays of NumPy by a few of their rows.

    Args:
        kept: "memory", "float16", or a path.
        replaces: digest of another trunk whose file may be written over: the one of which this one was trained.
    """

    def __init__(self, kept: str, replaces: str | None = None) -> None:
        self.kept, self.replaces = kept, replaces
        self._tables: list[Table] = []
        self._file: FeatureFile | None = None
        self._opened, self._digest = kept in IN_MEMORY, ""
        self._checked = False
        self._head: Head | None = None

    def head(self, task: Task) -> Head:
        """Return the head of the dense network; it is looked for once."""
        if self._head is None:
            self._head = head_of(task)
        return self._head

    def rows(
        self, task: Task, rows: Tensor | None = None, *, stage: str = "features", kept: bool = True, pool: bool = False
    ) -> FeatureRows:
        """Return features of rows of the task's data, those that are not known computed by the dense network.

        Args:
            task: with the dense network, the data and the ledger.
            rows: of the data, int64 [m]; None: all.
            stage: of the ledger: what is looked for and computed is measured as one.
            kept: what is computed will be found again.
            pool: the data is what a file of features is of.

        Raises:
            InputError: a file is of another network or of other data, or cannot be written.
            NonFiniteError: NaN or infinity in inputs or features, or numbers that half precision cannot hold.
        """
        with task.ledger.stage(stage, round=task.round, network="dense") as measured:
            measured.describe(task.dense)
            root, own = rooted(task.data)
            asked = torch.arange(len(task.data)) if rows is None else rows
            wanted = asked if own is None else own[asked]
            ask = _Asking(task, root, measured, "float16" if self.kept == "float16" else "float32")
            self._open(task)
            if pool and self.kept not in IN_MEMORY:
                self._in_file(task, ask, wanted)
            tables = list(self._tables)
            table, place = _found(tables, root, wanted)
            self._check_said(ask, tables, wanted, table, place)
            here = table < 0
            if here.any():
                missing = wanted[here].unique()
                table[here], place[here] = len(tables), torch.searchsorted(missing, wanted[here])
                tables.append(Table.of(ask(missing), missing, Origin(root), digests(root, missing)))
        if kept:
            used = set(table.unique().tolist())
            ordered = [t for i, t in enumerate(tables) if i not in used] + [tables[i] for i in sorted(used)]
            self._tables = ordered[-TABLES:]
        every = torch.full((2, len(task.data)), -1)
        every[:, asked] = torch.stack([table, place])
        return FeatureRows(tables, *every)

    def digest(self, task: Task) -> str:
        """Return the digest of the trunk."""
        if not self._digest:
            self._digest = trunk_digest(task.dense, self.head(task).name)
        return self._digest

    # ---- the file

    def _open(self, task: Task) -> None:
        """Map the file that is there, if one is kept."""
        if self._opened:
            return
        file = read_features(self.kept)
        if file is not None and file.network != self.digest(task):
            if file.network != self.replaces:
                raise InputError(
                    f"features={self.kept!r} holds what another network, a {file.of}, says of data: its weights are "
                    "not those of this one; name another place, or remove the file"
                )
            file = None
        self._opened, self._file = True, file
        if file is not None:
            self._tables = [Table.of(file.values, torch.arange(len(file.values)), None, file.digests)]

    def _in_file(self, task: Task, ask: _Asking, wanted: Tensor) -> None:
        """Have the features of a whole dataset in the file, or at least those of the rows that are wanted."""
        file, root = self._file, ask.root
        if file is None:
            file = self._written(task, ask)
        elif any(table.values is file.values and table.origin and table.origin.same(root) for table in self._tables):
            return
        else:
            difference = file.identity.difference(identity_of(root))
            if difference and bool((_found(self._tables, root, wanted)[0] >= 0).all()):
                return  # a pool out of which rows were taken
            if difference:
                raise self._other(difference)
        table = Table.of(file.values, torch.arange(len(root)), Origin(root), file.digests)
        others = [t for t in self._tables if t.origin is not None and not t.origin.same(root)]
        self._file, self._tables = file, [*others, table]

    def _written(self, task: Task, ask: _Asking) -> FeatureFile:
        """Return the file with features of all rows of a dataset, which is written."""
        found, parts = digests(ask.root, torch.arange(len(ask.root))), self._all(ask)
        name, identity = type(task.dense).__name__, identity_of(ask.root)
        write_features(self.kept, parts, found, self.digest(task), name, identity)
        self._checked = True
        file = read_features(self.kept)
        assert file is not None
        return file

    def _all(self, ask: _Asking) -> Iterator[Tensor]:
        """Yield features of all rows, [b d] at once, those that are known as they are."""
        known, every = list(self._tables), torch.arange(len(ask.root))
        table, place = _found(known, ask.root, every)
        for rows in every.split(_PART):
            tables, own, at = known, table[rows], place[rows]
            here = own < 0
            if here.any():
                tables = [*known, Table(ask(rows[here]), rows[here], None)]
                own[here], at[here] = len(known), torch.arange(int(here.sum()))
            yield _gathered(tables, own, at)

    def _check_said(self, ask: _Asking, tables: list[Table], rows: Tensor, table: Tensor, place: Tensor) -> None:
        """Raise `InputError` where what an older file says is not what the network says now; looked at once.

        Args:
            ask: the network.
            tables: where rows were found.
            rows: of the dataset, int64 [m].
            table: which table each is in.
            place: and where there.
        """
        mapped = [i for i, each in enumerate(tables) if self._file is not None and each.values is self._file.values]
        here = (table == mapped[0]).nonzero()[:, 0] if mapped and not self._checked else torch.empty(0)
        if not len(here):
            return
        some = here[sample_of(len(here))]
        now, then = ask(rows[some]), tables[mapped[0]].at(place[some])
        if then.shape != now.shape or float((then - now).abs().max()) > _ROUNDING * float(then.abs().max()):
            raise self._other("what was compared differs now, by another eval_transform or precision")
        self._checked = True

    def _other(self, difference: str) -> InputError:
        return InputError(
            f"features={self.kept!r} holds features of other data: {difference}; name another place, or remove the file"
        )

    # ---- copies

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureStore:
        """Return another store with the same tables, which are never changed."""
        other = object.__new__(type(self))
        vars(other).update({**vars(self), "_tables": list(self._tables)})
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave all features out of pickles: they are the user's data, and computed again or mapped."""
        return {"kept": self.kept, "replaces": self.replaces}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FeatureStore.__init__(self, **state)


def trunk_digest(network: nn.Module, head: str) -> str:
    """Return the digest of all tensors of a network but those of its head."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, tensor in sorted(named_tensors(network).items()):
        if name.rpartition(".")[0] != head:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data if len(flat) else b"")
    return digest.hexdigest()


def _found(tables: list[Table], root: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return in which table rows of a dataset are and where there, int64 [m] each, -1 for those in none."""
    table, place = torch.full_like(rows, -1), torch.full_like(rows, -1)
    _look(table, place, lambda one, left: one.of_rows(root, rows[left]), tables)
    left = (table < 0).nonzero()[:, 0]
    if len(left) and any(one.digests is not None for one in tables):
        wanted = digests(root, rows[left])
        if wanted is not None:
            position = torch.full_like(rows, -1)
            position[left] = torch.arange(len(left))
            _look(table, place, lambda one, these: one.of_digests(wanted[position[these].numpy()]), tables)
    return table, place


def _look(table: Tensor, place: Tensor, look: Any, tables: list[Table]) -> None:
    """Have each table looked at in turn for the rows that are in none yet, and note what is found, in place."""
    for number in reversed(range(len(tables))):
        left = (table < 0).nonzero()[:, 0]
        if not len(left):
            return
        found = look(tables[number], left)
        here = found >= 0
        table[left[here]], place[left[here]] = number, found[here]
