"""The benchmark of scoring runs from the command line, and every way gives the same logits."""

from __future__ import annotations

from pathlib import Path

import torch
from fakes import run_script

from examples.benchmarks import scoring

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "scoring.py"
TINY = ["--network", "resnet8/4", "--size", "8", "--rows", "40", "--batch-sizes", "16", "--repeats", "1"]


def test_every_way_has_a_line_for_each_number_of_threads(tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, *TINY, "--threads", "1", "2")
    names = [line[:32].strip() for line in printed.splitlines()[1:] if line]
    ways = [scoring.FIRST, "folded", "folded, batches of 16", "folded, channels last"]
    assert names == ["threads: 1", *ways, "threads: 2", *ways]
    first = [line.split()[-1] for line in printed.splitlines() if line.startswith(scoring.FIRST)]
    assert first == ["1.00", "1.00"]


def test_all_ways_pass_the_same_network() -> None:
    args = scoring.parse(TINY)
    pictures = torch.randn(args.rows, args.channels, args.size, args.size, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        proxy = scoring.pruned(args, pictures)
    logits = {name: way() for name, way in scoring.ways_to_pass(args, proxy, pictures).items()}
    for name, found in logits.items():
        assert torch.allclose(found, logits[scoring.FIRST], rtol=1e-4, atol=1e-4), name
    assert not torch.equal(logits["folded"], logits[scoring.FIRST])  # the folded one is another network


def test_turns_are_counted_without_the_one_that_warms_up() -> None:
    order: list[str] = []
    found = scoring.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert "".join(order) == "ba" + "ab" + "ba"
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}
