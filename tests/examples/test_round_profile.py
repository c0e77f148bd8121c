"""The profile of a round runs from the command line, and time goes to the part whose function took it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType

import pytest
import torch
from fakes import run_script

from examples.benchmarks import round_profile
from prunefuse_al.data import nonfinite_rows

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "round_profile.py"
TINY = ["--labelled", "40", "60", "--pool", "90", "--diverse-pool", "80", "-k", "5", "--epochs", "1"]


@pytest.mark.parametrize("kind", ["table", "pictures"])
def test_every_call_has_a_column_whose_shares_sum_to_one(kind: str, tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, *TINY, "--network", kind, "--data", "items", "--least", "0")
    _, head, *lines = printed.strip().splitlines()
    calls = ["first fit 40", "fit 40", "margin 90", "target 40", "first fit 60", "fit 60", "target 60", "k_center 80"]
    assert head.split() == ["share", "of", "processor", "time", *" ".join(calls).split()]
    assert lines[-1].split()[0] == "milliseconds"
    shares = [[float(cell.rstrip("%")) for cell in line[30:].split()] for line in lines[:-1]]
    assert [sum(column) for column in zip(*shares, strict=True)] == pytest.approx([100] * len(calls), abs=1.5)


def test_time_goes_to_the_innermost_function_of_the_library_that_has_a_part() -> None:
    found: list[str] = []

    class Watched(torch.Tensor):
        def is_floating_point(self) -> bool:  # called by `nonfinite_rows`
            frame: FrameType | None = sys._getframe()
            found.append(round_profile.part_of(frame))
            return False

    nonfinite_rows(torch.zeros(2, 2).as_subclass(Watched))
    assert found == [round_profile.FINITE]
    assert round_profile.part_of(sys._getframe()) == round_profile.REST


def test_the_clock_is_the_processors_and_stops_with_the_block() -> None:
    before, start = signal.getsignal(signal.SIGALRM), time.process_time()
    with round_profile.sampled() as counts:
        while time.process_time() < start + 0.05:
            sum(range(1000))
    used = 1000 * (time.process_time() - start)
    assert set(counts) == {round_profile.REST}
    assert 0 < counts[round_profile.REST] <= used
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
