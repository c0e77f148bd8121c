"""What a repair without labels takes, in dense passes over the same rows.

    python examples/benchmarks/repair_cost.py --networks resnet50 vit_b_16 --size 96

Passes before and after each repair are averaged, the median of the repeats is printed. Weights are those of
initialisation: what a repair does depends on shapes, not on what weights know. Networks are torchvision's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from prunefuse_al import prune, repair


def main(argv: list[str] | None = None) -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "vit_b_16"])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB; where it is too little, fewer rows are used")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print("network      rows  size  dense pass, s  repair, s  passes")
    for name in args.networks:
        print(measured(name, args), flush=True)


def measured(name: str, args: argparse.Namespace) -> str:
    """Return the line of a network."""
    from torchvision import models

    torch.manual_seed(0)
    sized = {"image_size": args.size} if name.startswith("vit") else {}
    network = models.get_model(name, weights=None, **sized).eval()
    rows = torch.randn(args.rows, 3, args.size, args.size)
    proxy = prune(network, rows[:2], args.ratio)
    passes, repairs = [], []
    before = seconds(lambda: read(network, rows))
    for _ in range(args.repeats):
        repairs.append(seconds(lambda: repair(network, proxy, rows, memory=args.memory)))
        after = seconds(lambda: read(network, rows))
        passes.append((before + after) / 2)
        before = after
    ratio = statistics.median(r / p for r, p in zip(repairs, passes, strict=True))
    once, taken = statistics.median(passes), statistics.median(repairs)
    return f"{name:<12} {args.rows:>4} {args.size:>5} {once:>14.1f} {taken:>10.1f} {ratio:>7.1f}"


@torch.no_grad()
def read(network: nn.Module, rows: Tensor) -> None:
    """Put all rows through the network, 128 at a time."""
    for batch in rows.split(128):
        network(batch)


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
