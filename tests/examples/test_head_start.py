"""The benchmark of the fused start runs from the command line and prints what it claims to compare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes import run_script

pytest.importorskip("matplotlib")
SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "head_start.py"
TINY = ["--blocks", "1", "--train", "100", "--test", "100", "--seeds", "2", "--epochs", "2", "--proxy-epochs", "2"]


def test_it_prints_the_comparison_and_draws_it(tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, *TINY, "--data", "digits", "--out", "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    gaps = re.findall(r"[+-]\d+\.\d\d", printed.splitlines()[-2])
    assert gaps == ["+0.00"] * 2  # fused by "preserve", the network answers as the proxy does
    assert all(float(d) < 1e-4 for d in re.findall(r"logits differ by (\S+) of", printed))
    names = ("preserve", "copy", "scratch", "scratch, equal compute")
    assert all(re.search(rf"^{name} +0: \d", printed, re.MULTILINE) for name in names)
