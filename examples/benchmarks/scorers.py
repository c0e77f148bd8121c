"""What every scorer in `SCORERS` costs: time beside one pass over what it reads, and memory as the pool grows.

    python examples/benchmarks/scorers.py                                    # small, a minute or so
    python examples/benchmarks/scorers.py --sizes 10000 100000 1000000 --repeats 5 --plot scorers.png

"Read" is a sum over the arrays that a scorer reads, the least that anything can cost; "softmax" is torch's own, of the
logits. Runs take turns, so that a machine whose speed drifts treats all alike. Memory is what a run adds to the peak of
a process of its own, beside the arrays. Peers that are installed (modAL, scikit-activeml, small-text) run in the same
turns on the same arrays. What a scorer cannot do in `--limit` seconds is left out at larger sizes, and said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from prunefuse_al.rng import isolated_rng
from prunefuse_al.scorers import SCORERS
from prunefuse_al.types import Signals

DYNAMICS = ("aum", "correct", "el2n", "forgetting", "grand", "moso")
NOT_FOR_LARGE_BATCHES = {"batchbald": 20}


def signals_for(needs: frozenset[str], n: int, args: argparse.Namespace) -> Signals:
    """Return random signals of `n` candidates with what is needed."""
    c, d, t = args.classes, args.width, args.passes
    make: dict[str, Callable[[], object]] = {
        "logits": lambda: 3 * torch.randn(n, c),
        "features": lambda: torch.randn(n, d),
        "mc_logits": lambda: 3 * torch.randn(1, n, c) + torch.randn(t, n, c),
        "labels": lambda: torch.randint(c, (n,)),
        "dynamics": lambda: {name: torch.rand(n) for name in DYNAMICS},
        "labelled_features": lambda: torch.randn(max(1, n // 10), d),
    }
    with isolated_rng(0):
        return Signals(torch.arange(n), **{name: make[name]() for name in sorted(needs)})


def picks(name: str, n: int, args: argparse.Namespace) -> int:
    """Return how many samples a scorer is asked for: fewer of one that is meant for small batches."""
    return min(args.k, n, NOT_FOR_LARGE_BATCHES.get(name, args.k))


def peers(signals: Signals, k: int) -> dict[str, Callable[[], object]]:
    """Return what the installed toolkits do with the same class probabilities, by name."""
    found: dict[str, Callable[[], object]] = {}
    if signals.logits is None:
        return found
    proba = signals.logits.softmax(1).numpy()
    if (modal := installed("modAL.uncertainty")) is not None:
        found["entropy: modAL"] = lambda: modal.entropy_sampling(_Fixed(proba), proba, n_instances=k)
        found["margin: modAL"] = lambda: modal.margin_sampling(_Fixed(proba), proba, n_instances=k)
    if (skactiveml := installed("skactiveml.pool")) is not None:
        score = skactiveml.uncertainty_scores
        found["entropy: scikit-activeml"] = lambda: score(proba, method="entropy").argsort()[-k:]
        found["margin: scikit-activeml"] = lambda: score(proba, method="margin_sampling").argsort()[-k:]
    if (small_text := installed("small_text")) is not None:
        strategy, rows = small_text.PredictionEntropy(), np.arange(len(proba))
        found["entropy: small-text"] = lambda: strategy.query(_Fixed(proba), rows, rows, rows[:0], rows[:0], n=k)
    return found


def installed(module: str) -> Any:
    """Return a module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


class _Fixed:
    """A classifier whose answers are known."""

    def __init__(self, proba: object) -> None:
        self.proba = proba

    def predict_proba(self, _: object) -> object:
        return self.proba


