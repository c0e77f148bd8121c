"""Where the processor's seconds of a round go: arithmetic of the network, and what the library does around it.

    python examples/benchmarks/round_profile.py
    python examples/benchmarks/round_profile.py --labelled 1000 10000 100000 --pool 10000000 --data arrays

A round is `fit` on labelled rows (the first one prunes as well), `query` of a pool, and `fit_target`. The network is
small, over rows of numbers (`--network table`) or little pictures (`--network pictures`), for then it shows what is not
arithmetic. While it runs, it is interrupted two thousand times a second, and the innermost function of the library on
the stack says where the processor's time since then has gone; what torch and NumPy do is part of who called them.
Printed are shares of each call, and the milliseconds that they are shares of. `--least` leaves out lines that nowhere
reach that share.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import prunefuse_al
from prunefuse_al import PrunedProxySelector, TorchTrainer

PACKAGE = str(Path(prunefuse_al.__file__).parent) + "/"
ARITHMETIC = "arithmetic of networks"
FINITE = "looking for NaN and infinity"
COPIES = "copies of networks"
PARTS: Mapping[str, str] = {
    "network/forward.py:call": ARITHMETIC,
    "network/forward.py:__call__": ARITHMETIC,
    "network/forward.py": "moving and casting batches",
    "training/fitting.py:_step": ARITHMETIC,
    "training/fitting.py:_train": ARITHMETIC,  # where the tensors of a step are let go
    "training/fitting.py:_backward": ARITHMETIC,
    "training/fitting.py:_logits": ARITHMETIC,
    "training/losses.py": ARITHMETIC,
    "training/broadcasting.py": ARITHMETIC,
    "training/schedules.py": ARITHMETIC,
    "training/distillation.py": ARITHMETIC,
    "training/loss_labels.py": "looking at labels",
    "training/fitting.py:_check_batch": "looking at labels",
    "selector/labelled.py": "looking at labels",
    "data/arrays.py:as_labels": "looking at labels",
    "data/arrays.py:nonfinite_rows": FINITE,
    "network/signals.py:_refuse_nonfinite": FINITE,
    "training/placement.py:finite": FINITE,
    "scorers/_select.py:check_finite": FINITE,
    "scorers/_select.py:check": FINITE,
    "data/": "reading batches",
    "network/copying.py": COPIES,
    "training/placement.py": COPIES,
    "network/storage.py": "keeping answers",
    "network/signals.py:_to_cpu": "keeping answers",
    "network/outputs.py": "keeping answers",
    "network/batchnorm.py": "folding BatchNorm",
    "scorers/": "scoring and ranking",
    "costs/": "counting for the ledger",
    "pruning/": "pruning",
    "fusing/": "fusing",
    "selector/candidates.py": "candidates",
}
"""A file, a function in one, or a room -> the part that the time of its functions is counted to."""
REST, DATASET = "rest", "the dataset's own code"


class Items(Dataset[Any]):
    """Rows one by one, as a dataset of the user's own gives them."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.x[row]), int(self.y[row])


KINDS = {
    "arrays": lambda x, y: (x, y),
    "tensors": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
    "items": lambda x, y: (Items(x, y), None),
}


def part_of(frame: FrameType | None) -> str:
    """Return the part that the innermost function of the library on a stack belongs to."""
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file == __file__ and function == Items.__getitem__.__name__:
            return DATASET
        if file.startswith(PACKAGE):
            file = file.removeprefix(PACKAGE)
            for name in (f"{file}:{function}", file, file.partition("/")[0] + "/"):
                if name in PARTS:
                    return PARTS[name]
        frame = frame.f_back
    return REST


