"""Compares ways to spend labels: PruneFuse, active learning with the dense network, Selection via Proxy, random.

    python examples/paper/run.py                                 # digits, a minute: every part at work
    python examples/paper/run.py fashion-mnist --root data --jobs 2
    python examples/paper/run.py my-plan.json --out my-results --seeds 0 1 2
    python examples/paper/run.py fashion-mnist-questions --root data --jobs 2   # several plans that share records
    python examples/paper/run.py fashion-mnist --out results --report   # only the report, of what is there

A run that was stopped goes on where it was; several of these commands, also on several machines that share the folder,
work on one plan without doing anything twice. Needs matplotlib: pip install "prunefuse_al[plots]".
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from cells import Bench
from door import check_data, check_files, check_plans
from plan import Plan, read_plan, subset_of
from plans import GROUPS, PLANS
from processes import end_with_parent, run_side_by_side
from records import Store
from report import write_report
from sources import source

HERE = Path(__file__).resolve().parent
WAIT = 2.0  # seconds until one looks again whether another process has got further


def main(argv: list[str] | None = None) -> None:
    """Do what is left of each plan, then write its report."""
    args = arguments(argv)
    if args.attached:
        end_with_parent()
    plans, store = asked(args), Store(Path(args.out))
    if store.check(plans[0]):
        store.open(plans[0])  # an older folder is taken over, what died there is swept
    if args.jobs > 1 and not args.report:
        in_processes(args, argv if argv is not None else sys.argv[1:])
    elif not args.report:
        for plan in plans:
            work(plan, store, args)
    if not args.worker:
        for plan in plans:
            print(reported(plan, store), end="\n\n")


def reported(plan: Plan, store: Store) -> str:
    """Put the lines of a plan that is done in order, and write its report."""
    store.open(plan)
    store.finish(plan)
    with store.locked():
        return write_report(plan, store)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; those called like fields of a plan replace these."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join([*PLANS, *GROUPS])
    parser.add_argument("plan", nargs="*", default=["digits"], help=f"a .json file, or one of {known}")
    parser.add_argument("--out", help="folder for records and report (default: paper-PLAN)")
    parser.add_argument("--root", default="data", help="folder with the pictures, or where to download them")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument("--threads", type=positive, default=1, help="of torch, in each process (default: 1)")
    parser.add_argument("--jobs", type=positive, default=1, help="processes to work in (default: 1)")
    parser.add_argument("--report", action="store_true", help="only write the report of what is there")
    parser.add_argument("--worker", action="store_true", help="write no report")
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)  # end when standard input does
    for field in fields(Plan):
        if field.init and field.name not in ("name", "note"):
            kind = type(field.default)
            inner = type(next(iter(field.default), "")) if kind is tuple else kind
            inner = float if field.name in ("first", "budgets") else inner
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=inner, nargs="+" if kind is tuple else None)
    args = parser.parse_args(argv)
    args.out = args.out or f"paper-{Path(args.plan[0]).stem}"
    return args


def positive(text: str) -> int:
    """Return the whole number from 1 that a text is."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; pass a whole number from 1")
    return int(text)


def asked(args: argparse.Namespace) -> list[Plan]:
    """Return the plans, with what was given on the command line.

    Raises:
        ValueError: one of them cannot be run, or not beside the others.
    """
    changes: dict[str, Any] = {
        field.name: getattr(args, field.name)
        for field in fields(Plan)
        if field.name not in ("name", "note") and getattr(args, field.name, None) is not None
    }
    names = [name for given in args.plan for name in GROUPS.get(given, [given])]
    plans = [replace(read_plan(name, PLANS), **changes) for name in names]
    check_plans(plans)
    for plan in plans if not args.report else ():
        check_files(plan)
    return plans


def in_processes(args: argparse.Namespace, argv: list[str]) -> None:
    """Work on the plans in several processes."""
    command = [sys.executable, str(HERE / "run.py"), *argv, "--jobs", "1", "--worker", "--attached"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    run_side_by_side(command, args.jobs, environment)


def work(plan: Plan, store: Store, args: argparse.Namespace) -> None:
    """Do every arm on every seed that no other process is at, until nothing is left for this one."""
    torch.set_num_threads(args.threads)
    # Arms that take the labels of others come last, so that these are there.
    units = [(arm, seed) for seed in plan.seeds for arm in sorted(plan.parsed, key=lambda arm: bool(arm.subset))]
    bench = None
    if any(store.done(arm, seed, plan.rounds) < plan.rounds for arm, seed in units):
        data = source(plan, args.root)
        check_data(plan, data)
        bench = Bench(plan, store, data, args.device)
    store.open(plan)
    while True:
        waiting = moved = False
        for arm, seed in units:
            if store.done(arm, seed, plan.rounds) == plan.rounds and not store.state(arm, seed).exists():
                continue
            with store.claimed(arm, seed, plan.rounds) as mine:
                if not mine or bench is None:
                    continue
                before, start = store.done(arm, seed, plan.rounds), time.perf_counter()
                done = bench.run(arm, seed)
                moved, waiting = moved or done > before, waiting or done < plan.rounds
                if before < done == plan.rounds:
                    taken = time.perf_counter() - start
                    print(f"{arm.name}, seed {seed}: {done - before} rounds in {taken:.0f} s", flush=True)
        if not waiting:
            return
        if not moved:
            look_for_others(plan, store, units)
            time.sleep(WAIT)


def look_for_others(plan: Plan, store: Store, units: list[Any]) -> None:
    """Raise if an arm waits for labels that nobody is at.

    Raises:
        SystemExit: the arm whose labels are needed is neither done nor being done, for example on a seed that it lacks.
    """
    for arm, seed in units:
        if not arm.subset or store.done(arm, seed, plan.rounds) == plan.rounds:
            continue
        other = plan.arm(subset_of(arm))
        with store.claimed(other, seed, plan.rounds) as free:
            if free and store.done(other, seed, plan.rounds) < plan.rounds:
                raise SystemExit(f"{arm.name}, seed {seed}: {other.name} has not got far enough and nobody is at it")


if __name__ == "__main__":
    main()
