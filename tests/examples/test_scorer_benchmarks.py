"""The benchmarks of scorers run from the command line, say what is missing, and compare picks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prunefuse_al.scorers import SCORERS

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


def run(script: str, *arguments: str, cwd: Path) -> list[str]:
    paths = [str(FOLDER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def cells(lines: list[str], scorer: str, whose: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"| {scorer} | {whose} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_it_writes_a_table_and_a_figure_and_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ("--scorers", "moderate", "d2()")
    lines = run(
        "scorers.py", "--sizes", "300", "--k", "9", *names, "--out", "table.md", "--plot", "figure.png", cwd=tmp_path
    )
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert "| moderate | ours |" in (tmp_path / "table.md").read_text()
    _, _, seconds, passes, _, read, added, _, _ = cells(lines, "moderate", "ours")
    assert float(seconds) > 0
    assert float(passes) > 0
    assert (float(read), float(added)) >= (0.0, 0.0)
    note = cells(lines, "d2()", "d2pruning")[-1]
    assert note.startswith("no peers/d2pruning: git clone https://github.com/adymaharana/d2pruning in the folder")


def test_a_pool_too_large_for_a_peer_is_said(tmp_path: Path) -> None:
    lines = run("scorers.py", "--sizes", "2001", "--repeats", "1", "--scorers", "d2()", cwd=tmp_path)
    assert cells(lines, "d2()", "d2pruning")[-1] == "pairs of rows, or a loop over them: not tried beyond 2,000"


def test_every_scorer_is_measured_by_default(tmp_path: Path) -> None:
    text = "\n".join(run("scorers.py", "--help", cwd=tmp_path))
    assert all(name in text for name in SCORERS)


def test_the_loop_of_the_textbook_picks_the_same(tmp_path: Path) -> None:
    sizes = ("--n", "200", "--m", "10", "--k", "9", "--scorers", "k_center", "--peers", "plain", "SVP")
    lines = run("scorers_diversity.py", *sizes, cwd=tmp_path)
    assert any(line.startswith("k_center: SVP: no peers/selection-via-proxy: git clone") for line in lines)
    (plain,) = [line for line in lines if line.startswith("k_center   plain")]
    assert plain.endswith("all of 9")


def test_memory_is_what_a_process_took_itself_and_only_from_then_on() -> None:
    """A child starts with its parent's `ru_maxrss`, and what it took and gave back would hide what it takes later."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can tell")
    program = (
        "import memory; start = memory.peak(); block = b'1' * 2**27; high = memory.peak(); del block; "
        "memory.reset_peak(); low = memory.peak(); block = b'1' * 2**26; print(start, high, low, memory.peak())"
    )
    ballast = b"1" * 2**28
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, check=True
    ).stdout
    assert len(ballast) == 2**28
    start, high, low, later = map(float, done.split())
    assert start < 64
    assert (high - start, low - start, later - low) == pytest.approx((128, 0, 64), abs=8)
