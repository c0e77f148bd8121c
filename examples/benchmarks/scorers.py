"""What every scorer costs, beside one pass over what it reads and beside other people's own code.

    python examples/benchmarks/scorers.py                                    # small, a few minutes
    python examples/benchmarks/scorers.py --sizes 10000 100000 1000000 --repeats 5 --peers-root ~/peers
        --out docs/scorers-measured.md --plot docs/scorers-measured.png                  # one line; hours

Each run has a process of its own: seconds are the median of `--repeats` in it, memory is what the first adds to the
process's peak, beside the arrays. "Passes" are seconds over those of a sum of all that is read, timed in the same
turns; above each table is what torch's own softmax of the logits and a copy take beside it. What a scorer cannot do in
`--limit` seconds is not tried on more candidates, and said; so is what needs a matrix of all pairs.
The names with () are functions from records of a training, `--passes` outputs of every sample, to picks.

For peers see scorer_peers.py: what is not installed or cloned is said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from memory import peak, reset_peak
from peer_access import AbsentError, Peer, quiet
from peers_of_features import DELTA
from scorer_peers import PEERS
from scorer_tables import HEAD, figure, line

from prunefuse_al import scorers as ours
from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.scorers import SCORERS, ProbCover
from prunefuse_al.scorers._ccs import strata_of, without_hardest
from prunefuse_al.scorers._select import top_k
from prunefuse_al.types import Signals

DYNAMICS = ("adapruner", "aum", "correct", "el2n", "forgetting", "grand", "moso")
NOT_FOR_LARGE_BATCHES = {"batchbald": 20}
RECORDS = frozenset({"mc_logits", "labels"})
FUNCTIONS: dict[str, tuple[frozenset[str], Callable[[Signals, int], Any]]] = {
    "forgetting()": (RECORDS, lambda s, k: top_k(ours.forgetting(s.mc_logits.argmax(2) == s.labels), k)),
    "aum()": (RECORDS, lambda s, k: top_k(-ours.aum(s.mc_logits, s.labels), k)),
    "el2n()": (RECORDS, lambda s, k: top_k(ours.el2n(s.mc_logits, s.labels), k)),
    "grand()": (
        RECORDS | {"features"},
        lambda s, k: top_k(ours.grand(s.mc_logits, s.features[None], s.labels), k),
    ),
    "d2()": (
        frozenset({"dynamics", "features"}),
        lambda s, k: ours.d2(s.dynamics["el2n"], s.features, k, mislabelled=0, rng=0),
    ),
}
NAMES = [*SCORERS, *FUNCTIONS]


def needs_of(name: str) -> frozenset[str]:
    """Return the signals that are read."""
    return FUNCTIONS[name][0] if name in FUNCTIONS else SCORERS[name]().needs


def signals_for(name: str, n: int, args: argparse.Namespace) -> Signals:
    """Return signals of `n` candidates with what is needed: features are blobs through a ReLU, the others random."""
    c, d, t = args.classes, args.width, 1 if name == "grand()" else args.passes
    m = min(max(1, n // 10), args.labelled)
    with isolated_rng(0):
        centres = 2 * torch.randn(10 * c, d)

        def blobs(rows: int) -> torch.Tensor:
            found = torch.empty(rows, d)
            for part in found.split(65_536):
                part.normal_().add_(centres[torch.randint(len(centres), (len(part),))]).relu_()
            return found

        make: dict[str, Callable[[], object]] = {
            "logits": lambda: 3 * torch.randn(n, c),
            "features": lambda: blobs(n),
            "mc_logits": lambda: torch.randn(t, n, c).add_(torch.randn(n, c), alpha=3),
            "labels": lambda: torch.randint(c, (n,)),
            "dynamics": lambda: {key: torch.rand(n) for key in DYNAMICS},
            "head": lambda: torch.randn(c, d + 1),
            "labelled_features": lambda: blobs(m),
            "labelled_logits": lambda: 3 * torch.randn(m, c),
            "labelled_labels": lambda: torch.randint(2, (m, c)),
        }
        return Signals(torch.arange(n), **{field: make[field]() for field in sorted(needs_of(name))})


def picks(name: str, n: int, args: argparse.Namespace) -> int:
    """Return how many samples a scorer is asked for: fewer of one that is meant for small batches."""
    return min(args.k, n, NOT_FOR_LARGE_BATCHES.get(name, args.k))


def prepared(name: str, who: str, signals: Signals, k: int) -> Callable[[], Any]:
    """Return what picks rows: ours, or a peer's."""
    if who != "ours":
        return PEERS[name][who].prepare(signals, k)
    if name in FUNCTIONS:
        return lambda: FUNCTIONS[name][1](signals, k)
    # ProbCover's own search for a radius has no counterpart in the peer's code.
    scorer = ProbCover(delta=DELTA) if name == "probcover" else SCORERS[name]()
    rng = None if name in ("k_center", "probcover") else 0
    return lambda: scorer.select(signals, k, rng=rng).indices


