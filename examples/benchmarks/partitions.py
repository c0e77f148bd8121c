"""Rows per second over partitions, as ratios to one process: 1, 2 and 4 workers of Ray Data or Spark.

    python examples/benchmarks/partitions.py --engine ray  # needs prunefuse_al[ray]
    python examples/benchmarks/partitions.py --engine spark  # needs prunefuse_al[spark] and a Java runtime

Prints, for a table of features and for small pictures: seconds of one process (`query` of a selector), of the same
parts in this process, and of each number of workers, without what it takes to start them (a selection of one row); the
largest memory of a worker; and whether the picks are the same to the last id. Then, for k centres, the radius of core
sets over 8 shards by that of all rows at once. Compare ratios: seconds are those of a machine that may be busy.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.pooled import Parts, Picks, Saved, Table, select_over

FILES = 16
K = 1000
BATCH = 1024


def features_network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def pictures_network(times: int = 1) -> nn.Module:
    """Return a small VGG, whose proxy takes some 10 million multiply-accumulates a picture; `times` widens it."""
    layers: list[nn.Module] = [nn.Unflatten(1, (3, 16, 16))]
    before = 3
    for width in (64 * times, 128 * times, 256 * times):
        for inputs in (before, width):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


@dataclass(frozen=True, eq=False)
class Case:
    """A pool on disk, and a selector for it.

    Attributes:
        name: of the pool.
        x: inputs, float32 [n d].
        ids: int64 [n].
        saved: the selector.
        folder: of Parquet files.
    """

    name: str
    x: np.ndarray[Any, Any]
    ids: np.ndarray[Any, Any]
    saved: Saved
    folder: Path

    def batches(self) -> list[dict[str, Any]]:
        """Return the pool in the parts that its files hold."""
        return [{"uid": self.ids[rows], "x": self.x[rows]} for rows in np.array_split(np.arange(len(self.x)), FILES)]


def make_case(name: str, n: int, width: int, factory: Callable[[], nn.Module], folder: Path) -> Case:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, width)).astype(np.float32)
    x = rng.normal(size=(n, width)).astype(np.float32)
    x += centres[np.arange(n) % 10]
    trainer = TorchTrainer(2, 64, progress=False, device="cpu", eval_batch_size=1024)
    selector = PrunedProxySelector(factory(), 0.5, trainer=trainer, random_state=0)
    selector.fit(x[:1000], np.arange(1000) % 10).save(folder / f"{name}.safetensors")
    case = Case(name, x, rng.permutation(n) + 10**9, Saved(str(folder / f"{name}.safetensors"), factory), folder / name)
    case.folder.mkdir()
    for number, batch in enumerate(case.batches()):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(batch["x"].ravel()), width).cast(pa.list_(pa.float32()))
        table = pa.table({"uid": batch["uid"], "x": rows})
        pq.write_table(table, case.folder / f"{number:02}.parquet", row_group_size=8192)
    return case


def with_ray(case: Case, workers: int, k: int, *, rows: int | None = None, **ways: Any) -> Picks:
    import ray

    from prunefuse_al.adapters.ray_data import select

    pool = ray.data.read_parquet(str(case.folder), override_num_blocks=FILES)
    pool = pool if rows is None else pool.limit(rows)
    reading = {"selector_file": case.saved.file, "model_factory": case.saved.model_factory, "id": "uid", "input": "x"}
    return select(pool, k, **reading, workers=workers, num_cpus=1 / workers, batch_size=BATCH, **ways)


def with_spark(case: Case, workers: int, k: int, *, rows: int | None = None, **ways: Any) -> Picks:
    from prunefuse_al.adapters.spark import select

    pool = spark_of(workers).read.parquet(str(case.folder))
    pool = pool if rows is None else pool.limit(rows)
    reading = {"selector_file": case.saved.file, "model_factory": case.saved.model_factory, "id": "uid", "input": "x"}
    return select(pool, k, **reading, batch_size=BATCH, **ways)


def spark_of(workers: int) -> Any:
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None and running.sparkContext.master != f"local[{workers}]":
        running.stop()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    quiet = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.memory": "3g"}
    quiet |= {"spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH), "spark.executorEnv.OMP_NUM_THREADS": "1"}
    session = SparkSession.builder.master(f"local[{workers}]").config(map=quiet).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


@contextmanager
def largest_worker(found: dict[str, float]) -> Iterator[None]:
    """Note the peak memory, in MB, of the largest process that scores."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    name = (process / "cmdline").read_text()
                    peak = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
                except OSError:  # it has ended
                    continue
                if peak and ("ray::MapWorker" in name or "pyspark.daemon" in name):
                    found["peak"] = max(found.get("peak", 0.0), int(peak[1]) / 1024)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def timed(ask: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = ask()
    return time.perf_counter() - start, found


def compare(case: Case, run: Callable[..., Picks], workers: list[int]) -> None:
    selector, table = case.saved.load(), Table("uid", "x")
    alone, rows = timed(lambda: selector.query(case.x, K))
    parts, wanted = timed(lambda: select_over(Parts(case.batches(), table), K, case.saved, table))
    print(f"{case.name}: {len(case.x):,} rows, one process {alone:.1f} s, the same in parts {parts:.1f} s", flush=True)
    print(f"  the selector's own picks, as a set: {len(set(case.ids[rows]) & set(wanted.ids))} of {K} the same")
    first = None
    for count in workers:
        run(case, count, 1, rows=1)  # code is loaded, engines run, files are in the system's memory
        start, _ = timed(lambda count=count: run(case, count, 1, rows=1))
        memory: dict[str, float] = {}
        with largest_worker(memory):
            seconds, found = timed(lambda count=count: run(case, count, K))
        own = seconds - start
        same = "to the last id" if np.array_equal(found.ids, wanted.ids) else "NOT the same"
        rate = "less work than it takes to start"
        if own > start / 2:  # below that, the difference is that between two starts
            first = first or own
            rate = f"rows/s {alone / own:.2f} of one process, {first / own:.2f} of one worker"
        print(
            f"  {count} workers: {seconds:.1f} s, {start:.1f} to start; {rate}; "
            f"{memory.get('peak', 0):,.0f} MB a worker at most; picks {same}",
            flush=True,
        )


def radii(case: Case, k: int) -> None:
    table, ways = Table("uid", "x"), {"scorer": "k_center", "labelled": case.x[:100]}

    def asked(at_once: int) -> Picks:
        return select_over(Parts(case.batches(), table), k, case.saved, table, at_once=at_once, **ways)

    seconds, exact = timed(lambda: asked(len(case.x)))
    quick, sets = timed(lambda: asked(0))
    ratio = sets.measured["radius"] / exact.measured["radius"]
    print(f"k_center, {len(case.x):,} rows, k={k}: radius of core sets {ratio:.3f} of the exact one; ", end="")
    print(f"{quick:.0f} s in this process, at once {seconds:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["ray", "spark"], default="ray")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--wide", type=int, default=1, help="times the widths of the network of pictures")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    run = with_ray if args.engine == "ray" else with_spark
    if args.engine == "ray":
        import ray

        ray.init(num_cpus=2, object_store_memory=2**30, include_dashboard=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        where = Path(folder)
        compare(make_case("features", args.rows, 64, features_network, where), run, args.workers)
        compare(
            make_case("pictures", args.pictures, 3 * 16 * 16, partial(pictures_network, args.wide), where),
            run,
            args.workers,
        )
        radii(make_case("centres", min(args.rows, 50_000), 64, features_network, where), 500)


if __name__ == "__main__":
    main()
