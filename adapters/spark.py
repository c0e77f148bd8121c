"""Spark 3.4 and later (``pip install pyspark pandas pyarrow``): select from a pool that is a Spark DataFrame.

    from prunefuse_al.adapters.spark import rows, select

    pool = spark.read.parquet("pool")
    selector.fit(rows(pool, id="uid", input="features", label="class", ids=known))
    selector.save("selector.safetensors")
    reading = {"selector_file": "selector.safetensors", "model_factory": make_network, "id": "uid", "input": "features"}
    picks = select(pool, 100, **reading)
    picks.ids  # the user's own

Each Python worker loads the network once, by `pyspark.ml.functions.predict_batch_udf`. What comes back are ids with
scores, or features in half precision where a scorer compares samples, never rows. Picks do not depend on how the
DataFrame is parted, on the order of its rows or on the number of workers; `prunefuse_al.pooled.select_over` says what
is exact. Tensors are columns of flat arrays, and `shape` says what one row is.
"""

from __future__ import annotations

import inspect
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prunefuse_al import checks, errors
from prunefuse_al.adapters import require_host
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
    materialised,
    scoring,
    select_over,
    shard_of,
)
from prunefuse_al.types import Scorer

require_host("pyspark", extra="spark")

import pandas as pd  # noqa: E402
from pyspark import StorageLevel  # noqa: E402
from pyspark.errors import PySparkException  # noqa: E402
from pyspark.ml.functions import predict_batch_udf  # noqa: E402
from pyspark.sql import DataFrame, functions  # noqa: E402
from pyspark.sql import types as spark_types  # noqa: E402

_SCORE, _CELLS, _FORM = "said_score", "said_cells", "said_form"
_SAID = spark_types.StructType(
    [
        spark_types.StructField(_SCORE, spark_types.DoubleType()),
        spark_types.StructField(_CELLS, spark_types.ArrayType(spark_types.ByteType())),
        spark_types.StructField(_FORM, spark_types.StringType()),
    ]
)
"""An answer: the score, by which Spark sorts; the bytes of all columns, half precision being no type of Spark's; and
what they are."""


def select(
    frame: DataFrame,
    k: int,
    *,
    selector_file: Any,
    model_factory: Callable[[], nn.Module],
    id: str,
    input: Input,
    shape: Sequence[int] | None = None,
    scorer: str | Scorer | None = None,
    labelled: Any = None,
    load_options: Mapping[str, Any] | None = None,
    batch_size: int = 1024,
    shards: int = SHARDS,
    at_once: int = AT_ONCE,
) -> Picks:
    """Return the k rows of a Spark DataFrame to label next.

    The ids of all rows are gathered in the calling process, to see that no two rows have one. Answers are persisted
    (in memory, then on disk) for as long as they are picked from.

    Args:
        frame: the pool.
        k: how many, 1 to the number of rows.
        selector_file: that `PrunedProxySelector.save` wrote, at a path that all workers see.
        model_factory: makes a network of the same architecture, with any weights.
        id: the column of ids, whole numbers or texts, each once.
        input: the column of inputs, numbers or flat arrays; names of columns of numbers, which are put side by side; or
            a dict of the network's arguments and their columns.
        shape: of one row of the `input` column, such as (3, 32, 32); None: as it is.
        scorer: used instead of the selector's own.
        labelled: what is labelled, (X, y) or `rows`, for scorers that read about it.
        load_options: of `PrunedProxySelector.load`, such as a `trainer` that the file does not hold.
        batch_size: rows that a worker is given at once.
        shards: of core sets, see `prunefuse_al.pooled.select_over`.
        at_once: rows that one process picks from at once, see there.

    Raises:
        InputError: no such column; ids missing, repeated or of mixed type; rows that fail, by id and worker; a scorer
            that cannot pick so.
        BudgetError: `k` is not between 1 and the number of rows.
        CheckpointError: the file is damaged or of another architecture, here or on a worker.
    """
    pool = _pool(frame, selector_file, model_factory, id, input, shape, load_options, batch_size)
    ways: dict[str, Any] = {"scorer": scorer, "labelled": labelled, "shards": shards, "at_once": at_once}
    with _plain_errors():
        return select_over(pool, k, pool.saved, pool.table, **ways)


