"""The report of a plan, Markdown and pictures, from its records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from checking import REPORT
from compare import Difference, Results, first_reaching
from lines import replace_text
from pictures import draw_all
from plan import Plan, parse_arm
from records import Store

POLICY = {
    "random": "`random`: random labels, the dense network trained on them from its initial weights",
    "dense-reinit": "`dense-reinit`: the dense network chooses and is trained from its initial weights in every round",
    "dense-continue": "`dense-continue`: the dense network chooses and is trained on from the round before",
    "svp": "`svp:NET`: NET chooses, drawn and trained anew in every round; the dense network is trained at the end",
    "probe": "`probe`: a head on features that the network gives as it is; the head is kept, all of it fine-tuned",
    "prunefuse-v1": "`prunefuse-v1`: the pruned network chooses, from the same pruned weights in every round; fused, "
    "then fine-tuned",
    "prunefuse-v2": "`prunefuse-v2:T`: the same, and every T rounds the next proxy is cut from the trained target",
}


def write_report(plan: Plan, store: Store) -> str:
    """Write report.md and its pictures into a folder called as the plan; return the text."""
    results, folder = Results.read(plan, store), store.root / plan.name
    folder.mkdir(exist_ok=True)
    parts = [heading(results), accuracies(results), differences(results), costs(results), starts(results)]
    parts += [overlaps(results), agreements(results), best(results)]
    text = "\n\n".join(part for part in parts if part)
    pictures = draw_all(results, folder)
    text += "\n\n" + "\n\n".join(f"![{caption}]({name}.png)" for name, caption in pictures.items())
    replace_text(folder / REPORT, text.rstrip() + "\n")
    return text


def heading(results: Results) -> str:
    """Say what was run, on what, and how much of it is there."""
    plan = results.plan
    asked, there = len(plan.parsed) * len(plan.seeds) * plan.rounds, len(results.cells)
    where = sorted(
        {f"{t['device']}, {t['threads']} threads, torch {t['torch']}" for _, t in results.cells.values() if t}
    )
    size = f", averaged to {plan.size} x {plan.size}" if plan.size else ""
    used = f", the first {plan.train:,} training pictures" if plan.train else ""
    epochs = f"{plan.epochs} epochs" if plan.epochs else f"the epochs of preset {plan.trainer!r}"
    methods = dict.fromkeys(arm.method for arm in plan.parsed)
    lines = [
        f"# {plan.name}",
        plan.note,
        f"{plan.data}{size}{used}; {plan.network}, p = {plan.ratio:g}, {plan.scorer}; {epochs} of every training, "
        f"fused targets at {plan.fine_tune:g} of the rate; {len(plan.seeds)} seeds. "
        f"{there:,} of {asked:,} rounds are done" + (f" ({'; '.join(where)})." if where else "."),
        "\n".join(f"* {POLICY[method]}" for method in methods),
        "Arms share, seed by seed, the dense network's initial weights, the first labels and the order of the pool.",
    ]
    return "\n\n".join(line for line in lines if line)


def accuracies(results: Results) -> str:
    """Return test accuracy by budget."""
    head = ["arm", *(f"{n:,}" for n in labels(results))]
    rows = [[arm, *cells] for arm, cells in by_round(results, "accuracy").items()]
    caption = "Test accuracy in % after the last epoch, by labels: mean ± standard deviation over seeds."
    return f"## Accuracy\n\n{caption}\n\n{markdown(head, rows)}"


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


def by_round(results: Results, key: str) -> dict[str, list[str]]:
    """Return arm -> cells, one a budget."""
    table = {}
    for arm in results.plan.parsed:
        values = [results.values(arm.name, number, key) for number in range(1, results.plan.rounds)]
        if values[0]:
            table[arm.name] = [spread(v) for v in values]
    return table


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
    return ["arm", *(f"{n:,}" for n in labels(results)), "all of these"]


def difference_row(results: Results, title: str, pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return a row of differences by labels and over all budgets; none where no seed has all of the arms."""
    cells = [results.difference(pairs, number) for number in (*range(1, results.plan.rounds), None)]
    return [[title, *(shown(d) for d in cells)]] if cells[0].n else []


