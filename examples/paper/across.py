"""Compares arms over several plans: a summed penalty matrix, and areas under the budget curve, from records alone.

    python examples/paper/across.py examples/paper/results/fashion-mnist examples/paper/results/cifar10-scaled
    python examples/paper/across.py results/* --arms random dense-reinit prunefuse-v1 --out across.md

Each folder is one that `run.py` wrote; only arms that all of them have are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from checking import SETUP
from compare import Results
from lines import put_or_print
from plan import METHODS, Plan, parse_arm
from records import Store, read
from significance import compared, holm, interval, penalties
from wording import markdown, matrix, points

CAPTION = (
    "Penalties (Ash et al., 2020), summed over {n} plans: in each, one over the number of budgets for every budget at "
    "which the arm of the row is significantly ahead of that of the column (two-sided paired t-test at 0.05 over "
    "seeds, not corrected), so {n} at most. Below: how often an arm is beaten, the mean over the others; lower is "
    "better."
)
AREAS = (
    "Area under accuracy over labels, over the range of labels, in %: of `{reference}` with its 95 % interval "
    "(Student's t), of the others the difference to it, paired by seed; in bold where the paired t-test has p < 0.05 "
    "after Holm's correction for all {m} differences of this table."
)


def main(argv: list[str] | None = None) -> None:
    """Write the comparison, or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path, help="folders of plans, with their records")
    parser.add_argument("--arms", nargs="+", help="default: all that every plan has")
    parser.add_argument("--reference", default="dense-reinit", help="the arm that areas are compared with")
    parser.add_argument("--out", type=Path, help="file to write (default: print)")
    args = parser.parse_args(argv)
    found = [results_in(folder) for folder in args.folder]
    arms = common(found, None if args.arms is None else [parse_arm(arm).name for arm in args.arms])
    text = f"# {len(found)} plans\n\n{areas(found, arms, parse_arm(args.reference).name)}\n\n{summed(found, arms)}\n"
    put_or_print(args.out, text)


def results_in(folder: Path) -> Results:
    """Return all that the records of a folder hold, whatever arms and seeds were asked for.

    Raises:
        ValueError: there is no plan, or nothing of it is done.
    """
    store, setup = Store(folder), read(folder / SETUP)
    cells = store.records.texts()
    if setup is None or not cells:
        raise ValueError(f"{folder} holds no plan with records")
    known = {field.name for field in fields(Plan)}
    given = {name: value for name, value in setup.items() if name in known}
    arms = sorted({cell[0] for cell in cells}, key=lambda arm: (METHODS.index(parse_arm(arm).method), arm))
    seeds = sorted({cell[1] for cell in cells})
    plan = Plan(name=folder.resolve().name, seeds=tuple(seeds), arms=tuple(arms), **given)
    return Results.read(plan, store)


def common(found: Sequence[Results], asked: Sequence[str] | None) -> list[str]:
    """Return the arms that every plan has on two seeds or more, in the order asked for.

    Raises:
        ValueError: an arm that was asked for is not in all of them, or fewer than two are.
    """
    arms = [arm.name for arm in found[0].plan.parsed]
    there = [arm for arm in arms if all(len(results.seeds(arm)) > 1 for results in found)]
    missing = sorted(set(asked or []) - set(there))
    if missing:
        raise ValueError(f"not every plan has {', '.join(missing)} on two seeds; they have {', '.join(there)}")
    if len(there) < 2:
        raise ValueError(f"the plans have {len(there)} arms in common; two are needed")
    return list(asked or there)


def summed(found: Sequence[Results], arms: Sequence[str]) -> str:
    """Return the sum of the plans' penalty matrices."""
    whole = np.sum([penalties({arm: results.accuracies(arm) for arm in arms}) for results in found], axis=0)
    return f"## Who beats whom\n\n{CAPTION.format(n=len(found))}\n\n{matrix(arms, whole)}"


def areas(found: Sequence[Results], arms: Sequence[str], reference: str) -> str:
    """Return the areas by plan, and how they differ from the reference's."""
    values = [{arm: results.areas(arm) for arm in arms} for results in found]
    beside = [compared(each, reference) for each in values]
    corrected = iter(holm([d.p for each in beside for d, _ in each.values()]))
    p = [{arm: next(corrected) for arm in each} for each in beside]
    head = ["arm", *(f"{results.plan.name} ({len(results.seeds(*arms))} seeds)" for results in found)]
    rows = []
    for arm in arms:
        cells = []
        for place, each in enumerate(values):
            if arm in beside[place]:
                bold = "**" if p[place][arm] < 0.05 else ""
                cells.append(f"{bold}{points(beside[place][arm][0])}{bold}")
            else:
                cells.append(points(interval(list(each[arm].values())), sign=""))
        rows.append([arm, *cells])
    caption = AREAS.format(reference=reference, m=sum(map(len, beside)))
    return f"## Area under the budget curve\n\n{caption}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    main()
