"""Selecting over a Spark DataFrame, on a local Spark with a JVM of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import blobs, mlp, selector
from hosts import need_host

need_host("spark", "pyspark")
# ruff: noqa: E402
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from prunefuse_al.adapters.spark import rows, scores, select
from prunefuse_al.errors import BudgetError, CheckpointError, InputError, NonFiniteError
from prunefuse_al.pooled import Parts, Picks, Saved, Table, select_over
from prunefuse_al.scorers import ClassBalanced, TwoStage

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Spark's own, of what it will change
    pytest.mark.touches_global_rng,  # Spark draws names by Python's generator
]
N = 600
LABELLED = blobs(60)


def network() -> Any:
    return mlp(6, 16, 3, seed=5)


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    assert shutil.which("java"), "Spark needs a JVM: apt-get install default-jre-headless"
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in range(3))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2,2]")  # a task is tried twice
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executorEnv.PYTHONPATH", path)
        .config("spark.executorEnv.OMP_NUM_THREADS", "1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("selector") / "file"
    selector().fit(*LABELLED).save(path)
    return str(path)


def pool(texts: bool = False) -> dict[str, Any]:
    x = blobs(N, seed=1)[0].numpy()
    x[300:340] = x[:40]
    ids = np.random.default_rng(0).permutation(10 * N)[:N]
    return {"uid": np.array([f"row {i}" for i in ids], object) if texts else ids, "x": x}


def frame(spark: SparkSession, data: dict[str, Any], parts: int = 3, seed: int = 0) -> DataFrame:
    order = np.random.default_rng(seed).permutation(len(data["uid"]))
    columns = {name: list(values[order]) for name, values in data.items()}
    return spark.createDataFrame(pd.DataFrame(columns)).repartition(parts)


def picked(data: DataFrame, k: int, file: str, **options: Any) -> Picks:
    given = {"labelled": LABELLED, "input": "x", "id": "uid", "batch_size": 100, **options}
    return select(data, k, selector_file=file, **{"model_factory": network, **given})


@pytest.mark.parametrize(
    "scorer",
    ["entropy", "k_center", "badge", ClassBalanced("entropy"), TwoStage("margin", "k_center", keep=3)],
    ids=str,
)
def test_picks_are_those_of_one_process_however_rows_are_parted(spark: Any, file: str, scorer: Any) -> None:
    data, table = pool(), Table("uid", "x")
    ways = {"scorer": scorer, "labelled": LABELLED, "at_once": 200}
    one = select_over(Parts([data], table), 20, Saved(file, network), table, **ways)
    found = picked(frame(spark, data, 5), 20, file, **ways)
    np.testing.assert_array_equal(found.ids, one.ids)
    assert found.measured == pytest.approx(dict(one.measured))
    assert found.considered == N
    assert (found.scores is None) == (one.scores is None)


def test_ids_that_are_texts_and_parquet_files(spark: Any, file: str, tmp_path: Path) -> None:
    data = pool(texts=True)
    frame(spark, data).write.parquet(str(tmp_path / "pool"))
    found = picked(spark.read.parquet(str(tmp_path / "pool")), 15, file, batch_size=37)
    table = Table("uid", "x")
    np.testing.assert_array_equal(found.ids, select_over(Parts([data], table), 15, Saved(file, network), table).ids)


def test_scores_side_by_side_columns_and_shapes(spark: Any, file: str) -> None:
    data = pool()
    reading = {"selector_file": file, "model_factory": network, "id": "uid"}
    wanted = picked(frame(spark, data), 10, file).ids
    apart = {"uid": data["uid"], **{f"c{i}": data["x"][:, i] for i in range(6)}}
    scored = scores(frame(spark, apart), input=[f"c{i}" for i in range(6)], **reading).toPandas()
    assert list(scored.columns) == ["uid", "score"]
    assert len(scored) == N
    best = scored.sort_values(["score", "uid"], ascending=[False, True])["uid"][:10]
    np.testing.assert_array_equal(best, wanted)
    np.testing.assert_array_equal(picked(frame(spark, data), 10, file, shape=[6]).ids, wanted)
    with pytest.raises(InputError, match=r"shape=\(2, 2\): column 'x' has rows of \[6\]"):
        picked(frame(spark, data), 10, file, shape=(2, 2))


def test_training_data_comes_in_the_order_of_its_ids(spark: Any) -> None:
    data = pool()
    data["class"] = np.arange(N) % 3
    known = data["uid"][:50]
    found = rows(frame(spark, data), id="uid", input="x", label="class", ids=known)
    order = np.argsort(known)
    np.testing.assert_array_equal(found.ids, known[order])
    np.testing.assert_array_equal(np.asarray(found.x), data["x"][:50][order])
    np.testing.assert_array_equal(found.y, data["class"][:50][order])
    assert selector().fit(found).round == 1
    with pytest.raises(InputError, match=r"1 ids are not there, such as \[-5\]"):
        rows(frame(spark, data), id="uid", input="x", label="class", ids=[-5, int(known[0])])


def test_a_worker_that_is_killed_is_replaced(spark: Any, file: str, tmp_path: Path) -> None:
    data, mark, here = pool(), tmp_path / "killed", os.getpid()

    def killing() -> Any:
        if os.getpid() != here and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return network()

    found = picked(frame(spark, data), 20, file, model_factory=killing)
    assert mark.exists()
    np.testing.assert_array_equal(found.ids, picked(frame(spark, data, 1), 20, file).ids)


def test_rows_that_fail_are_named_with_the_worker(spark: Any, file: str) -> None:
    data = pool()
    data["x"][5, 0] = np.nan
    with pytest.raises(NonFiniteError, match=rf"worker \S+, process \d+: ids \[{data['uid'][5]}\] are the first"):
        picked(frame(spark, data), 5, file)


def test_another_architecture_on_the_workers(spark: Any, file: str) -> None:
    here = os.getpid()
    with pytest.raises(CheckpointError, match=r"worker .*, process \d+: "):
        picked(frame(spark, pool()), 5, file, model_factory=lambda: mlp(6, 16 if os.getpid() == here else 20, 3))


def test_ids_and_arguments_that_cannot_be_used(spark: Any, file: str) -> None:
    data = pool()
    data["uid"][7] = data["uid"][400]
    with pytest.raises(InputError, match="1 ids occur more than once"):
        picked(frame(spark, data), 5, file)
    missing = spark.createDataFrame([("a", [0.0] * 6), (None, [0.0] * 6)], "uid string, x array<double>")
    with pytest.raises(InputError, match="rows have no id"):
        picked(missing, 1, file)
    with pytest.raises(BudgetError, match="k=601"):
        picked(frame(spark, pool()), 601, file)
    with pytest.raises(InputError, match="input='image' is no column of the data; it has 'uid', 'x'"):
        picked(frame(spark, pool()), 5, file, input="image")
    with pytest.raises(InputError, match="input=<function"):
        picked(frame(spark, pool()), 5, file, input=lambda batch: batch)
    for argument, value in {"batch_size": 1.5, "model_factory": 3, "shape": 3}.items():
        with pytest.raises(InputError, match=f"{argument}={value}"):
            picked(frame(spark, pool()), 5, file, **{argument: value})
