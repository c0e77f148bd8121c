"""The example of watching trainings runs, writes what TensorBoard and MLflow take, and prints where there is none."""

from __future__ import annotations

import importlib.util
import pickle
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fakes import blobs, mlp

from prunefuse_al import TorchTrainer

pytestmark = pytest.mark.touches_global_rng  # the script initialises a network, as its reader would

SCRIPT = Path(__file__).parents[2] / "examples" / "curves.py"
X, Y = blobs(60)


class Calls(ModuleType):
    """A module in which every name is a function that notes its call, and returns the module."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **named: self.calls.append((name, args, named)) or self

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, named) for called, args, named in self.calls if called == name]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, installed: tuple[str, ...] = ()) -> None:
    known = importlib.util.find_spec
    hidden = {"tensorboard", "mlflow"} - {*installed}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in hidden else name in installed or known(name, *a)
    )
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_without_either_it_prints(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run(monkeypatch, "--epochs", "2")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "neither tensorboard nor mlflow is installed, or asked for: printing"
    ends = [line for line in lines if line.startswith("  ")]
    assert len(ends) == 4  # three proxies and the target
    assert all("2 epochs: loss " in line and "val_balanced 0." in line for line in ends)


def test_curves_go_to_tensorboard_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    board = Calls("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    run(monkeypatch, "--epochs", "2", "--folder", "here", installed=("tensorboard", "mlflow"))
    assert capsys.readouterr().out.startswith("curves go to tensorboard, into here\n")
    assert [args for args, _ in board.named("SummaryWriter")] == [(Path(f"here/training-0{i}"),) for i in (1, 2, 3, 4)]
    assert len(board.named("close")) == 4
    scalars = [(args[0], args[2]) for args, _ in board.named("add_scalar")]
    assert {name for name, _ in scalars} >= {"loss", "val_loss", "balanced", "val_balanced", "lr"}
    assert [step for name, step in scalars if name == "balanced"] == [1, 2] * 4
    assert {args[0] for args, _ in board.named("add_histogram")} == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_curves_go_to_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Calls("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    run(monkeypatch, "--epochs", "2", "--to", "mlflow")
    assert [named["run_name"] for _, named in flow.named("start_run")] == [f"training-0{i}" for i in (1, 2, 3, 4)]
    assert [args for args, _ in flow.named("end_run")] == [("FINISHED",)] * 4
    assert [named["step"] for _, named in flow.named("log_metrics")] == [1, 2] * 4
    assert "epoch" not in flow.named("log_metrics")[0][0][0]


def test_a_run_of_mlflow_has_failed_where_the_training_has(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Calls("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    callback = runpy.run_path(str(SCRIPT))["MLflow"]("watching")
    broken = {"broken": lambda z, y: 1 / 0}
    trainer = TorchTrainer(1, progress=False, device="cpu", callbacks=[callback], metrics=broken)
    with pytest.raises(ValueError, match="broken"):
        trainer.fit(mlp(6, 8, 3), (X, Y), seed=0)
    assert flow.named("end_run") == [(("FAILED",), {})]


def test_they_are_pickled_between_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Calls("torch.utils.tensorboard"))
    board = runpy.run_path(str(SCRIPT))["TensorBoard"]("here")
    monkeypatch.setattr(sys.modules["__main__"], "TensorBoard", type(board), raising=False)
    type(board).__module__ = "__main__"
    TorchTrainer(1, progress=False, device="cpu", callbacks=[board]).fit(mlp(6, 8, 3), (X, Y), seed=0)
    assert pickle.loads(pickle.dumps(board)).trainings == 1
