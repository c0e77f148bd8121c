"""`Asking`: what workers are told, as one object that can be sent; `Worker`: who does it, with the network at hand."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import checks
from ..data import as_dataset
from ..errors import CheckpointError, InputError, PruneFuseError
from ..scorers import scores_of
from ..selector import Asker, PrunedProxySelector
from ..training import refuse_unread
from ..types import Scorer
from .answered import Answers, Columns, columns_of
from .ids import Ids, as_ids, shown_ids
from .merging import Best

Batch = Mapping[str, Any]
"""Columns of some rows by name: arrays [b ...]."""
Input = str | Sequence[str] | Mapping[str, str] | Callable[[Batch], Any]
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Saved:
    """A selector in a file, and how the network that it is of is made: what a worker needs to have a proxy.

    Attributes:
        file: that `PrunedProxySelector.save` wrote; every worker must see it by this path.
        model_factory: makes a network of the same architecture, with any weights.
        options: for `PrunedProxySelector.load`, such as a `trainer` that the file does not hold.
        digest: of the file, as whoever asks saw it; None: any will do.
    """

    file: str
    model_factory: Callable[[], nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None

    def __post_init__(self) -> None:
        checks.settle(self, file=checks.path("selector_file", self.file))
        if not callable(self.model_factory) or isinstance(self.model_factory, nn.Module):
            raise checks.refused("model_factory", self.model_factory, "a function that makes the network")
        what = "a dict of arguments of PrunedProxySelector.load"
        checks.settle(self, options=checks.instance("load_options", self.options or {}, Mapping, what))

    def load(self) -> PrunedProxySelector:
        """Return the selector.

        Raises:
            CheckpointError: another architecture, or another file than the one that was meant.
            FileNotFoundError: there is no such file here.
        """
        if self.digest is not None and (found := _digest(self.file)) != self.digest:
            raise CheckpointError(
                f"{self.file!r} is another file here than where the selection was asked for (sha256 {found[:8]}, not "
                f"{self.digest[:8]}); let every worker see the same one"
            )
        return PrunedProxySelector.load(self.file, self.model_factory(), **self.options)

    def pinned(self) -> Saved:
        """Return the same, which takes no other file of that name."""
        return replace(self, digest=_digest(self.file))


@dataclass(frozen=True, eq=False)
class Table:
    """Where ids and inputs stand in a batch.

    Attributes:
        id: the column of ids.
        input: the column of inputs; names of columns of numbers, which are put side by side, [b d]; a dict of the
            network's arguments and their columns; or a function of a batch, a dict of arrays.
        shape: of one row of the one column of inputs, where a table holds it flat; None: as it is.
    """

    id: str
    input: Input
    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        names = self.columns or []
        if not isinstance(self.id, str) or not self.id:
            raise checks.refused("id", self.id, "the name of the column that holds the ids")
        if not callable(self.input) and (not names or not all(isinstance(name, str) and name for name in names)):
            what = "the name of a column, several, a dict of arguments and columns, or a function of a batch"
            raise checks.refused("input", self.input, what)
        if self.shape is not None:
            what = "the sizes of one row, such as (3, 32, 32), of one column of inputs"
            if not isinstance(self.input, str) or not isinstance(self.shape, tuple | list):
                raise checks.refused("shape", self.shape, what)
            checks.settle(self, shape=tuple(checks.whole("shape", size, least=1, what=what) for size in self.shape))

    @property
    def columns(self) -> list[str] | None:
        """The columns of inputs that are read; None: all may be."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input, Mapping):
            return list(self.input.values())
        return list(self.input) if isinstance(self.input, Sequence) else None

    def check(self, names: Sequence[str], label: str | None = None) -> None:
        """Raise `InputError` unless all columns that are read are among `names`."""
        read = (("id", [self.id]), ("input", self.columns or []), ("label", [] if label is None else [label]))
        for what, wanted in read:
            if missing := [name for name in wanted if name not in names]:
                known = ", ".join(map(repr, names))
                raise InputError(f"{what}={missing[0]!r} is no column of the data; it has {known}: name one of them")

    def ids(self, batch: Batch) -> Ids:
        """Return the ids of a batch, checked."""
        return as_ids(batch[self.id], f"column {self.id!r}")

    def inputs(self, batch: Batch) -> Any:
        """Return what the network takes for a batch."""
        if isinstance(self.input, str):
            return self._shaped(_stacked(self.input, batch[self.input]))
        if isinstance(self.input, Mapping):
            return {name: _stacked(column, batch[column]) for name, column in self.input.items()}
        if isinstance(self.input, Sequence):
            return np.stack([_stacked(column, batch[column]) for column in self.input], axis=1)
        return self.input(batch)

    def _shaped(self, values: Any) -> Any:
        if self.shape is None:
            return values
        if np.prod(values.shape[1:]) != np.prod(self.shape):
            found = f"rows of {list(values.shape[1:])}"
            raise InputError(f"shape={self.shape}: column {self.input!r} has {found}; give sizes that multiply to that")
        return values.reshape(len(values), *self.shape)


