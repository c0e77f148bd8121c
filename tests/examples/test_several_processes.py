"""The example of several processes: the same picks in each of two, by either launcher, and in one by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "examples" / "several_processes.py")
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
LAUNCHERS = {
    "one": [],
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port={port}"],
    "accelerate": [*ACCELERATE, "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port={port}"],
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def picks(folder: Path, launcher: list[str]) -> list[dict[str, Any]]:
    """Return what each process picked, in each round of each loop."""
    folder.mkdir()
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    # In double precision rounding orders no two candidates otherwise, so that rounds can be compared to the last one.
    options = ["--epochs=2", "--rounds=2", "--dtype=float64", f"--folder={folder}"]
    done = subprocess.run(
        [sys.executable, *(part.format(port=free_port()) for part in launcher), SCRIPT, *options],
        env={**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": the target is right in ") == 5  # one process speaks
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_picks_are_those_of_one_process_in_each_of_two(tmp_path: Path) -> None:
    found = {name: picks(tmp_path / name, launcher) for name, launcher in LAUNCHERS.items()}
    assert [len(each) for each in found.values()] == [1, 2, 2]
    (alone,) = found["one"]
    assert list(alone) == ["V1", "V2", "going on", "repaired", "probe"]
    assert all(len(set(rounds[0]) | set(rounds[1])) == 50 for rounds in alone.values())
    for name in ("torchrun", "accelerate"):
        for process in found[name]:
            assert process == alone, name