def scores(frame: DataFrame, *, scorer: str | Scorer | None = None, **reading: Any) -> DataFrame:
    """Return a DataFrame of the ids and the "score" of every row; nothing is computed before it is read.

    Args:
        frame: the pool.
        scorer: one that scores single rows and reads nothing about what is labelled; None: the selector's own.
        reading: by whom and how, as for `select`: `selector_file`, `model_factory`, `id`, `input`, ...
    """
    pool = _pool(frame, **reading)
    said = pool.said(scoring(pool.saved, pool.table, scorer))
    return said.select(pool.table.id, functions.col(_SCORE).alias("score"))


def rows(
    frame: DataFrame, *, id: str, input: Input, label: str, shape: Sequence[int] | None = None, ids: Any = None
) -> IdentifiedRows:
    """Return rows of a Spark DataFrame as data for `fit`, in the order of their ids, whatever order they come in.

    Args:
        frame: with a column of labels.
        id: see `select`.
        input: see `select`.
        label: the column of labels.
        shape: see `select`.
        ids: which rows; None: all.

    Raises:
        InputError: no such column; ids that are not there, missing, repeated or of mixed type.
    """
    table = Table(id, input, shape)
    table.check(frame.columns, label)
    some = frame if ids is None else _semi(frame, id, table.ids({id: ids}))
    return materialised([_arrays(some.select(id, *_columns(table), label).toPandas())], table, label, ids)


def _pool(
    frame: DataFrame,
    selector_file: Any,
    model_factory: Callable[[], nn.Module],
    id: str,
    input: Input,
    shape: Sequence[int] | None = None,
    load_options: Mapping[str, Any] | None = None,
    batch_size: int = 1024,
) -> _Pool:
    if not hasattr(frame, "sparkSession"):
        raise checks.refused("frame", frame, "a Spark DataFrame")
    table, saved = Table(id, input, shape), Saved(selector_file, model_factory, load_options or {})
    size = checks.whole("batch_size", batch_size, least=1)
    table.check(frame.columns)
    _columns(table)
    return _Pool(frame, saved, table, size)


@dataclass(frozen=True, eq=False)
class _Pool:
    """A `prunefuse_al.pooled.Pool` of a Spark DataFrame."""

    frame: DataFrame
    saved: Saved
    table: Table
    batch_size: int

    def ids(self) -> Iterator[Ids]:
        yield self._ids(self.frame)

    def answers(self, asking: Asking) -> Iterator[Answers]:
        with self._kept(asking) as said:
            found = said
            if asking.top is not None:
                order = (functions.desc(_SCORE), functions.asc(self.table.id))
                found = said.orderBy(*order).limit(asking.top)  # Spark takes the best of each partition, then of these
            answers = _answers(found.toPandas(), self.table)
            yield Answers(answers.ids, answers.columns, self._ids(said), answers.outputs)

    @contextmanager
    def held(self, asking: Asking) -> Iterator[_Held]:
        with self._kept(asking) as said:
            yield _Held(said, self.table)

    def said(self, asking: Asking) -> DataFrame:
        """Return the ids and, as the column "said", what workers answer."""
        names, frame = _columns(self.table), self.frame
        if asking.only is not None:
            frame = _semi(frame, self.table.id, asking.only)
        ask = predict_batch_udf(
            _Asked(replace(asking, top=None, only=None), [self.table.id, *names]),
            return_type=_SAID,
            batch_size=self.batch_size,
            input_tensor_shapes=[None] * (1 + len(names)),
        )
        return frame.select(self.table.id, ask(self.table.id, *names).alias("said")).select(self.table.id, "said.*")

    @contextmanager
    def _kept(self, asking: Asking) -> Iterator[DataFrame]:
        said = self.said(asking).persist(StorageLevel.MEMORY_AND_DISK)
        try:
            yield said
        finally:
            said.unpersist()

    def _ids(self, frame: DataFrame) -> Ids:
        return self.table.ids(_arrays(frame.select(self.table.id).toPandas()))


