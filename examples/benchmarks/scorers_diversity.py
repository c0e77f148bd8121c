"""What the diverse scorers cost in time and memory, beside other libraries' own code on the same data.

    python examples/benchmarks/scorers_diversity.py
    python examples/benchmarks/scorers_diversity.py --scorers k_center --n 100000 --m 10000 --k 10000 --peer-k 200
    python examples/benchmarks/scorers_diversity.py --scorers k_center --n 1000000 --m 10000 --k 10000 --peers plain

Every run is a process of its own, so that its peak of resident memory is its own; ours and the others take turns.
Seconds are by the clock and by the processor, which other work on the machine disturbs less.
`--peer-k` lets the others pick fewer, where they would take hours or all memory: what the second half of these took
is then added for each one missing (marked ~), which flatters those whose picks become slower. Memory is not scaled.
Others: `plain`, the loop of the textbook in NumPy, and those of scorer_peers.py, which says how to get them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from memory import peak, reset_peak
from peer_access import AbsentError, quiet
from peers_of_features import DELTA
from scorer_peers import PEERS

from prunefuse_al import scorers

DIVERSE = ("k_center", "badge", "vessal", "typiclust", "probcover", "cal", "dropquery")
CLOCKS = ("seconds", "processor")
Data = dict[str, Any]


def make_data(args: argparse.Namespace) -> Data:
    """Return features of `n` candidates and `m` labelled rows after them: blobs through a ReLU; and a linear head."""
    rng = torch.Generator().manual_seed(args.seed)
    centres = 2 * torch.randn(10 * args.classes, args.d, generator=rng)
    features = torch.empty(args.n + args.m, args.d)
    for rows in features.split(65_536):
        rows.normal_(generator=rng).add_(centres[torch.randint(len(centres), (len(rows),), generator=rng)]).relu_()
    head = torch.randn(args.d, args.classes, generator=rng) / args.d**0.5
    return {"features": features, "n": args.n, "k": args.k, "head": head, "seed": args.seed}


def ours(name: str, data: Data, signals: Any) -> Any:
    """Return the function to time: the scorer by name, called as the selector calls it."""
    scorer = scorers.ProbCover(delta=DELTA) if name == "probcover" else scorers.get_scorer(name)
    rng = None if name in ("k_center", "probcover") else data["seed"]
    return lambda: scorer.select(signals, data["k"], rng=rng).indices.tolist()


def scorers_signals(name: str, own: torch.Tensor, labelled: torch.Tensor, head: torch.Tensor) -> Any:
    """Return what the scorer reads about candidates and labelled rows."""
    from prunefuse_al import Signals

    with_logits = name in ("badge", "vessal", "cal", "dropquery")
    return Signals(
        torch.arange(len(own)),
        logits=own @ head if with_logits else None,
        features=own,
        labelled_features=labelled,
        head=torch.cat([head.T, torch.zeros(head.shape[1], 1)], 1),
        labelled_logits=labelled @ head if with_logits else None,
    )


def work(args: argparse.Namespace) -> None:
    """Run one implementation once and print seconds, memory in MB, and picks as JSON."""
    name, who = args.worker
    torch.set_num_threads(args.threads)
    data = make_data(args)
    n, features = data["n"], data["features"]
    signals = scorers_signals(name, features[:n], features[n:], data["head"])
    try:
        call = ours(name, data, signals) if who == "ours" else PEERS[name][who].prepare(signals, data["k"])
    except AbsentError as error:
        print(json.dumps({"absent": str(error)}))
        return
    reset_peak()
    before, start, processor = peak(), time.perf_counter(), time.process_time()
    with quiet():
        picks = [int(pick) for pick in call()]
    spent = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps({**spent, "grown": peak() - before, "peak": peak(), "picks": picks}))


def run_once(args: argparse.Namespace, name: str, who: str, k: int) -> dict[str, Any] | None:
    """Return what one implementation took for `k` picks, in a process of its own; None if it failed."""
    sizes = [f"--{size}={getattr(args, size)}" for size in ("n", "m", "d", "classes", "seed", "threads")]
    command = [sys.executable, __file__, "--worker", name, who, f"--k={k}", *sizes]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(f"{name}: {who} failed ({result.returncode}): {(result.stderr.strip() or 'killed')[-200:]}")
        return None
    done: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    if "absent" in done:
        print(f"{name}: {who}: {done['absent']}")
        return None
    return done


def run_peer(args: argparse.Namespace, name: str, who: str) -> dict[str, Any] | None:
    """Return what another implementation took; beyond `--peer-k` picks by what the last of them took."""
    k = min(args.k, args.peer_k or args.k)
    done = run_once(args, name, who, k)
    if done is None or k == args.k:
        return done
    half = run_once(args, name, who, k // 2)
    if half is None:
        return None
    for clock in CLOCKS:
        done[clock] += max(0.0, done[clock] - half[clock]) / (k - k // 2) * (args.k - k)
    return done


def measure(args: argparse.Namespace, name: str) -> dict[str, list[dict[str, Any]]]:
    """Run ours and the others in turn, each `--repeats` times."""
    asked = [who for who in PEERS[name] if args.peers is None or who in args.peers]
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in ("ours", *asked)}
    for _ in range(args.repeats):
        for who, so_far in runs.items():
            done = run_once(args, name, who, args.k) if who == "ours" else run_peer(args, name, who)
            so_far += [done] if done else []
    return runs


def report(args: argparse.Namespace, name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print a line for each implementation."""
    reference = runs["ours"][0]["picks"] if runs["ours"] else []
    for who, done in runs.items():
        if not done:
            continue
        picks, mark = done[0]["picks"], "~" if len(done[0]["picks"]) < args.k else " "
        times = [f"{median(done, c):>10.2f} {median(done, c) / median(runs['ours'], c):>7.1f}" for c in CLOCKS]
        grown, peak_mb = (max(run[what] for run in done) for what in ("grown", "peak"))
        grown /= 4 * (args.n + args.m) * args.d / 2**20
        same = next((i for i, (a, b) in enumerate(zip(picks, reference, strict=False)) if a != b), len(picks))
        agreeing = "all" if same == len(picks) else f"first {same}"
        if same < len(picks) and sorted(picks) == sorted(reference):
            agreeing = "all, in another order,"
        print(
            f"{name:<10} {who:<20} {mark}{times[0]} {mark}{times[1]} {grown:>8.2f} {peak_mb:>8.0f}  "
            f"{agreeing} of {len(picks)}"
        )


