"""A law of proxies, fitted to records and tested on plans that it has not seen.

    python examples/paper/law.py examples/paper/results/* --out prunefuse_al/advisor/law.json

Two questions. How far ahead of the dense loop's network (which starts anew in every round) is the fused target, by the
size of its proxy and the labels? How far does the proxy rank as the dense network does, by its size? Each is answered
by the law that predicts set-ups left out (data and network), one at a time, best, if that is surely better than the
mean over the others does; the mean is the law where none is. `advise` reads the file that this writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from across import results_in
from compare import Results
from lines import replace_text
from plan import Arm, Plan
from scipy import stats
from significance import paired
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.utils.class_weight import compute_sample_weight
from wording import markdown

from prunefuse_al.advisor.law import FORMS

BASELINE = "dense-reinit"
Row = tuple[float, float, float, str, int]  # share, labels, value, plan, seed


@dataclass(frozen=True)
class Cells:
    """What a law is fitted to, one entry a cell of records.

    Attributes:
        share: of the dense network's multiply-accumulates that the proxy takes, float [n].
        labels: how many there are, float [n].
        value: what is predicted, float [n].
        plan: whose it is, text [n].
        seed: text [n], of plan and seed.
    """

    share: np.ndarray
    labels: np.ndarray
    value: np.ndarray
    plan: np.ndarray
    seed: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Cells:
        """Return entries given as share, labels, value, plan and seed."""
        share, labels, value = np.array([row[:3] for row in rows], dtype=float).reshape(-1, 3).T
        plans = np.array([row[3] for row in rows])
        return cls(share, labels, value, plans, np.array([f"{row[3]} {row[4]}" for row in rows]))


def main(argv: list[str] | None = None) -> None:
    """Fit the laws, say how well each form does on plans left out, and write those taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", type=Path, help="folders of plans, with their records")
    parser.add_argument("--out", type=Path, help="file to write (default: print alone)")
    args = parser.parse_args(argv)
    found = [results_in(folder) for folder in args.folder]
    made = {}
    for name, ask in {"difference": differences, "agreement": agreements}.items():
        cells = Cells.of([row for results in found for row in ask(results)])
        if len(set(cells.plan)) < 2:
            raise ValueError(f"of {len(set(cells.plan))} set-ups none can be left out; pass folders of two or more")
        made[name] = law_of(cells)
        print(f"{name}\n\n{table(cells)}\n\ntaken: {made[name]['form']}\n")
    if args.out is not None:
        replace_text(args.out, json.dumps(made, indent=1) + "\n")


def set_up(plan: Plan) -> str:
    """Return what runs have to share to tell nothing new of one another: the data and the network."""
    return f"{plan.data} {plan.network}"


def plain_proxies(results: Results) -> list[Arm]:
    """Return the arms that fuse a pruned network, as they come but for its ratio."""
    arms = [arm for arm in results.plan.parsed if arm.method == "prunefuse-v1"]
    return [arm for arm in arms if all(part.startswith("ratio=") for part in arm.name.split(" ")[1:])]


def per_sample(results: Results, arm: str, seed: int) -> float:
    """Return the multiply-accumulates by which the network that chooses takes a sample through, forward."""
    row = next(row for row in results.cells[arm, seed, 0][0]["costs"] if row["stage"] == "train_proxy")
    return float(row["forward_macs"] / row["samples"])


def share_of(results: Results, arm: Arm, seed: int) -> float:
    """Return how much of the dense network's multiply-accumulates a proxy takes."""
    return per_sample(results, arm.name, seed) / per_sample(results, BASELINE, seed)


def differences(results: Results) -> Iterator[Row]:
    """Yield of each proxy, seed and budget how far the target is ahead of the dense loop's network, in accuracy."""
    for arm in plain_proxies(results):
        for seed in results.seeds(arm.name, BASELINE):
            share = share_of(results, arm, seed)
            for r in range(1, results.plan.rounds):
                ours, theirs = (results.cells[name, seed, r][0] for name in (arm.name, BASELINE))
                yield share, ours["labels"], ours["accuracy"] - theirs["accuracy"], set_up(results.plan), seed


