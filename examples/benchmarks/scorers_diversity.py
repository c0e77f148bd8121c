"""What the diverse scorers cost in time and memory, beside other libraries' own code on the same data.

    python examples/benchmarks/scorers_diversity.py
    python examples/benchmarks/scorers_diversity.py --scorers k_center --n 100000 --m 10000 --k 10000 --peer-k 200
    python examples/benchmarks/scorers_diversity.py --scorers k_center --n 1000000 --m 10000 --k 10000 --peers plain

Every run is a process of its own, so that its peak of resident memory is its own; ours and the others take turns.
Seconds are by the clock and by the processor, which other work on the machine disturbs less.
`--peer-k` lets the others pick fewer, where they would take hours or all memory: what the second half of these took
is then added for each one missing (marked ~), which flatters those whose picks become slower. Memory is not scaled.
Others: scikit-activeml and small-text where they are installed, and `plain`, the loop of the textbook in NumPy.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from prunefuse_al import scorers

DELTA = 0.6
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


def ours(name: str, data: Data) -> Any:
    """Return the function to time: the scorer by name, called as the selector calls it."""
    n, features = data["n"], data["features"]
    signals = scorers_signals(name, features[:n], features[n:], data["head"])
    scorer = scorers.ProbCover(delta=DELTA) if name == "probcover" else scorers.get_scorer(name)
    rng = None if name in ("k_center", "probcover") else data["seed"]
    return lambda: scorer.select(signals, data["k"], rng=rng).indices.tolist()


def scorers_signals(name: str, own: torch.Tensor, labelled: torch.Tensor, head: torch.Tensor) -> Any:
    """Return what the scorer reads about candidates and labelled rows."""
    from prunefuse_al import Signals

    with_logits = name in ("badge", "cal")
    return Signals(
        torch.arange(len(own)),
        logits=own @ head if with_logits else None,
        features=own,
        labelled_features=labelled,
        labelled_logits=labelled @ head if with_logits else None,
    )


def plain_k_center(data: Data) -> Any:
    """The loop of the textbook: one distance per row and pick, a vector of minima."""
    x, n = data["features"].numpy(), data["n"]

    def run() -> list[int]:
        norms = np.einsum("nd,nd->n", x, x)
        minima = np.full(n, np.inf, np.float32)
        for start in range(n, len(x), 256):
            block = x[start : start + 256]
            for rows in range(0, n, 8192):
                products = x[rows : min(rows + 8192, n)] @ block.T
                gap = norms[start : start + 256] - 2 * products
                minima[rows : rows + 8192] = np.minimum(minima[rows : rows + 8192], gap.min(1))
        minima = np.maximum(minima + norms[:n], 0)
        picked: list[int] = []
        for _ in range(data["k"]):
            best = int(minima.argmax())
            picked.append(best)
            minima = np.minimum(minima, norms[:n] + norms[best] - 2 * (x[:n] @ x[best]))
            minima[picked] = -1
        return picked

    return run


def skactiveml_k_center(data: Data) -> Any:
    """scikit-activeml's `k_greedy_center`, which fills a matrix of picks by rows."""
    from skactiveml.pool import k_greedy_center

    x, y = data["features"].numpy(), labels(data)
    return lambda: k_greedy_center(x, y, batch_size=data["k"], random_state=0)[0].tolist()


def smalltext_k_center(data: Data) -> Any:
    """small-text's `greedy_coreset`, with the rows ordered as its class does."""
    from small_text.query_strategies.coresets import greedy_coreset

    x, n = data["features"].numpy(), data["n"]
    own, known = np.arange(n), np.arange(n, len(x))
    return lambda: greedy_coreset(x, own, known, data["k"], distance_metric="euclidean", normalized=True).tolist()


def skactiveml_badge(data: Data) -> Any:
    """scikit-activeml's `Badge` with a linear classifier whose head is given."""
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge

    class Head(SkactivemlClassifier):  # type: ignore[misc]
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return self

        def predict_proba(self, X: Any) -> Any:
            return torch.from_numpy(X).float().mul(1).matmul(data["head"]).softmax(1).double().numpy()

    x = data["features"][: data["n"]].numpy()
    classifier = Head(classes=list(range(data["head"].shape[1])), missing_label=np.nan)
    query = Badge(random_state=0)
    return lambda: list(query.query(x, np.full(len(x), np.nan), classifier, fit_clf=False, batch_size=data["k"]))