def median(runs: list[dict[str, Any]], what: str) -> float:
    """Return the median of one measure."""
    return statistics.median(run[what] for run in runs) if runs else float("nan")


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for and print a table."""
    args = parse(argv)
    if args.peers_root:
        os.environ["PEERS_ROOT"] = args.peers_root
    if args.worker:
        return work(args)
    print(f"n = {args.n:,}, labelled {args.m:,}, d = {args.d}, {args.classes} classes, k = {args.k:,}, ", end="")
    print(f"{args.threads} threads, median of {args.repeats}; memory: growth of the peak over the size of the features")
    heads = f"{'seconds':>11} {'/ ours':>7} {'CPU s':>11} {'/ ours':>7} {'memory':>8} {'peak MB':>8}"
    print(f"{'scorer':<10} {'who':<20} {heads}  same picks as ours")
    for name in args.scorers:
        report(args, name, measure(args, name))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorers", nargs="+", default=list(DIVERSE), choices=DIVERSE)
    parser.add_argument("--peers", nargs="*", help="their names; default: all there are")
    parser.add_argument("--peers-root", help="folder of the clones that scorer_peers.py names")
    parser.add_argument("--n", type=int, default=2000, help="candidates (default: 2000)")
    parser.add_argument("--m", type=int, default=200, help="labelled rows (default: 200)")
    parser.add_argument("--d", type=int, default=64, help="features (default: 64)")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--k", type=int, default=100, help="picks (default: 100)")
    parser.add_argument("--peer-k", type=int, help="picks of the others (default: as many)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=2, metavar=("SCORER", "WHO"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
