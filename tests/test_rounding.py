"""What other tests compare with: picks up to ties, and a processor that rounds by the shape of a batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import assert_same_picks

SCORES = [0.5, 0.5 + 1e-8, 0.9, 0.1, 0.3]


@pytest.mark.parametrize("picked", [[2, 0, 1], [2, 1, 0]])
def test_ties_may_change_places(picked: list[int]) -> None:
    assert_same_picks(picked, [2, 1, 0], SCORES)


@pytest.mark.parametrize("picked", [[1, 2, 0], [2, 1, 4], [2, 1], [2, 1, 1]])
def test_anything_else_is_another_choice(picked: list[int]) -> None:
    with pytest.raises(AssertionError):
        assert_same_picks(picked, [2, 1, 0], SCORES)


def test_on_the_other_processor_a_row_depends_on_its_batch_and_on_nothing_else() -> None:
    program = """if True:
        import torch
        from rounding import round_by_shape
        for _ in range(2):
            for make, shape in ((lambda: torch.nn.Linear(6, 16), (6,)), (lambda: torch.nn.Conv2d(2, 3, 3), (2, 5, 5))):
                torch.manual_seed(0)
                layer, x = make().double(), torch.randn(200, *shape).double()
                whole, again, part = layer(x), layer(x), layer(x[:100])
                print(torch.equal(whole, again), torch.equal(whole[:100], part), torch.allclose(whole[:100], part))
                whole.sum().backward()
            round_by_shape()
    """
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2:] == ["True False True"] * 2
