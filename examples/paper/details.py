"""The details of a plan, for who has read its report: differences by budget, head starts, overlaps, agreement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from compare import Results, first_reaching
from plan import parse_arm
from stopping import stopped
from wording import markdown, shown, spread


def detailed(results: Results) -> str:
    """Return all of it, but for the pictures."""
    parts = [differences(results), starts(results), overlaps(results), agreements(results), best(results)]
    parts += [stopped(results), tuned(results)]
    return "\n\n".join([f"# {results.plan.name}: details", *(part for part in parts if part)])


def differences(results: Results) -> str:
    """Compare every arm with the baseline, and with each reference, seed by seed."""
    plan = results.plan
    tables = [beside(results, name) for name in (plan.baseline, *plan.references)] + [like_for_like(results)]
    tables = [table for table in tables if table]
    if not tables:
        return ""
    caption = (
        "Differences in points, paired by seed, with their 95 % intervals (Student's t), by labels, and of each seed's "
        "mean over these budgets. Where the interval holds 0 the difference is not significant (n.s.)."
    )
    return "\n\n".join([f"## Paired differences\n\n{caption}", *tables])


def beside(results: Results, reference: str) -> str:
    """Return a table of differences to one arm: of all arms to the baseline, else of those with its target network."""
    plan, reference = results.plan, parse_arm(reference).name
    if reference not in [arm.name for arm in plan.parsed]:
        return ""
    target, everything = plan.arm(reference).target, reference == parse_arm(plan.baseline).name
    rows = []
    for arm in plan.parsed:
        if arm.name == reference or not (everything or arm.target == target):
            continue
        rows += difference_row(results, arm.name, [(arm.name, reference)])
    return f"Minus `{reference}`:\n\n{markdown(difference_head(results), rows)}" if rows else ""


def like_for_like(results: Results) -> str:
    """Return a table of differences to the baseline with an arm's own settings, where it was run with several."""
    names = [arm.name for arm in results.plan.parsed]
    pairs: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        method, *settings = name.split(" ")
        other = " ".join([results.plan.baseline, *settings])
        if other in names and other != name and results.seeds(name, other):
            pairs.setdefault(method, []).append((name, other))
    rows = []
    for method, several in pairs.items():
        if len(several) > 1:
            rows += [row for pair in several for row in difference_row(results, pair[0], [pair])]
        if len(several) > 2:
            rows += difference_row(results, f"{method}, mean of these {len(several)}", several)
    title = f"Minus `{results.plan.baseline}` with the same settings:"
    return f"{title}\n\n{markdown(difference_head(results), rows)}" if rows else ""


def difference_head(results: Results) -> list[str]:
    """Return the head of a table of differences."""
    return ["arm", *(f"{n:,}" for n in results.labels()), "all of these"]