@contextmanager
def sampled(step: float = 0.0005) -> Iterator[Counter[str]]:
    """Yield the milliseconds of processor time that the block spends in each part, looked at every `step` seconds."""
    found: Counter[str] = Counter()
    last = time.process_time()

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal last
        found[part_of(frame)] += 1000 * (time.process_time() - last)  # type: ignore[assignment]
        last = time.process_time()  # and not the time of looking

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, step, step)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def network(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a small network and the shape of its rows."""
    if kind == "table":
        layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
        return nn.Sequential(*layers), (64,)
    widths, layers = (1, 16, 32, 32), []
    for i in range(3):
        layers += [nn.Conv2d(widths[i], widths[i + 1], 3, 1 + (i > 0), 1, bias=False), nn.BatchNorm2d(widths[i + 1])]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), (1, 12, 12)


def one_round(args: argparse.Namespace, data: str, n: int, m: int, scorer: str, k: int) -> dict[str, Counter[str]]:
    """Return what each call of a round was found doing, for `n` labelled rows of a pool of `m`."""
    torch.manual_seed(args.seed)
    dense, shape = network(args.network)
    rng = np.random.default_rng(args.seed)
    y = rng.integers(10, size=max(n, m))
    centres = rng.standard_normal((10, *shape), dtype=np.float32)
    x = rng.standard_normal((len(y), *shape), dtype=np.float32)
    for start in range(0, len(y), 10_000):
        x[start : start + 10_000] += centres[y[start : start + 10_000]]
    trainer = TorchTrainer(args.epochs, args.batch_size, device="cpu", progress=False)
    chooser = PrunedProxySelector(dense, 0.5, scorer=scorer, trainer=trainer, random_state=args.seed)
    labelled, pool = KINDS[data](x[:n], y[:n]), KINDS[data](x[:m], y[:m])[0]
    candidates = None if n >= m else np.arange(n, m)
    with sampled() as first:
        chooser.fit(*labelled)
    with sampled() as fit:
        chooser.fit(*labelled)
    with sampled() as query:
        chooser.query(pool, k, candidates)
    with sampled() as target:
        chooser.fit_target()
    return {f"first fit {n:,}": first, f"fit {n:,}": fit, f"{scorer} {m:,}": query, f"target {n:,}": target}


def main(argv: list[str] | None = None) -> None:
    """Run a round of each size and print where its time went."""
    args = parse(argv)
    torch.set_num_threads(1)
    for data in args.data:
        calls: dict[str, Counter[str]] = {}
        one_round(args, data, 256, 1024, "margin", 10)  # what is imported and set up once
        for n in args.labelled:
            calls |= one_round(args, data, n, max(args.pool, n), "margin", args.k)
        n = args.labelled[0]
        found = one_round(args, data, n, max(args.diverse_pool, n), "k_center", args.k)
        calls |= {name: counts for name, counts in found.items() if name.startswith("k_center")}
        print(f"\n{data}, network {args.network}, {args.epochs} epochs of batches of {args.batch_size}, k = {args.k}")
        show(calls, args.least)


def show(calls: Mapping[str, Counter[str]], least: float) -> None:
    """Print a table: a line for each part, a column for each call."""
    totals = {name: max(1, counts.total()) for name, counts in calls.items()}
    order = sum(calls.values(), Counter[str]())
    width = max(12, *(len(name) + 2 for name in calls))
    print(f"{'share of processor time':30}" + "".join(f"{name:>{width}}" for name in calls))
    for part, _ in order.most_common():
        shares = [counts[part] / totals[name] for name, counts in calls.items()]
        if max(shares) >= least:
            print(f"{part:30}" + "".join(f"{share:>{width}.1%}" for share in shares))
    print(f"{'milliseconds':30}" + "".join(f"{total:>{width},.0f}" for total in totals.values()), flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="table", choices=("table", "pictures"))
    parser.add_argument("--data", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--labelled", nargs="+", type=int, default=[1_000, 4_000])
    parser.add_argument("--pool", type=int, default=50_000)
    parser.add_argument("--diverse-pool", type=int, default=10_000, help="pool of k_center (default: 10000)")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--least", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
