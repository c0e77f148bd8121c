"""The benchmark of cheaper rounds runs from the command line, and what should be cheaper is."""

from __future__ import annotations

import re
from pathlib import Path

from fakes import run_script

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "cheaper_rounds.py"
TINY = ["--pool", "400", "--every", "1", "--initial", "40", "--k", "20", "--rounds", "3", "--epochs", "6"]


def test_every_way_has_a_line(tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, *TINY)
    found = re.findall(r"^(.+?) +[\d.]+ +[\d.]+ +([\d.]+) +([\d.]+)  ((?:\d+\.\d ?)+)$", printed, re.MULTILINE)
    costs = {name: (float(train), float(score)) for name, train, score, _ in found}
    assert len(costs) == 7
    assert all(len(accuracy.split()) == 3 for *_, accuracy in found)
    fresh = costs["fresh"]
    for name in ("fresh, a third of the epochs", "warm, a third", "shrunk and perturbed, a third"):
        assert costs[name][0] < 0.7 * fresh[0]
    assert costs["a fifth of the pool"][1] < 0.4 * fresh[1]