@dataclass(frozen=True, eq=False)
class Asking:
    """What is asked about every row of a pool, the same of every worker.

    Attributes:
        saved: whose proxy is asked.
        table: where ids and inputs stand.
        needs: the signals that are wanted, or that the scorer reads.
        scorer: a scorer of single samples, whose scores are wanted; None: the signals are.
        top: how many of the highest scores are wanted; what is surely none of them may be left out. None: all are.
        only: ids of the rows that are asked about, sorted; None: all are.
        beside: fields of `Signals` about what is labelled, for the scorer.
    """

    saved: Saved
    table: Table
    needs: frozenset[str]
    scorer: Scorer | None = None
    top: int | None = None
    only: Ids | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The columns of the answers."""
        kept = self.needs & {"labels"} if self.scorer is not None else self.needs
        return sorted(kept | ({"score"} if self.scorer is not None else frozenset()))


class Worker:
    """Answers for batches of rows, as one process of an engine does; the network is loaded once, when the first come.

    Args:
        asking: what is asked.
    """

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self._best = Best(asking.top)

    def __call__(self, batch: Batch) -> Answers:
        """Return the answers for a batch, without the rows of which surely nobody wants to hear.

        Raises:
            InputError: ids are missing or of mixed type; rows fail, and the message names them and this worker.
            CheckpointError: the selector's file is of another architecture.
        """
        ids = self.asking.table.ids(batch)
        some, wanted = batch, ids
        if self.asking.only is not None:
            rows = np.flatnonzero(_among(ids, self.asking.only))
            some, wanted = {name: np.asarray(values)[rows] for name, values in batch.items()}, ids[rows]
        if not len(wanted):
            return Answers(wanted, seen=ids)
        answers = self._asked(some, wanted)
        return replace(answers.take(self._best.may_be(answers)), seen=ids)

    def _asked(self, batch: Batch, ids: Ids) -> Answers:
        asker = self._asker  # what fails here is about no row
        try:
            return self._answers(asker, batch, ids)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a function of the user's that reads pictures may raise anything
            bad = list(islice(self._failing(asker, batch, ids), _SHOWN))
            found = f"ids {shown_ids(np.array(bad, dtype=ids.dtype))} are the first that fail"
            if not bad:
                found = f"{len(ids):,} rows, ids {shown_ids(ids)}, fail together and not one by one"
            text = str(error) if isinstance(error, PruneFuseError) else f"{type(error).__name__}: {error}"
            kind = type(error) if isinstance(error, PruneFuseError) else InputError
            raise kind(f"worker {_here()}: {found}: {text}") from error

    def _failing(self, asker: Asker, batch: Batch, ids: Ids) -> Iterator[Any]:
        """Yield the ids of rows that fail alone, by halving."""
        try:
            self._answers(asker, batch, ids)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # as above; it has been said by now
            if len(ids) == 1:
                yield ids[0]
                return
            for half in np.array_split(np.arange(len(ids)), 2):
                yield from self._failing(asker, {name: np.asarray(v)[half] for name, v in batch.items()}, ids[half])

    def _answers(self, asker: Asker, batch: Batch, ids: Ids) -> Answers:
        asking = self.asking
        data = as_dataset(asking.table.inputs(batch))
        if len(data) != len(ids):
            raise InputError(f"input: {len(data):,} rows of input for {len(ids):,} ids; give one for each")
        signals = asker.ask(data, asking.needs)
        if asking.scorer is None:
            return Answers(ids, columns_of(signals, asking.needs, len(ids)), outputs=signals.outputs)
        refuse_unread(asking.scorer, signals)
        # Also of the rows that fill up the last batch, so that scores are worked out in one shape as well.
        scores = scores_of(asking.scorer, replace(signals, **asking.beside))  # type: ignore[arg-type]
        columns: Columns = columns_of(signals, asking.needs & {"labels"}, len(ids))
        return Answers(ids, {**columns, "score": scores[: len(ids)].cpu().numpy()})

    @cached_property
    def _asker(self) -> Asker:
        try:
            return Asker(self.asking.saved.load())
        except PruneFuseError as error:
            raise type(error)(f"worker {_here()}: {error}") from error
        except FileNotFoundError as error:
            raise CheckpointError(f"worker {_here()} does not see the selector's file: {error}") from error


def _among(ids: Ids, some: Ids) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which ids, [n], are among `some`, which are sorted."""
    if not len(some) or some.dtype.kind != ids.dtype.kind:
        return np.zeros(len(ids), bool)
    places = np.searchsorted(some, ids).clip(max=len(some) - 1)
    found: np.ndarray[Any, np.dtype[np.bool_]] = np.asarray(some[places] == ids, dtype=bool)
    return found


def _stacked(name: str, values: Any) -> Any:
    """Return a column as one array; engines give one of arrays where shapes differ, or may."""
    found = np.asarray(values)
    if found.dtype != object or not len(found):
        return found
    shapes = sorted({np.shape(value) for value in found})
    if len(shapes) > 1:
        raise InputError(
            f"input: column {name!r} has rows of shapes {', '.join(str(list(s)) for s in shapes[:3])}; make them of "
            "one shape, or give a function of a batch as input="
        )
    return np.stack([np.asarray(value) for value in found])


def _digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _here() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
