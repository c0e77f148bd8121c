"""The benchmark of steps runs from the command line, and its shares are those of its seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import run_script

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "steps.py"


def test_a_network_has_a_line_for_each_kind_of_batch(tmp_path: Path) -> None:
    options = ["--rows", "64", "--batch-sizes", "8", "16", "--repeats", "1", "--device", "cpu"]
    printed = run_script(SCRIPT, tmp_path, *options)
    lines = [line.split() for line in printed.splitlines()[3:]]
    kinds = [["resnet20", p, b, "plain"] for p in ("bytes", "floats") for b in ("8", "16")]
    assert [line[:4] for line in lines] == kinds
    for _, _, _, _, _, _, *numbers in lines:
        dense, proxy, share, score_dense, score_proxy, score_share = (float(n.replace(",", "")) for n in numbers)
        assert share == pytest.approx(proxy / dense, abs=0.03)
        assert score_share == pytest.approx(score_proxy / score_dense, abs=0.03)