def difference_row(results: Results, title: str, pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return a row of differences by labels and over all budgets; none where no seed has all of the arms."""
    cells = [results.difference(pairs, number) for number in (*range(1, results.plan.rounds), None)]
    return [[title, *(shown(d) for d in cells)]] if cells[0].n else []


def starts(results: Results) -> str:
    """Say how soon targets of the last budget reach what the baseline ends with."""
    plan, last = results.plan, results.plan.rounds - 1
    rows = []
    for arm in plan.parsed:
        seeds = results.seeds(arm.name, plan.baseline)
        if not (arm.own_target and seeds):
            continue
        goals = results.values(plan.baseline, last, "accuracy", seeds)
        lengths = [len(c) for c in results.values(plan.baseline, last, "curve", seeds)]
        curves = results.values(arm.name, last, "curve", seeds)
        reached = [first_reaching(curve, goal) for curve, goal in zip(curves, goals, strict=True)]
        part = [r / n for r, n in zip(reached, lengths, strict=True) if r is not None]
        median = f"{np.median([r if r is not None else np.inf for r in reached]):g}"
        trained = f"{np.mean([len(c) for c in curves]):.1f}"
        share = f"{np.mean(part):.2f}" if part else "-"
        rows.append([arm.name, f"{len(part)} of {len(seeds)}", median, share, trained])
    if not rows:
        return ""
    head = ["arm", "reached", "after epochs, median", "share of the baseline's, mean", "epochs trained, mean"]
    caption = (
        f"Targets at the last budget: whether and when their test accuracy first reaches what `{plan.baseline}` of the "
        "same seed has after its last epoch (on its own labels)."
    )
    return f"## Head start\n\n{caption}\n\n{markdown(head, rows)}"


def overlaps(results: Results) -> str:
    """Return which share of picks arms have in common."""
    arms = [arm.name for arm in results.plan.parsed if not arm.subset and results.seeds(arm.name)]
    if len(arms) < 2 or len(arms) > 12:
        return ""
    rows = [[one, *("" if one == other else f"{results.overlap(one, other):.2f}" for other in arms)] for one in arms]
    caption = "Share of the labels picked up to the last budget that two arms have in common, the mean over seeds."
    return f"## Overlap of the chosen sets\n\n{caption}\n\n{markdown(['', *arms], rows)}"


def agreements(results: Results) -> str:
    """Return how well the networks that choose rank like the dense one."""
    plan = results.plan
    rows = []
    for arm in plan.parsed:
        if not arm.own_target or not results.seeds(arm.name):
            continue
        own = [results.agreement(arm.name, number) for number in range(plan.rounds)]
        start = results.agreement(arm.name, 0, plan.baseline)
        rows.append([arm.name, f"{start:.2f}", *(f"{value:.2f}" for value in own)])
    if not rows or all(row[1] == "nan" for row in rows):
        return ""
    head = ["arm", f"`{plan.baseline}`, first labels", *(f"own target, {n:,}" for n in results.labels(0))]
    caption = (
        "Spearman's rho, over pictures that no arm may label, of how unsure the network that chooses is and how unsure "
        "the dense network is: the baseline's, trained on the same first labels; and the arm's own target."
    )
    return f"## Agreement in rank\n\n{caption}\n\n{markdown(head, rows)}"


def best(results: Results) -> str:
    """Return the best test accuracy over epochs, as the runner of Selection via Proxy reports it."""
    last = results.plan.rounds - 1
    arms = [arm.name for arm in results.plan.parsed if results.seeds(arm.name)]
    if not arms:
        return ""
    rows = [[arm, *(spread(results.values(arm, last, key)) for key in ("accuracy", "best"))] for arm in arms]
    caption = (
        "The last epoch, and the **best** over the epochs of that training, at the last budget, in %. The best is "
        "chosen on the test pictures, so it is too high for every arm; it is stated because the runner of Selection "
        "via Proxy reports it."
    )
    return f"## Best epoch\n\n{caption}\n\n{markdown(['arm', 'last epoch', 'best epoch'], rows)}"


def tuned(results: Results) -> str:
    """Return what was tuned for each arm, and what that cost beside the arm itself."""
    plan = results.plan
    if not plan.tuning:
        return ""
    rows = []
    for arm in plan.parsed:
        if not (seeds := results.seeds(arm.name)):
            continue
        cells = [arm.name]
        for number in plan.tuned:
            settings = results.values(arm.name, number, "settings", seeds)
            cells.append(f"{np.median([each['rate'] for each in settings]):.2f}")
            decays = [each["weight_decay"] for each in settings if each["weight_decay"] is not None]
            cells.append(f"{np.median(decays):.1e} ({len(decays)} of {len(settings)})" if decays else "the plan's")
        trials = [each for r in plan.tuned for some in results.values(arm.name, r, "trials", seeds) for each in some]
        own = sum(results.cost(arm, plan.rounds - 1, "macs", seeds))
        cells += [f"{sum(t['macs'] for t in trials) / len(seeds) / own:.2f}" if own else "-"]
        rows.append(cells)
    head = ["arm", *(f"{what}, {n:,}" for n in [results.labels(0)[r] for r in plan.tuned] for what in TUNED)]
    caption = (
        f"{plan.tuning} trials for every arm and seed, at the first labels and at the last budget, on as many held-out "
        "rows as there are labels: the median factor on the rate, and the median weight decay of the seeds whose best "
        "trial has one of its own. The trials' multiply-accumulates are in no other table; here as a share of the "
        "arm's own."
    )
    return f"## Tuning\n\n{caption}\n\n{markdown([*head, 'trials, MACs of the arm'], rows)}"


TUNED = ("rate", "weight decay")