def costs(results: Results) -> str:
    """Return what choosing and all of it cost up to the last budget, beside the baseline."""
    plan, last = results.plan, results.plan.rounds - 1
    base = next((arm for arm in plan.parsed if arm.name == plan.baseline), None)
    head = ["arm", "choosing, GMACs", "of baseline", "choosing, s", "of baseline", "all, of baseline: MACs", "seconds"]
    head += ["choosing / target, s", "peak memory, MiB"]
    rows = []
    for arm in plan.parsed:
        names = (arm.name,) if base is None else (arm.name, base.name)
        seeds = results.seeds(*names)
        if not seeds:
            continue
        cells: dict[str, list[float]] = {}
        for measure in ("macs", "seconds"):
            choosing, finishing = results.cost(arm, last, measure, seeds)
            own = sum(results.cost(base, last, measure, seeds)) if base else float("nan")
            cells[measure] = [choosing, choosing / own, (choosing + finishing) / own, finishing]
        macs, seconds = cells["macs"], cells["seconds"]
        timings = (results.cells[arm.name, seed, last][1] for seed in seeds)
        peaks = [t["peak_memory_bytes"] / 2**20 for t in timings if t]
        alike = base is None or results.devices(arm.name, seeds) == results.devices(base.name, seeds)
        shares = [f"{share:.2f}" if alike else "-" for share in seconds[1:3]]
        row = [f"{macs[0] / 1e9:,.0f}", f"{macs[1]:.3f}", f"{seconds[0]:,.1f}", shares[0]]
        if arm.subset:
            row = ["(of its subset)", "", "", ""]
        row += [f"{macs[2]:.2f}", shares[1]] if not arm.subset else ["", ""]
        row.append(f"{seconds[0] / seconds[3]:.2f}" if seconds[3] and not arm.subset else "-")
        rows.append([arm.name, *row, f"{max(peaks):,.0f}" if peaks else "-"])
    caption = (
        "Costs up to the last budget, per seed: choosing is pruning, training the network that chooses, scoring and "
        "syncs; all adds fusing and the last target, which for dense loops is their last network. Targets of earlier "
        "budgets, testing, and what torch imports for the first pruning are left out. MACs are exact; seconds are of "
        "runs side by side on a shared machine, and are not compared between unlike devices."
    )
    return f"## Costs\n\n{caption}\n\n{markdown(head, rows)}"


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
    head = ["arm", f"`{plan.baseline}`, first labels", *(f"own target, {n:,}" for n in labels(results, 0))]
    caption = (
        "Spearman's rho, over pictures that no arm may label, of how unsure the network that chooses is and how unsure "
        "the dense network is: the baseline's, trained on the same first labels; and the arm's own target."
    )
    return f"## Agreement in rank\n\n{caption}\n\n{markdown(head, rows)}"


def labels(results: Results, start: int = 1) -> list[float]:
    """Return the labels at each budget: as records say, else as the plan does."""
    found = {number: record["labels"] for (_, _, number), (record, _) in results.cells.items()}
    asked = (results.plan.first, *results.plan.budgets)
    return [found.get(number, asked[number]) for number in range(start, results.plan.rounds)]


def shown(d: Difference) -> str:
    """Return a difference in points."""
    if not d.n:
        return "-"
    if d.n == 1:
        return f"{100 * d.mean:+.1f} (1 seed)"
    return f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}" + ("" if d.significant else " n.s.")


def spread(values: Iterable[float]) -> str:
    """Return mean ± standard deviation in percent."""
    percent = 100 * np.array(list(values), dtype=float)
    if not len(percent):
        return "-"
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