def arrays(signals: Signals) -> list[torch.Tensor]:
    """Return the tensors in signals, but the indices."""
    values = [getattr(signals, field.name) for field in fields(signals) if field.name != "indices"]
    flat = [list(value.values()) if isinstance(value, dict) else [value] for value in values if value is not None]
    return [tensor for part in flat for tensor in part]


def read_by(name: str, signals: Signals) -> list[torch.Tensor]:
    """Return the tensors that are read: of the dynamics, only those that the scorer names."""
    named = getattr(SCORERS[name](), "dynamics", DYNAMICS) if name in SCORERS else {"el2n"}
    dynamics = [] if signals.dynamics is None else [signals.dynamics[key] for key in sorted(named)]
    return [*arrays(Signals(**{**vars(signals), "dynamics": None})), *dynamics]


def timed(run: Callable[[], object]) -> float:
    """Return seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Run one implementation in this process and return what it took, or what is missing."""
    name, who = args.worker
    n, k = args.sizes[0], picks(name, args.sizes[0], args)
    try:
        with quiet():  # and what is loaded on first use is loaded
            prepared(name, who, signals_for(name, min(n, 256), args), picks(name, min(n, 256), args))()
    except AbsentError as error:
        return {"absent": str(error)}
    signals = signals_for(name, n, args)
    read = read_by(name, signals)
    with quiet():
        run = prepared(name, who, signals, k)
        reset_peak()
        before, start = peak(), time.perf_counter()
        picked = [int(row) for row in run()]
        seconds = [time.perf_counter() - start]
        added = peak() - before
        passes = [timed(lambda: [tensor.sum() for tensor in read])]
        while len(seconds) < args.repeats and sum(seconds) < args.limit:
            seconds.append(timed(run))
            passes.append(timed(lambda: [tensor.sum() for tensor in read]))
    mb = sum(tensor.numel() * tensor.element_size() for tensor in read) / 2**20
    found = {"seconds": statistics.median(seconds), "read": statistics.median(passes), "added": added, "mb": mb}
    return {**found, "picks": picked}


