"""The benchmark of what pruning costs runs from the command line, and its columns fit together."""

from __future__ import annotations

from pathlib import Path

import torch
from fakes import run_script

from examples.networks import cifar_resnet

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "prune_cost.py"


def test_a_network_has_a_line_of_seconds_and_memory(tmp_path: Path) -> None:
    printed = run_script(SCRIPT, tmp_path, "--networks", "resnet20", "--repeats", "1", "--threads", "1")
    header, line = printed.splitlines()
    assert header.split("  ")[-1] == "prune + fuse"
    name, parameters, copied, pruned, ratio, *copies = line.split()
    assert name == "resnet20"
    with torch.random.fork_rng(devices=[]):
        assert int(parameters.replace(",", "")) == sum(p.numel() for p in cifar_resnet(20).parameters())
    low, high = ((float(pruned) + d) / max(float(copied) - d, 1e-6) for d in (-0.005, 0.005))  # seconds are rounded
    assert low - 0.01 <= float(ratio) <= high + 0.01
    assert float(pruned) > 0
    assert len(copies) == 2
    assert all(float(value) >= 0 for value in copies)  # of so small a network nothing need be seen
