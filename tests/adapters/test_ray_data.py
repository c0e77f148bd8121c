"""Selecting over a Ray Dataset, on a Ray that this test starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import blobs, mlp, selector
from hosts import need_host

need_host("ray_data", "ray.data")
# ruff: noqa: E402
import ray

from prunefuse_al.adapters.ray_data import features, rows, scores, select
from prunefuse_al.errors import BudgetError, CheckpointError, InputError, NonFiniteError
from prunefuse_al.pooled import Parts, Picks, Saved, Table, select_over
from prunefuse_al.scorers import ClassBalanced, TwoStage

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of what it will change
    pytest.mark.touches_global_rng,  # Ray names its datasets by Python's generator
]
N = 600
LABELLED = blobs(60)


def network() -> Any:
    return mlp(6, 16, 3, seed=5)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in range(3))
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, num_gpus=1, object_store_memory=200 * 2**20, runtime_env=environment, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("selector") / "file"
    selector().fit(*LABELLED).save(path)
    return str(path)


def pool(texts: bool = False) -> dict[str, Any]:
    x = blobs(N, seed=1)[0].numpy()
    x[300:340] = x[:40]
    ids = np.random.default_rng(0).permutation(10 * N)[:N]
    return {"uid": np.array([f"row {i}" for i in ids], object) if texts else ids, "x": x, "rest": np.zeros(N)}


def dataset(data: dict[str, Any], blocks: int = 4, seed: int = 0) -> ray.data.Dataset:
    order = np.random.default_rng(seed).permutation(len(data["uid"]))
    parts = [{name: values[rows] for name, values in data.items()} for rows in np.array_split(order, blocks)]
    return ray.data.from_items([{"part": number} for number in range(blocks)], override_num_blocks=blocks).map_batches(
        lambda batch: parts[int(batch["part"][0])], batch_size=None, batch_format="numpy"
    )


def picked(data: ray.data.Dataset, k: int, file: str, **options: Any) -> Picks:
    given = {"labelled": LABELLED, "input": "x", "id": "uid", "batch_size": 100, "num_cpus": 0.5, **options}
    return select(data, k, selector_file=file, **{"model_factory": network, **given})


@pytest.mark.parametrize(
    "scorer",
    ["k_center", "badge", ClassBalanced("entropy"), TwoStage("margin", "k_center", keep=3)],
    ids=str,
)
def test_picks_are_those_of_one_process_whatever_the_blocks_and_workers(file: str, scorer: Any) -> None:
    data, table = pool(), Table("uid", "x")
    one = select_over(
        Parts([data], table), 20, Saved(file, network), table, scorer=scorer, labelled=LABELLED, at_once=200
    )
    found = picked(dataset(data, 5), 20, file, scorer=scorer, at_once=200, workers=2)
    np.testing.assert_array_equal(found.ids, one.ids)
    assert found.measured == pytest.approx(dict(one.measured))
    assert found.considered == N
    assert (found.scores is None) == (one.scores is None)


def test_ids_that_are_texts_and_parquet_files(file: str, tmp_path: Path) -> None:
    data = pool(texts=True)
    dataset(data).write_parquet(str(tmp_path / "pool"))
    read = ray.data.read_parquet(str(tmp_path / "pool"))
    one = picked(dataset(data, 1), 15, file)
    np.testing.assert_array_equal(picked(read, 15, file, batch_size=37, workers=2).ids, one.ids)


def test_scores_and_features_are_columns_beside_the_ids(file: str) -> None:
    data = pool()
    reading = {"selector_file": file, "model_factory": network, "id": "uid", "input": "x"}
    scored = scores(dataset(data), **reading).to_pandas().sort_values(["score", "uid"], ascending=[False, True])
    assert list(scored.columns) == ["uid", "score"]
    np.testing.assert_array_equal(scored["uid"][:10], picked(dataset(data), 10, file).ids)
    said = features(dataset(data), **reading).take(3)
    assert {name for row in said for name in row} == {"uid", "features"}
    assert {row["features"].dtype for row in said} == {np.dtype("float16")}
    with pytest.raises(InputError, match="gives no score for a row by itself"):
        scores(dataset(data), scorer="k_center", **reading)


def test_training_data_comes_in_the_order_of_its_ids() -> None:
    data = pool()
    data["class"] = np.arange(N) % 3
    known = data["uid"][:50]
    found = [rows(dataset(data, 4, seed), id="uid", input="x", label="class", ids=known) for seed in (0, 1)]
    order = np.argsort(known)
    for labelled in found:
        np.testing.assert_array_equal(labelled.ids, known[order])
        np.testing.assert_array_equal(np.asarray(labelled.x), data["x"][:50][order])
        np.testing.assert_array_equal(labelled.y, data["class"][:50][order])
    assert selector().fit(found[0]).round == 1
    with pytest.raises(InputError, match=r"1 ids are not there, such as \[-5\]"):
        rows(dataset(data), id="uid", input="x", label="class", ids=[-5, int(known[0])])
    with pytest.raises(InputError, match="label='clas' is no column"):
        rows(dataset(data), id="uid", input="x", label="clas")


def test_a_worker_that_is_killed_is_replaced(file: str, tmp_path: Path) -> None:
    data, mark = pool(), tmp_path / "killed"

    def killing(batch: Any) -> Any:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch["x"]

    found = picked(dataset(data), 20, file, input=killing, workers=2)
    assert mark.exists()
    np.testing.assert_array_equal(found.ids, picked(dataset(data, 1), 20, file).ids)


@pytest.mark.parametrize("asked", [{"workers": 2, "num_cpus": 1}, {"workers": 5, "num_cpus": 0.25}], ids=str)
def test_workers_leave_a_cpu_to_what_reads(file: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"leave none of the cluster's 2 CPUs .* such as num_cpus=0\.[25]"):
        picked(dataset(pool()), 5, file, **asked)


@pytest.mark.parametrize("asked", [{"num_gpus": 2}, {"workers": 2, "num_gpus": 1}], ids=str)
def test_workers_do_not_wait_for_gpus_that_are_not_there(file: str, asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"ask for 2 GPUs, the cluster has 1, .* such as num_gpus=(1|0\.5);"):
        picked(dataset(pool()), 5, file, num_cpus=0.25, **asked)


def test_workers_are_given_the_gpu_that_they_ask_for(file: str, tmp_path: Path) -> None:
    """Ray deals GPUs by number, whether there are any or not, and shows an actor its own by an environment variable."""

    def noting(batch: dict[str, Any]) -> Any:
        (tmp_path / str(os.getpid())).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        return batch["x"]

    data = dataset(pool())
    found = picked(data, 20, file, input=noting, workers=2, num_cpus=0.25, num_gpus=0.5)
    seen = [note.read_text() for note in tmp_path.iterdir()]
    assert seen
    assert set(seen) == {"0"}
    np.testing.assert_array_equal(found.ids, picked(data, 20, file).ids)


def test_rows_that_fail_are_named_with_the_worker(file: str) -> None:
    data = pool()
    data["x"][[5, 400], 0] = np.nan
    bad = f"({data['uid'][5]}|{data['uid'][400]})"
    with pytest.raises(NonFiniteError, match=rf"worker \S+, process \d+: ids \[{bad}"):
        picked(dataset(data), 5, file)


def test_another_architecture_on_the_workers(file: str) -> None:
    here = os.getpid()
    with pytest.raises(CheckpointError, match=r"worker .*, process \d+: "):
        picked(dataset(pool()), 5, file, model_factory=lambda: mlp(6, 16 if os.getpid() == here else 20, 3))
    with pytest.raises(CheckpointError):
        picked(dataset(pool()), 5, file, model_factory=lambda: mlp(6, 20, 3))


def test_ids_and_arguments_that_cannot_be_used(file: str) -> None:
    data = pool()
    data["uid"][7] = data["uid"][400]
    with pytest.raises(InputError, match="1 ids occur more than once"):
        picked(dataset(data), 5, file)
    with pytest.raises(InputError, match="1 of 2 rows have no id"):
        picked(ray.data.from_items([{"uid": i, "x": [0.0] * 6} for i in ("a", None)]), 1, file)
    with pytest.raises(BudgetError, match="k=601"):
        picked(dataset(pool()), 601, file)
    for argument, value in {"id": "id", "input": "image"}.items():
        with pytest.raises(InputError, match=f"{argument}='{value}' is no column of the data; it has 'uid', 'x'"):
            picked(dataset(pool()), 5, file, **{argument: value})
    for argument, value in {"workers": 0, "batch_size": 1.5, "num_gpus": -1, "model_factory": 3, "input": 3}.items():
        with pytest.raises(InputError, match=f"{argument}={value}"):
            picked(dataset(pool()), 5, file, **{argument: value})
    with pytest.raises(InputError, match="cannot pick from more than at_once=10 rows in parts"):
        picked(dataset(pool()), 5, file, scorer="typiclust", at_once=10)