def measure(name: str, who: str, n: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return what one implementation took in a process of its own, or under "absent" or "failed" why it did not."""
    options = ("classes", "width", "passes", "labelled", "k", "repeats", "threads", "limit")
    command = [sys.executable, __file__, "--worker", name, who, "--sizes", str(n)]
    command += [f"--{option}={getattr(args, option)}" for option in options]
    patience = args.limit * 3 + 120
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {patience:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed, most likely out of memory"])[-1][:160]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def agreement(name: str, own: list[int], theirs: list[int], n: int, args: argparse.Namespace) -> str:
    """Return in words how far two lists of picks are the same."""
    if own == theirs:
        return "all, in order"
    if sorted(own) == sorted(theirs):
        return "all"
    text = f"{len(set(own) & set(theirs))} of {len(own)}" + f", of {len(theirs)} rows" * (len(own) != len(theirs))
    if name == "ccs":  # both draw within strata, so what can be compared is how many come from each
        values = -signals_for(name, n, args).dynamics["aum"].double()
        kept = without_hardest(values, len(own), 0.1, None)
        strata = torch.full((n,), -1)
        strata[kept] = strata_of(values[kept], 50)
        counts = [torch.bincount(strata[rows] + 1, minlength=51) for rows in (own, theirs)]
        text += f"; {int(torch.minimum(*counts).sum())} by stratum"
    return text


def rows_of(name: str, n: int, args: argparse.Namespace, over: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return a row for ours and each peer; `over` says from how many candidates on something is left out."""
    peers: dict[str, Peer | None] = {"ours": None, **(PEERS.get(name, {}) if args.peers else {})}
    found: list[dict[str, Any]] = []
    for who, peer in peers.items():
        row: dict[str, Any] = {"name": name, "who": who, "n": n}
        if n > over.get((name, who), n):
            row["why"] = f"took over {args.limit:g} s for {over[name, who]:,}: not tried"
        elif peer is not None and n > peer.most:
            row["why"] = f"pairs of rows, or a loop over them: not tried beyond {peer.most:,}"
        else:
            row |= measure(name, who, n, args)
            row["why"] = row.pop("absent", None) or row.pop("failed", "")
            if row.get("seconds", 0) > args.limit or row["why"].startswith("not done"):
                over[name, who] = n
        if peer is not None and "picks" in row and "picks" in found[0]:
            row["same"] = agreement(name, found[0]["picks"], row["picks"], n, args)
            row["why"] = "" if row["same"].startswith("all") else peer.note
        found.append(row)
        print(line(row, found[0]), flush=True)
    return found


def passes_of(n: int, args: argparse.Namespace) -> str:
    """Return a sentence on what torch's own operations take on the logits, in sums of them."""
    logits = 3 * torch.randn(n, args.classes)
    runs = {"exp": logits.exp, "a copy": logits.clone, "amax of each row": lambda: logits.amax(1)}
    runs["softmax"] = lambda: logits.softmax(1)
    seconds = {name: [timed(run) for _ in range(5)] for name, run in {"sum": logits.sum, **runs}.items()}
    least = {name: min(taken) for name, taken in seconds.items()}
    told = ", ".join(f"{name} {least[name] / least['sum']:.1f}" for name in runs)
    return f"Of the logits, a sum takes {least['sum'] * 1000:.2f} ms; in passes: {told}."


def main(argv: list[str] | None = None) -> None:
    """Print the tables, and write them and the figure where asked."""
    args = parse(argv)
    if args.peers_root:
        os.environ["PEERS_ROOT"] = str(Path(args.peers_root).expanduser())
    torch.set_num_threads(args.threads)
    if args.worker:
        print(json.dumps(work(args)))
        return
    names, over = list(args.scorers or NAMES), dict[tuple[str, str], int]()
    setting = (
        f"{args.classes} classes, {args.width} features, {args.passes} passes, up to {args.labelled:,} labelled, "
        f"k = {args.k} (batchbald {NOT_FOR_LARGE_BATCHES['batchbald']}), {args.threads} threads, torch "
        f"{torch.__version__}; median of {args.repeats}."
    )
    print(setting)
    text, growth = [setting], dict[str, dict[int, dict[str, Any]]]()
    for n in args.sizes:
        top = [f"\n## {n:,} candidates\n", passes_of(n, args), "", HEAD, "|" + " --- |" * 9]
        print("\n".join(top))
        text += top
        for name in names:
            found = rows_of(name, n, args, over)
            text += [line(row, found[0]) for row in found]
            if "seconds" in found[0]:
                growth.setdefault(name, {})[n] = found[0]
    if args.out:
        title = f"# What scorers cost, measured\n\nWritten by `{Path(__file__).name}`, which says what is what.\n\n"
        Path(args.out).write_text(title + "\n".join(text) + "\n")
    if args.plot:
        figure(growth, args.plot)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--scorers", nargs="+", choices=NAMES, help="default: all of them")
    for name, value in (("classes", 10), ("width", 128), ("passes", 10), ("k", 100), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--labelled", type=int, default=10_000, help="labelled rows: a tenth, but no more than this")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a scorer gets no larger pool")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="run others' code too")
    parser.add_argument("--peers-root", help="folder of the clones that scorer_peers.py names")
    parser.add_argument("--out", help="write the tables to this file")
    parser.add_argument("--plot", help="write a figure of ours to this file")
    parser.add_argument("--worker", nargs=2, metavar=("SCORER", "WHOSE"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
