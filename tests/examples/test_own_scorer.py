"""The example of a scorer of one's own runs, and is as short as it says."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "own_scorer.py"


def test_own_scorer(capsys):
    assert len(SCRIPT.read_text().splitlines()) < 40
    runpy.run_path(str(SCRIPT))
    contract, *scores = capsys.readouterr().out.splitlines()
    assert contract.startswith("the contract holds: ")
    found = {line.split(":")[0]: float(line.split()[1]) for line in scores}
    assert list(found) == ["Tempered(temperature=3.0)", "entropy", "random"]
    assert min(found.values()) > 0.7
