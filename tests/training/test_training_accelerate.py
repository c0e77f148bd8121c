"""An `accelerate.Accelerator` is used as handed in, in one process and in two."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunefuse_al.training import Distillation, EarlyStopping, TorchTrainer

accelerate = pytest.importorskip("accelerate")
WORKER = Path(__file__).parent / "two_processes.py"

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 50)
X = (rng.normal(size=(50, 5)) + np.eye(5)[Y]).astype(np.float32)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def accelerator() -> Any:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield accelerate.Accelerator(cpu=True)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def trained(**options: Any) -> nn.Sequential:
    model = network()
    TorchTrainer(3, 16, device="cpu", **options).fit(model, (X, Y), seed=0, teacher=network())
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grad_clip": 0.5},
        {"early_stopping": EarlyStopping()},
        {"distillation": Distillation(), "weight_decay": 0.0},
    ],
)
def test_one_process_trains_as_without(accelerator: Any, options: dict[str, Any]) -> None:
    ours, plain = trained(accelerator=accelerator, **options), trained(**options)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert type(ours) is nn.Sequential
    assert "forward" not in vars(ours)


def test_it_is_used_and_keeps_nothing(accelerator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = accelerator.prepare(nn.Identity())
    calls: list[str] = []
    for name in ("prepare", "backward", "unwrap_model"):
        real = getattr(accelerator, name)
        monkeypatch.setattr(
            accelerator, name, lambda *a, _real=real, _name=name, **k: calls.append(_name) or _real(*a, **k)
        )
    trained(accelerator=accelerator)
    assert calls == ["prepare", *["backward"] * 12, "unwrap_model"]
    assert accelerator._models == [own]
    assert accelerator._optimizers == []


def test_mixed_precision_is_the_accelerators_and_is_taken_off_again() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        model = trained(accelerator=accelerator)
        assert "forward" not in vars(model)
        copy.deepcopy(model)
        plain = trained()
        assert not torch.equal(model[0].weight, plain[0].weight)
        torch.testing.assert_close(model[0].weight, plain[0].weight, rtol=0.1, atol=0.05)
        logits = TorchTrainer(accelerator=accelerator).infer(model, X).logits
        assert logits is not None
        assert logits.dtype == torch.float32
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_two_processes_end_with_one_network_and_the_same_signals(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parents[1])
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path)],
            env={**os.environ, **settings, "RANK": str(r), "LOCAL_RANK": str(r), "PYTHONPATH": root},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert first["logits"].shape == (51, 3)
    held_out = first["presented"] == 0  # every other row is seen once an epoch, by one process or the other
    assert first["presented"].tolist() == [0 if out else 12 for out in held_out]
    assert int(held_out.sum()) == 5
    assert (first["aum"][~held_out].abs() <= 12).all()
    torch.testing.assert_close(first["logits"], first["alone"], rtol=1e-5, atol=1e-6)
    assert float((first["logits"].argmax(1) == first["y"]).float().mean()) > 0.8
