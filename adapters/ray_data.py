"""Ray Data (``pip install "ray[data]"``): select from a pool that is a Ray Dataset, where its blocks lie.

    from prunefuse_al.adapters.ray_data import rows, select

    selector.fit(rows(dataset, id="uid", input="image", label="class", ids=known))
    selector.save("selector.safetensors")
    reading = {"selector_file": "selector.safetensors", "model_factory": make_network, "id": "uid", "input": "image"}
    picks = select(dataset, 100, **reading, workers=8)
    picks.ids  # the user's own

Each worker is an actor that loads the network once. What comes back are ids with scores, or features in half precision
where a scorer compares samples, never rows. Picks do not depend on how the dataset is parted, on the order of its
blocks or on the number of workers; `prunefuse_al.pooled.select_over` says what is exact.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prunefuse_al import checks
from prunefuse_al.adapters import require_host
from prunefuse_al.errors import InputError, PruneFuseError
from prunefuse_al.pooled import (
    AT_ONCE,
    SHARDS,
    Answers,
    Asking,
    Batch,
    IdentifiedRows,
    Ids,
    Input,
    Picks,
    Saved,
    Table,
    Worker,
    joined,
    materialised,
    scoring,
    select_over,
    shard_of,
)
from prunefuse_al.types import Scorer

require_host("ray", extra="ray", adapter="ray_data")

import ray.data  # noqa: E402


def select(
    dataset: ray.data.Dataset,
    k: int,
    *,
    selector_file: Any,
    model_factory: Callable[[], nn.Module],
    id: str,
    input: Input,
    scorer: str | Scorer | None = None,
    labelled: Any = None,
    load_options: Mapping[str, Any] | None = None,
    workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = 1024,
    shards: int = SHARDS,
    at_once: int = AT_ONCE,
) -> Picks:
    """Return the k rows of a Ray Dataset to label next.

    The ids of all rows are gathered in the calling process, to see that no two rows have one. Where a scorer looks at
    many rows at once, or has stages, the dataset is read more than once: materialise it if that is dear.

    Args:
        dataset: the pool.
        k: how many, 1 to the number of rows.
        selector_file: that `PrunedProxySelector.save` wrote, at a path that all workers see.
        model_factory: makes a network of the same architecture, with any weights.
        id: the column of ids, whole numbers or texts, each once.
        input: the column of inputs; names of columns of numbers, which are put side by side; a dict of the network's
            arguments and their columns; or a function of a batch (a dict of arrays) that gives what the network takes.
        scorer: used instead of the selector's own.
        labelled: what is labelled, (X, y) or `rows`, for scorers that read about it.
        load_options: of `PrunedProxySelector.load`, such as a `trainer` that the file does not hold.
        workers: actors.
        num_cpus: of each; what reads the dataset needs one beside them.
        num_gpus: of each.
        batch_size: rows that travel to an actor at once.
        shards: of core sets, see `prunefuse_al.pooled.select_over`.
        at_once: rows that one process picks from at once, see there.

    Raises:
        InputError: no such column; ids missing, repeated or of mixed type; rows that fail, by id and worker; a scorer
            that cannot pick so; workers that leave no CPU of the cluster to what reads the dataset, or that ask for
            more GPUs than it has.
        BudgetError: `k` is not between 1 and the number of rows.
        CheckpointError: the file is damaged or of another architecture, here or on a worker.
    """
    pool = _pool(
        dataset, selector_file, model_factory, id, input, load_options, workers, num_cpus, num_gpus, batch_size
    )
    ways: dict[str, Any] = {"scorer": scorer, "labelled": labelled, "shards": shards, "at_once": at_once}
    return select_over(pool, k, pool.saved, pool.table, **ways)


def scores(dataset: ray.data.Dataset, *, scorer: str | Scorer | None = None, **reading: Any) -> ray.data.Dataset:
    """Return a dataset of the ids and the "score" of every row; nothing is computed before it is read.

    Args:
        dataset: the pool.
        scorer: one that scores single rows and reads nothing about what is labelled; None: the selector's own.
        reading: by whom and how, as for `select`: `selector_file`, `model_factory`, `id`, `input`, `workers`, ...
    """
    pool = _pool(dataset, **reading)
    return pool.mapped(_ByRow, scoring(pool.saved, pool.table, scorer))


def features(dataset: ray.data.Dataset, **reading: Any) -> ray.data.Dataset:
    """Return a dataset of ids and "features" of the proxy in half precision; nothing is computed before it is read.

    Args:
        dataset: the pool.
        reading: by whom and how, as for `select`.
    """
    pool = _pool(dataset, **reading)
    return pool.mapped(_ByRow, Asking(pool.saved.pinned(), pool.table, frozenset({"features"})))


def rows(dataset: ray.data.Dataset, *, id: str, input: Input, label: str, ids: Any = None) -> IdentifiedRows:
    """Return rows of a Ray Dataset as data for `fit`, in the order of their ids, whatever order they come in.

    Args:
        dataset: with a column of labels.
        id: see `select`.
        input: see `select`.
        label: the column of labels.
        ids: which rows; None: all.

    Raises:
        InputError: no such column; ids that are not there, missing, repeated or of mixed type.
    """
    table = Table(id, input)
    table.check(dataset.columns(), label)
    return materialised(_read(_narrowed(dataset, table, label)), table, label, ids)


def _pool(
    dataset: ray.data.Dataset,
    selector_file: Any,
    model_factory: Callable[[], nn.Module],
    id: str,
    input: Input,
    load_options: Mapping[str, Any] | None = None,
    workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = 1024,
) -> _Pool:
    checks.instance("dataset", dataset, ray.data.Dataset, "a ray.data.Dataset")
    table, saved = Table(id, input), Saved(selector_file, model_factory, load_options or {})
    size = checks.whole("workers", workers, least=1)
    actors = {
        "compute": ray.data.ActorPoolStrategy(size=size),
        "num_cpus": checks.number("num_cpus", num_cpus, least=0),
        "num_gpus": checks.number("num_gpus", num_gpus, least=0),
        "batch_size": checks.whole("batch_size", batch_size, least=1),
    }
    table.check(dataset.columns())
    _check_room(size, actors["num_cpus"], actors["num_gpus"])
    return _Pool(dataset, saved, table, actors)


def _check_room(workers: int, num_cpus: float, num_gpus: float) -> None:
    """Raise `InputError` unless workers fit and a CPU is left to the tasks that read: Ray would wait for ever."""
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    grow = "have a cluster that grows by itself grow first (ray.autoscaler.sdk.request_resources)"
    if workers * num_cpus + 1 > cpus:
        raise InputError(
            f"workers={workers} with num_cpus={num_cpus:g} leave none of the cluster's {cpus:g} CPUs to what reads "
            f"the dataset, and all would wait: take fewer of either, such as "
            f"num_cpus={max(cpus - 1, 0) / workers:.3g}; {grow}"
        )
    if workers * num_gpus > gpus:
        raise InputError(
            f"workers={workers} with num_gpus={num_gpus:g} ask for {workers * num_gpus:g} GPUs, the cluster has "
            f"{gpus:g}, and all would wait: take fewer of either, such as num_gpus={gpus / workers:.3g}; {grow}"
        )


@dataclass(frozen=True, eq=False)
class _Pool:
    """A `prunefuse_al.pooled.Pool` of a Ray Dataset."""

    dataset: ray.data.Dataset
    saved: Saved
    table: Table
    actors: Mapping[str, Any]

    def ids(self) -> Iterator[Ids]:
        for batch in _read(self.dataset.select_columns([self.table.id])):
            yield self.table.ids(batch)

    def answers(self, asking: Asking) -> Iterator[Answers]:
        return _unpacked(self.mapped(_InOne, asking))

    @contextmanager
    def held(self, asking: Asking) -> Iterator[_Held]:
        held = self.mapped(_InOne, asking).materialize()
        for batch in _read(held.select_columns(["error"])):
            _raise_any(batch)
        yield _Held(held)

    def mapped(self, worker: type[_Actor], asking: Asking) -> ray.data.Dataset:
        """Return what actors, each with a network of its own, make of the columns that they read."""
        narrowed = _narrowed(self.dataset, self.table)
        # Blocks of a batch each: as Ray reads them they have 128 MiB, too few to give all workers as much to do.
        even = narrowed.repartition(target_num_rows_per_block=self.actors["batch_size"])
        return even.map_batches(worker, fn_constructor_args=(asking,), batch_format="numpy", **self.actors)


@dataclass(frozen=True, eq=False)
class _Held:
    """Answers in the object store, those of a batch in a row."""

    dataset: ray.data.Dataset

    def shards(self, function: Callable[[Answers, int], Answers], shards: int) -> Iterator[Answers]:
        def chosen(group: Batch) -> Batch:
            return _packed(lambda: [function(_whole(group), int(group["shard"][0]))])

        cut = self.dataset.map_batches(_cut, fn_args=(shards,), batch_size=None, batch_format="numpy")
        groups = cut.groupby("shard", num_partitions=shards)
        return _unpacked(groups.map_groups(chosen, batch_format="numpy"))

    def parts(self, function: Callable[[Answers], float]) -> Iterator[float]:
        def measured(batch: Batch) -> Batch:
            return {"value": np.array([function(_whole(batch))])}

        mapped = self.dataset.map_batches(measured, batch_size=None, batch_format="numpy")
        for batch in _read(mapped):
            yield from batch["value"].tolist()


class _Actor:
    """What Ray keeps in an actor: a worker that loads its network when the first batch comes."""

    def __init__(self, asking: Asking) -> None:
        self.worker = Worker(asking)


class _InOne(_Actor):
    def __call__(self, batch: Batch) -> Batch:
        return _packed(lambda: [self.worker(batch)])


class _ByRow(_Actor):
    def __call__(self, batch: Batch) -> Batch:
        answers = self.worker(batch)
        return {self.worker.asking.table.id: answers.ids, **answers.columns}


def _cut(batch: Batch, shards: int) -> Batch:
    """Return the answers of a batch apart, by the shard of each row."""
    answers = _whole(batch)
    own = shard_of(answers.ids, shards)
    there = np.unique(own)
    return {"shard": there, **_packed(lambda: [answers.take(own == shard) for shard in there])}


def _packed(ask: Callable[[], list[Answers]]) -> dict[str, Any]:
    """Return answers, or the error that came instead, as columns of bytes.

    Arrow has no type that holds them as they are, and Ray hands on the text of an error alone.
    """
    try:
        answers, error = ask(), b""
    except PruneFuseError as found:
        answers, error = [Answers(np.empty(0, np.int64))], pickle.dumps(found)
    return {"answers": _column([pickle.dumps(each) for each in answers]), "error": _column([error] * len(answers))}


def _column(values: list[bytes]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _raise_any(batch: Batch) -> None:
    """Raise what was raised on a worker, as it was raised there."""
    for error in filter(None, batch["error"]):
        raise pickle.loads(error)


def _whole(batch: Batch) -> Answers:
    return joined(map(pickle.loads, batch["answers"]))


def _unpacked(dataset: ray.data.Dataset) -> Iterator[Answers]:
    for batch in _read(dataset):
        _raise_any(batch)
        yield from map(pickle.loads, batch["answers"])


def _read(dataset: ray.data.Dataset) -> Iterator[Batch]:
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


def _narrowed(dataset: ray.data.Dataset, table: Table, *more: str) -> ray.data.Dataset:
    """Return a dataset with the columns that are read alone, where they are known."""
    return dataset if table.columns is None else dataset.select_columns([table.id, *table.columns, *more])