@dataclass(frozen=True, eq=False)
class _Held:
    """Answers that Spark keeps, row by row."""

    said: DataFrame
    table: Table

    def shards(self, function: Callable[[Answers, int], Answers], shards: int) -> Iterator[Answers]:
        """Yield what a function makes of each shard; see `prunefuse_al.pooled.choosing.Held`."""
        table = self.table

        def shard(ids: pd.Series) -> pd.Series:
            return pd.Series(shard_of(table.ids({table.id: ids.to_numpy()}), shards))

        def chosen(group: pd.DataFrame) -> pd.DataFrame:
            found = function(_answers(group, table), int(group["shard"].iloc[0]))
            return pd.DataFrame({"answers": [pickle.dumps(found)]})

        own = functions.pandas_udf(shard, spark_types.LongType())
        cut = self.said.withColumn("shard", own(table.id)).groupBy("shard")
        for row in cut.applyInPandas(chosen, "answers binary").collect():
            yield pickle.loads(row.answers)

    def parts(self, function: Callable[[Answers], float]) -> Iterator[float]:
        table = self.table

        def measured(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            yield from (pd.DataFrame({"value": [function(_answers(each, table))]}) for each in frames if len(each))

        for row in self.said.mapInPandas(measured, "value double").collect():
            yield row.value


@dataclass(frozen=True, eq=False)
class _Asked:
    """Makes what Spark calls with the columns of a batch; once in each Python worker."""

    asking: Asking
    names: list[str]

    def __call__(self) -> Callable[..., dict[str, Any]]:
        worker = Worker(self.asking)

        def predict(*columns: Any) -> dict[str, Any]:
            return _as_fields(worker(dict(zip(self.names, columns, strict=True))))

        kind = inspect.Parameter.POSITIONAL_ONLY  # Spark counts the parameters
        parameters = [inspect.Parameter(f"column_{number}", kind) for number in range(len(self.names))]
        predict.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return predict


def _as_fields(answers: Answers) -> dict[str, Any]:
    """Return answers as Spark takes them, see `_SAID`."""
    n = len(answers)
    columns = {name: np.ascontiguousarray(answers.columns[name]) for name in sorted(answers.columns)}
    form = [[name, values.dtype.str, values.shape[1:]] for name, values in columns.items()]
    cells = [values.reshape(n, -1).view(np.int8) for values in columns.values()]
    score = answers.columns.get("score", np.zeros(n)).astype(np.float64)
    said = json.dumps({"outputs": answers.outputs, "columns": form})
    return {_SCORE: score, _CELLS: np.concatenate(cells, axis=1), _FORM: np.full(n, said, dtype=object)}


def _answers(frame: pd.DataFrame, table: Table) -> Answers:
    """Return answers that Spark has as `_as_fields` made them."""
    ids = table.ids(_arrays(frame[[table.id]]))
    if not len(ids):
        return Answers(ids)
    said = json.loads(frame[_FORM].iloc[0])
    cells = np.stack([np.asarray(row, dtype=np.int8) for row in frame[_CELLS]])
    columns, start = {}, 0
    for name, dtype, shape in said["columns"]:
        end = start + np.dtype(dtype).itemsize * int(np.prod(shape))
        columns[name] = np.ascontiguousarray(cells[:, start:end]).view(dtype).reshape(len(ids), *shape)
        start = end
    return Answers(ids, columns, outputs=said["outputs"])


def _columns(table: Table) -> list[str]:
    if table.columns is None:
        what = "columns: a name, several, or a dict; what a function would do, let Spark do before"
        raise checks.refused("input", table.input, what)
    return table.columns


def _arrays(frame: pd.DataFrame) -> Batch:
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _semi(frame: DataFrame, id: str, ids: Ids) -> DataFrame:
    """Return the rows of these ids."""
    some = frame.sparkSession.createDataFrame(pd.DataFrame({id: ids}))
    return frame.join(functions.broadcast(some), id, "left_semi")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what was raised on a worker, of which Spark hands on the text."""
    try:
        yield
    except PySparkException as error:
        found = re.findall(r"prunefuse_al\.errors\.(\w+): (.+)", str(error))
        if not found:
            raise
        name, words = found[-1]
        raise getattr(errors, name)(words) from error
