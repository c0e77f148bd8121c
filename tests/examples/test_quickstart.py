"""The quickstart runs from the command line, prints its tables and draws its figure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("modAL.models")
pytest.importorskip("matplotlib")

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"
SMALL = [
    "--data",
    "digits",
    "--network",
    "mlp",
    "--initial",
    "40",
    "--rounds",
    "2",
    "--epochs",
    "2",
    "--per-round",
    "10",
    "--pool",
    "200",
    "--test",
    "300",
]
TINY = [*SMALL, "--seeds", "0", "1", "--device", "cpu", "--out", "figure.png", "--jobs", "1"]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(QUICKSTART), *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    finished = run(folder, *TINY)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


def row(text: str, name: str) -> list[float]:
    (line,) = re.findall(rf"^ *{re.escape(name)}  +(.*)$", text, flags=re.MULTILINE)
    return [float(cell) for cell in re.findall(r"[+-]?\d+\.\d+", line)]


def test_accuracy_of_every_arm_at_every_budget(done):
    for labels in (40, 50, 60):
        cells = row(done[1], str(labels))
        assert len(cells) == (6 if labels == 50 else 8)  # mean and deviation; random labels are drawn at once
        assert all(0 <= cell <= 100 for cell in cells)
    assert "200 pictures to choose from, 300 to test on" in done[1]


def test_the_loops_start_from_the_same_labels_and_weights(done):
    (_, _, dense, random) = row(done[1], "40")[::2]
    assert dense == random


def test_the_fused_target_is_compared_with_every_other_end(done):
    fused = row(done[1], "fused target, recommended, 1 epochs")
    for name in (
        "fused target, the paper's settings, 2 epochs",
        "dense loop, 2 epochs",
        "random labels, 2 epochs",
        "the proxy's labels, from scratch, 1 epochs",
    ):
        mean, _, difference, _ = row(done[1], name)
        assert difference == pytest.approx(fused[0] - mean, abs=0.11)


def test_the_verdict_is_that_of_the_figures(done):
    text = done[1]
    for name, words in {
        "dense loop, 2 epochs": "the dense loop's network",
        "the proxy's labels, from scratch, 1 epochs": "the same labels and epochs from scratch",
    }.items():
        found = re.findall(
            rf"(better than|worse than|not told apart from) {words}: (\S+) points, .*? (\S+) to (\S+)\.", text
        )
        word, mean, low, high = found[0][0], *map(float, found[0][1:])
        assert mean == pytest.approx(row(text, name)[2], abs=0.06)
        assert low <= mean <= high
        assert (word == "better than") == (low > 0) or abs(low) < 0.06
        assert (word == "worse than") == (high < 0) or abs(high) < 0.06


def test_costs_of_the_stages_add_up(done):
    text = done[1]
    stages = [row(text, name) for name in ("train to choose", "score the pool", "prune, rank")]
    for column in (0, 1):
        assert row(text, "choosing")[column] == pytest.approx(sum(stage[column] for stage in stages), abs=0.03)
    share = float(re.findall(r"Choosing took (\S+) of the dense loop's MACs", text)[0])
    assert 0.2 < share < 0.6


def test_the_figure_is_drawn(done):
    assert (done[0] / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (done[0] / "figure.png").stat().st_size > 20_000


def test_other_scorers_by_name(tmp_path):
    finished = run(tmp_path, *SMALL, "--rounds", "1", "--device", "cpu", "--seeds", "0", "--scorer", "ccs")
    assert finished.returncode == 0, finished.stderr
    assert "300 to test on; ccs" in finished.stdout
    assert len(row(finished.stdout, "50")) == 4  # one seed: no deviations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pruning-ratio", "0"], "--pruning-ratio 0.0: the dense loop runs anyway"),
        (["--network", "resnet9"], "invalid choice: 'resnet9'"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    finished = run(tmp_path, *options)
    assert finished.returncode == 2
    assert message in finished.stderr
