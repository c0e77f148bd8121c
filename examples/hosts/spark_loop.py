"""Spark: a pool in Parquet files, scored by its workers, labelled in rounds. Real pictures: scikit-learn's digits.

    pip install "prunefuse_al[spark]" && python examples/hosts/spark_loop.py  # with a Java runtime, 17 for Spark 4

The pool has ids of its own; nothing but ids and scores comes back.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.adapters.spark import rows, select

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
IDS = np.arange(len(X)) * 7 + 1000
POOL = 1200
READING = {"id": "uid", "input": "pixels", "shape": (1, 8, 8)}


def make_network(width: int = 32) -> nn.Module:
    """Return two convolutions and a linear layer; each worker makes one, and loads what was trained into it."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    )


def main() -> float:
    """Run the loop and return the accuracy on held-out digits."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    warnings.filterwarnings("ignore", category=FutureWarning, module="pyspark")  # of pandas 3
    quiet = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1"}
    spark = SparkSession.builder.master("local[2]").config(map=quiet).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    selector = PrunedProxySelector(make_network(), 0.5, trainer=TorchTrainer(15, 16, progress=False), random_state=0)
    known = IDS[:60].tolist()
    with tempfile.TemporaryDirectory() as folder:
        columns = {"uid": IDS[:POOL], "pixels": list(X[:POOL]), "class": y[:POOL]}
        spark.createDataFrame(pd.DataFrame(columns)).repartition(4).write.parquet(f"{folder}/pool")
        pool = spark.read.parquet(f"{folder}/pool")
        file = str(Path(folder) / "selector.safetensors")
        for number in range(2):
            selector.fit(rows(pool, label="class", ids=known, **READING))
            selector.save(file)
            picks = select(
                pool.where(~pool.uid.isin(known)), 40, selector_file=file, model_factory=make_network, **READING
            )
            if number == 0:
                assert_the_core_agrees(selector, known, picks)
            known += picks.ids.tolist()
            print(f"round {number + 1}: {picks.considered:,} looked at, {len(known)} labels, next {picks.ids[0]}")
        selector.fit(rows(pool, label="class", ids=known, **READING))
    target = selector.fit_target().eval()
    spark.stop()
    with torch.inference_mode():
        right = target(torch.from_numpy(X[POOL:]).reshape(-1, 1, 8, 8)).argmax(1).numpy() == y[POOL:]
    print(f"accuracy of the fused target on {len(known)} labels: {right.mean():.3f}")
    return float(right.mean())


def assert_the_core_agrees(selector: PrunedProxySelector, known: list[int], picks: object) -> None:
    """Pick with one process alone."""
    free = np.flatnonzero(~np.isin(IDS[:POOL], known))
    picked = selector.query(X[:POOL].reshape(-1, 1, 8, 8), 40, candidates=free)
    assert set(IDS[picked].tolist()) == set(picks.ids.tolist())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
