"""The benchmark of probes runs from the command line, and rounds after the first compute no features."""

from __future__ import annotations

import re
from pathlib import Path

from fakes import run_script

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "probing.py"
TINY = ["--widths", "4", "4", "8", "--pretrain", "60", "--pool", "80", "--initial", "20", "--k", "10"]


def test_every_loop_has_a_line_and_the_ratios_follow(tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, *TINY, "--rounds", "2", "--epochs", "2", "--test", "50")
    lines = re.findall(r"^(dense|probe|probe, logistic) +([\d.]+ [\d.]+) +([\d.]+ [\d.]+)$", printed, re.MULTILINE)
    assert [name for name, *_ in lines] == ["dense", "probe", "probe, logistic"]
    assert all(0 <= float(share) <= 100 for *_, shares in lines for share in shares.split())
    assert re.findall(r"^seconds (.+): probe / dense \d", printed, re.MULTILINE) == ["after the first", "of all rounds"]