def agreements(results: Results) -> Iterator[Row]:
    """Yield of each proxy and seed how it ranks like the dense network, both trained on the first labels."""
    for arm in plain_proxies(results):
        for seed in results.seeds(arm.name, BASELINE, number=0):
            ours, theirs = (results.cells[name, seed, 0][0] for name in (arm.name, BASELINE))
            rho = stats.spearmanr(ours["probes"]["chooser"], theirs["probes"]["target"]).statistic
            yield share_of(results, arm, seed), ours["labels"], float(rho), set_up(results.plan), seed


def features(cells: Cells, form: str) -> np.ndarray:
    """Return the features of a form, float [n f]; the mean has none, but scikit-learn wants one."""
    return np.zeros((len(cells.value), 1)) if form == "mean" else FORMS[form](cells.share, cells.labels)


def fitted(cells: Cells, form: str, rows: Any = slice(None)) -> LinearRegression | DummyRegressor:
    """Return a form fitted to some entries, every plan of the same weight."""
    model = DummyRegressor() if form == "mean" else LinearRegression()
    weights = compute_sample_weight("balanced", cells.plan[rows])
    return model.fit(features(cells, form)[rows], cells.value[rows], sample_weight=weights)


def predicted(cells: Cells, form: str, groups: np.ndarray) -> np.ndarray:
    """Return what is predicted of each entry by a form fitted to the other groups, float [n]."""
    made = np.empty(len(cells.value))
    for train, test in LeaveOneGroupOut().split(cells.value, groups=groups):
        made[test] = fitted(cells, form, train).predict(features(cells, form)[test])
    return made


def errors_of(cells: Cells, form: str, groups: np.ndarray) -> np.ndarray:
    """Return the mean absolute error of each plan, predicted with a group left out at a time, float [plans]."""
    return by_plan(cells, np.abs(predicted(cells, form, groups) - cells.value))


def by_plan(cells: Cells, values: np.ndarray) -> np.ndarray:
    """Return the means over each plan's entries, float [plans]."""
    return np.array([values[cells.plan == plan].mean() for plan in np.unique(cells.plan)])


def law_of(cells: Cells) -> dict[str, Any]:
    """Return the law: of the forms whose error is surely below the mean's the best, or the mean.

    Surely: over the set-ups left out the error falls by a paired t-test at 0.05.
    """
    errors = {form: errors_of(cells, form, cells.plan) for form in FORMS}
    gains = {form: paired(errors["mean"], own) for form, own in errors.items()}
    good = [form for form, gain in gains.items() if gain.significant and gain.mean > 0]
    form = min(good, key=lambda form: errors[form].mean(), default="mean")
    taken, ranges = fitted(cells, form), {"shares": cells.share, "labels": cells.labels}
    return {
        "form": form,
        "intercept": round(float(taken.constant_.item() if form == "mean" else taken.intercept_), 5),
        "coefficients": [] if form == "mean" else [round(float(c), 5) for c in taken.coef_],
        "error": round(float(errors[form].mean()), 5),
        "error_of_mean": round(float(errors["mean"].mean()), 5),
        **{name: [float(f"{f(of):.4g}") for f in (np.min, np.max)] for name, of in ranges.items()},
        "plans": len(errors[form]),
        "runs": len(cells.value),
    }


def table(cells: Cells) -> str:
    """Return the error of each form on plans and on seeds left out."""
    rows = []
    for form in FORMS:
        plans, seeds = (errors_of(cells, form, groups) for groups in (cells.plan, cells.seed))
        rows.append([form, f"{plans.mean():.4f}", f"{seeds.mean():.4f}", *(f"{error:.4f}" for error in plans)])
    return markdown(["form", "plans left out", "seeds left out", *map(str, np.unique(cells.plan))], rows)


if __name__ == "__main__":
    main()
