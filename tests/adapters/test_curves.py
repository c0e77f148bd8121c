"""The curves of `examples/curves.py`, in real stores of MLflow and TensorBoard."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from hosts import need_host

mlflow = need_host("curves", "mlflow")
tensorboard = need_host("curves", "tensorboard.backend.event_processing.event_accumulator")

SCRIPT = Path(__file__).parents[2] / "examples" / "curves.py"
NAMES = {"loss", "accuracy", "balanced", "val_loss", "val_accuracy", "val_balanced", "lr"}
TRAININGS = ["training-01", "training-02", "training-03", "training-04"]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # theirs, of what they will change
    pytest.mark.touches_global_rng,  # runs are given names by Python's generator
]


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["curves.py", "--epochs", "2", *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_mlflow_has_a_run_for_each_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/curves.db")
    run(monkeypatch, "--to", "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("watching")
    runs = sorted(client.search_runs([experiment.experiment_id]), key=lambda each: each.info.run_name)
    assert [each.info.run_name for each in runs] == TRAININGS
    assert {each.info.status for each in runs} == {"FINISHED"}
    assert [each.data.params["epochs"] for each in runs] == ["2"] * 4
    for each in runs:
        assert set(each.data.metrics) == NAMES
        steps = [point.step for point in client.get_metric_history(each.info.run_id, "val_balanced")]
        assert sorted(steps) == [1, 2]


def test_tensorboard_has_a_folder_for_each_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(monkeypatch, "--to", "tensorboard", "--folder", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == TRAININGS
    for name in TRAININGS:
        found = tensorboard.EventAccumulator(str(tmp_path / name)).Reload()
        assert set(found.Tags()["scalars"]) == NAMES | {"epoch"}
        assert {"0.weight", "2.bias"} <= set(found.Tags()["histograms"])
        assert [event.step for event in found.Scalars("val_balanced")] == [1, 2]
