"""The benchmark of steps runs from the command line, and its shares are those of its seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "steps.py"


def test_a_network_has_a_line_for_each_kind_of_batch(tmp_path: Path) -> None:
    options = ["--rows", "64", "--batch-sizes", "8", "16", "--repeats", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[3:]]
    assert [line[:3] for line in lines] == [["resnet20", p, b] for p in ("bytes", "floats") for b in ("8", "16")]
    for _, _, _, _, _, *numbers in lines:
        dense, proxy, share, score_dense, score_proxy, score_share = (float(n.replace(",", "")) for n in numbers)
        assert share == pytest.approx(proxy / dense, abs=0.03)
        assert score_share == pytest.approx(score_proxy / score_dense, abs=0.03)