def skactiveml_typiclust(data: Data) -> Any:
    """scikit-activeml's `TypiClust`."""
    from skactiveml.pool import TypiClust

    x, query = data["features"].numpy(), TypiClust(random_state=0, k=20)
    return lambda: query.query(x, labels(data), batch_size=data["k"]).tolist()


def skactiveml_probcover(data: Data) -> Any:
    """scikit-activeml's `ProbCover` on the matrix of all distances, for the same radius."""
    from skactiveml.pool import ProbCover

    x = torch.nn.functional.normalize(data["features"], dim=1).numpy()
    query = ProbCover(random_state=0, n_classes=2, deltas=[DELTA])
    return lambda: query.query(x, labels(data), batch_size=data["k"]).tolist()


def smalltext_cal(data: Data) -> Any:
    """small-text's `ContrastiveActiveLearning`, which looks for neighbours among all rows, not the labelled ones."""
    from small_text import ContrastiveActiveLearning

    x, n, k = data["features"], data["n"], data["k"]
    known = np.arange(n, len(x))
    proba = (x @ data["head"]).softmax(1).numpy()
    query = ContrastiveActiveLearning(k=10, normalize=False)
    sample = partial(query.sample, None, x.numpy(), np.arange(n), known, np.zeros(len(known), int), k, x.numpy())
    return lambda: sample(embeddings_proba=proba).tolist()


def labels(data: Data) -> np.ndarray:
    """Return labels as scikit-activeml wants them: NaN for what has none."""
    return np.where(np.arange(len(data["features"])) < data["n"], np.nan, 0.0)


PEERS: dict[str, dict[str, Callable[[Data], Any]]] = {
    "k_center": {"plain": plain_k_center, "skactiveml": skactiveml_k_center, "small_text": smalltext_k_center},
    "badge": {"skactiveml": skactiveml_badge},
    "typiclust": {"skactiveml": skactiveml_typiclust},
    "probcover": {"skactiveml": skactiveml_probcover},
    "cal": {"small_text": smalltext_cal},
}


def work(args: argparse.Namespace) -> None:
    """Run one implementation once and print seconds, memory in MB, and picks as JSON."""
    name, who = args.worker
    torch.set_num_threads(args.threads)
    data = make_data(args)
    call = ours(name, data) if who == "ours" else PEERS[name][who](data)
    before, start, processor = peak(), time.perf_counter(), time.process_time()
    picks = [int(pick) for pick in call()]
    spent = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps({**spent, "grown": peak() - before, "peak": peak(), "picks": picks}))


def peak() -> float:
    """Return the highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_once(args: argparse.Namespace, name: str, who: str, k: int) -> dict[str, Any] | None:
    """Return what one implementation took for `k` picks, in a process of its own; None if it failed."""
    sizes = [f"--{size}={getattr(args, size)}" for size in ("n", "m", "d", "classes", "seed", "threads")]
    command = [sys.executable, __file__, "--worker", name, who, f"--k={k}", *sizes]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(f"{name}: {who} failed ({result.returncode}): {(result.stderr.strip() or 'killed')[-200:]}")
        return None
    done: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
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
    asked = [who for who in PEERS[name] if who in args.peers]
    found = [who for who in asked if who == "plain" or find_spec(who)]
    for who in sorted(set(asked) - set(found)):
        print(f"{name}: {who} is not installed")
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in ("ours", *found)}
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
        print(
            f"{name:<10} {who:<11} {mark}{times[0]} {mark}{times[1]} {grown:>8.2f} {peak_mb:>8.0f}  "
            f"{agreeing} of {len(picks)}"
        )


def median(runs: list[dict[str, Any]], what: str) -> float:
    """Return the median of one measure."""
    return statistics.median(run[what] for run in runs) if runs else float("nan")


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked for and print a table."""
    args = parse(argv)
    if args.worker:
        return work(args)
    print(f"n = {args.n:,}, labelled {args.m:,}, d = {args.d}, {args.classes} classes, k = {args.k:,}, ", end="")
    print(f"{args.threads} threads, median of {args.repeats}; memory: growth of the peak over the size of the features")
    heads = f"{'seconds':>11} {'/ ours':>7} {'CPU s':>11} {'/ ours':>7} {'memory':>8} {'peak MB':>8}"
    print(f"{'scorer':<10} {'who':<11} {heads}  same picks as ours")
    for name in args.scorers:
        report(args, name, measure(args, name))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--peers", nargs="*", default=["plain", "skactiveml", "small_text"])
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
