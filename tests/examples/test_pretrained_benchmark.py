"""The benchmark of a pretrained start runs from the command line and prints the arms that it compares."""

from __future__ import annotations

import re
from pathlib import Path

from fakes import run_script

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "pretrained_start.py"
TINY = "--labels 60 --test 100 --train-epochs 1 --training 1 --unlabelled 120 --rows 80 --epochs 1 --threads 1"


def test_it_prints_what_each_arm_reaches(tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, *TINY.split(), "--arms", "fine-tuned,taught,probe")
    lines = printed.splitlines()[-9:]
    assert lines[0].split()[:2] == ["proxy,", "%"]
    assert [re.split(r" {2,}", line)[0] for line in lines[1:]] == [
        "fine-tuned",
        "fine-tuned, half the rate",
        "fine-tuned, twice as long",
        "fine-tuned, twice as long, half",
        "repaired and taught",
        "repaired and taught, full rate",
        "probe",
        "probe, full rate",
    ]
    assert all(0 <= float(value) <= 100 for value in re.findall(r"\d+\.\d", lines[-1])[:2])