def timed(run: Callable[[], object]) -> float:
    """Return seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def times(names: list[str], n: int, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Return median seconds of each scorer and peer, and of reading what it reads; all in turns."""
    runs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for name in names:
        scorer = SCORERS[name]()
        signals, k = signals_for(scorer.needs, n, args), picks(name, n, args)
        read = lambda s=signals: [values.sum() for values in arrays(s)]  # noqa: E731
        runs[name] = (lambda s=signals, o=scorer, k=k: o.select(s, k, rng=0), read)
        if name == "entropy":
            runs["softmax alone"] = (lambda s=signals: s.logits.softmax(1), read)
            runs |= {peer: (run, read) for peer, run in peers(signals, k).items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, (run, read) in runs.items():
            seconds[name].append((timed(run), timed(read)))
    return {
        name: tuple(statistics.median(column) for column in zip(*found, strict=True)) for name, found in seconds.items()
    }


def arrays(signals: Signals) -> list[torch.Tensor]:
    """Return the tensors in signals, but the indices."""
    values = [getattr(signals, field.name) for field in fields(signals) if field.name != "indices"]
    flat = [list(value.values()) if isinstance(value, dict) else [value] for value in values if value is not None]
    return [tensor for part in flat for tensor in part]


def peak(name: str, n: int, args: argparse.Namespace) -> dict[str, float]:
    """Return seconds and MB that one selection adds to the peak of a process of its own, and MB of what it reads."""
    code = (
        "import sys; sys.argv = sys.argv[1:]; import runpy; "
        "runpy.run_path(sys.argv[0])['measure_here'](sys.argv[1], int(sys.argv[2]), sys.argv[3:])"
    )
    own = ["--classes", args.classes, "--width", args.width, "--passes", args.passes, "--k", args.k]
    command = [sys.executable, "-c", code, __file__, name, str(n), *map(str, own)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20 * args.limit + 60)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_here(name: str, n: int, options: list[str]) -> None:
    """Select once in this process and print what it took, as JSON."""
    args, scorer = parse(options), SCORERS[name]()
    scorer.select(signals_for(scorer.needs, 200, args), picks(name, 200, args), rng=0)  # what is loaded on first use
    signals = signals_for(scorer.needs, n, args)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = timed(lambda: scorer.select(signals, picks(name, n, args), rng=0))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    read = sum(tensor.numel() * tensor.element_size() for tensor in arrays(signals)) / 2**20
    print(json.dumps({"seconds": seconds, "added": added, "read": read}))


def main(argv: list[str] | None = None) -> None:
    """Print both tables and draw the figure if asked."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    names, growth = list(args.scorers or SCORERS), dict[str, dict[int, dict[str, float]]]()
    print(f"{args.classes} classes, {args.width} features, {args.passes} passes, k = {args.k}, {args.threads} threads")
    for n in args.sizes:
        print(f"\n{n:,} candidates\n{'':26}{'seconds':>10}{'over reading':>14}{'MB read':>10}{'MB added':>10}")
        for name in names:
            growth.setdefault(name, {})[n] = peak(name, n, args)
        slow = [name for name in names if growth[name][n]["seconds"] > args.limit]
        names = [name for name in names if name not in slow]
        for name, (seconds, read) in times(names, n, args).items():
            memory = growth[name][n] if name in growth else None
            cells = f"{memory['read']:>10.1f}{memory['added']:>10.1f}" if memory else ""
            print(f"{name:26}{seconds:>10.4f}{seconds / read:>14.1f}{cells}")
        for name in slow:
            print(f"{name:26}{growth[name][n]['seconds']:>10.1f} once; over --limit, left out from here on")
    if args.plot:
        figure(growth, args.plot)


def figure(growth: dict[str, dict[int, dict[str, float]]], path: str) -> None:
    """Draw seconds and added memory over the number of candidates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for ax, measure, label in zip(axes, ("seconds", "added"), ("seconds", "MB added to the peak"), strict=True):
        for name, found in growth.items():
            ax.plot(list(found), [max(row[measure], 1e-4) for row in found.values()], marker="o", label=name)
        ax.set(xscale="log", yscale="log", xlabel="candidates", ylabel=label)
        ax.grid(alpha=0.3)
    axes[1].legend(frameon=False, fontsize="small")
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--scorers", nargs="+", choices=SCORERS, help="default: all of them")
    for name, value in (("classes", 10), ("width", 128), ("passes", 10), ("k", 100), ("repeats", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a scorer gets no larger pool")
    parser.add_argument("--plot", help="write a figure to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
