"""The benchmark of steps runs from the command line, and its shares are those of its seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import run_script

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "steps.py"


def test_a_network_has_a_line_for_each_kind_of_batch_and_way(tmp_path: Path) -> None:
    options = ["--rows", "64", "--batch-sizes", "8", "16", "--repeats", "1", "--device", "cpu"]
    printed = run_script(SCRIPT, tmp_path, *options, "--ways", "plain", "channels-last")
    lines = [line.split() for line in printed.splitlines()[3:]]
    kinds = [[p, b, w] for p in ("bytes", "floats") for b in ("8", "16") for w in ("plain", "channels-last")]
    assert [line[:4] for line in lines] == [["resnet20", *kind] for kind in kinds]
    for _, _, _, way, _, _, *numbers in lines:
        values = [float(number.replace(",", "")) for number in numbers]
        for dense, proxy, share, first in (values[:4], values[4:]):
            assert share == pytest.approx(proxy / dense, abs=0.03)
            assert way != "plain" or first == share
