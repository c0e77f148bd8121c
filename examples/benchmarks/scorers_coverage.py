"""What scorers of training dynamics, Moderate, CCS and D2 take beside one pass over the features.

    python examples/benchmarks/scorers_coverage.py [--rows 1000000] [--width 128] [--d2-rows 100000] [--rounds 3]

Everything takes turns in one run, so that other work weighs on all alike; medians are printed. Two passes
are shown, because "one pass" may mean reading an array (a norm per row) or writing one of its size too (a copy).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch

from prunefuse_al import Signals, get_scorer

POINT = ("forgetting", "aum", "el2n", "grand", "moso")


def signals(rows: int, width: int, classes: int) -> Signals:
    """Return random features around one centre per class, labels, and dynamics; a thirtieth of the counts are ties."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (rows,), generator=rng)
    centres = torch.randn(classes, width, generator=rng)
    features = torch.randn(rows, width, generator=rng).add_(centres[labels])
    dynamics = {name: torch.randn(rows, generator=rng) for name in POINT}
    dynamics["forgetting"] = torch.randint(30, (rows,), generator=rng).float()
    return Signals(torch.arange(rows), features=features, labels=labels, dynamics=dynamics)


def main() -> None:
    """Time all, then print the medians beside the passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--d2-rows", type=int, default=100_000, help="0 leaves D2 out")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data, k = signals(args.rows, args.width, args.classes), args.rows // 10
    features = data.features
    runs: dict[str, Callable[[], object]] = {
        "pass: norm of each row": lambda: features.norm(dim=1),
        "pass: copy": lambda: features.clone(),
        **{name: lambda name=name: get_scorer(name).select(data, k, rng=0) for name in (*POINT, "ccs", "moderate")},
    }
    report(f"{args.rows:,} x {args.width}, k = {k:,}", runs, args.rounds)
    if args.d2_rows:
        few = signals(args.d2_rows, args.width, args.classes)
        run = {"d2": lambda: get_scorer("d2").select(few, args.d2_rows // 10, rng=0)}
        report(f"{args.d2_rows:,} x {args.width}, k = {args.d2_rows // 10:,}", run, 1)


def report(title: str, runs: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print the median seconds of each run, and how many passes that is."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    passes = [medians[name] for name in runs if name.startswith("pass")]
    print(f"\n{title}\n{'':24}  seconds" + "  norms  copies" * bool(passes))
    for name, taken in medians.items():
        print(f"{name:24}  {taken:7.2f}" + "".join(f"  {taken / one:5.1f}" for one in passes))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
