"""The report of a plan, Markdown and pictures, from its records alone."""

from __future__ import annotations

from checking import DETAILS, REPORT
from compare import Results
from details import detailed
from guessing import guessed
from lines import replace_text
from pictures import draw_all
from plan import Plan, parse_arm
from records import Store
from significance import compared, interval, paired, penalties
from wording import giga, markdown, matrix, points, probability, spread

POLICY = {
    "random": "`random`: random labels, the dense network trained on them from its initial weights",
    "dense-reinit": "`dense-reinit`: the dense network chooses and is trained from its initial weights in every round",
    "dense-continue": "`dense-continue`: the dense network chooses and is trained on from the round before",
    "svp": "`svp:NET`: NET chooses, drawn and trained anew in every round; the dense network is trained at the end",
    "probe": "`probe`: a head on features that the network gives as it is; the head is kept, all of it fine-tuned",
    "subselnet": "`subselnet`: of a pool whose labels are all known, samples drawn by the losses that SubSelNet "
    "guesses for the dense network; `:smallest` the least ones, `:inductive` by its second network. Controls that "
    "guess otherwise: `:mean` the mean logits of its trained networks, `:nearest` those of the nearest one, `:proxy` "
    "those of one pruned proxy trained on the pool",
    "prunefuse-v1": "`prunefuse-v1`: the pruned network chooses, from the same pruned weights in every round; fused, "
    "then fine-tuned",
    "prunefuse-v2": "`prunefuse-v2:T`: the same, and every T rounds the next proxy is cut from the trained target",
}


def write_report(plan: Plan, store: Store) -> str:
    """Write report.md, details.md and the pictures into a folder called as the plan; return the text of the first."""
    results, folder = Results.read(plan, store), store.root / plan.name
    folder.mkdir(exist_ok=True)
    pictures = [f"![{caption}]({name}.png)" for name, caption in draw_all(results, folder).items()]
    more = f"More, by budget and by part: [{DETAILS}]({DETAILS})."
    parts = [
        heading(results),
        accuracies(results),
        penalised(results),
        guessed(results),
        costs(results),
        *pictures[:1],
        more,
    ]
    text = "\n\n".join(part for part in parts if part)
    replace_text(folder / DETAILS, "\n\n".join([detailed(results), *pictures[1:]]).rstrip() + "\n")
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
    used += f", classes in a long tail of {plan.imbalance:g} to 1" if plan.imbalance > 1 else ""
    used += f", {plan.noise:.0%} of the labels wrong" if plan.noise else ""
    used += ", not augmented" if plan.augment == "none" else ""
    epochs = f"{plan.epochs} epochs" if plan.epochs else f"the epochs of preset {plan.trainer!r}"
    tuned = f", rate and weight decay tuned by {plan.tuning} trials an arm" if plan.tuning else ""
    methods = dict.fromkeys(arm.method for arm in plan.parsed)
    lines = [
        f"# {plan.name}",
        plan.note,
        f"{plan.data}{size}{used}; {plan.network}, p = {plan.ratio:g}, {plan.scorer}; {epochs} of every training, "
        f"fused targets at {plan.fine_tune:g} of the rate{tuned}; {len(plan.seeds)} seeds. "
        f"{there:,} of {asked:,} rounds are done" + (f" ({'; '.join(where)})." if where else "."),
        "\n".join(f"* {POLICY[method]}" for method in methods),
        "Arms share, seed by seed, the dense network's initial weights, the first labels and the order of the pool.",
    ]
    return "\n\n".join(line for line in lines if line)


def accuracies(results: Results) -> str:
    """Return test accuracy by budget, the area under it, and how the areas compare with the baseline's."""
    reference = parse_arm(results.plan.baseline).name
    areas = {arm.name: results.areas(arm.name) for arm in results.plan.parsed}
    beside = compared(areas, reference)
    head = ["arm", *(f"{n:,}" for n in results.labels()), "area", f"minus `{reference}`", "p, Holm"]
    rows = []
    for arm, found in areas.items():
        budgets = [results.values(arm, number, "accuracy") for number in range(1, results.plan.rounds)]
        if budgets[0]:
            d, p = beside.get(arm, (paired([], []), float("nan")))
            own = points(interval(list(found.values())), sign="")
            rows.append([arm, *map(spread, budgets), own, points(d) if d.n else "", probability(p)])
    caption = (
        "Test accuracy in % after the last epoch, by labels: mean ± standard deviation over seeds. Area: under "
        "accuracy over labels, from the first ones to the last budget, over their range; ± the 95 % interval "
        "(Student's t), as of its differences, paired by seed. p: of the paired t-test, corrected for the number of "
        "these differences."
    )
    return f"## Accuracy\n\n{caption}\n\n{markdown(head, rows)}"


def penalised(results: Results) -> str:
    """Return how often each arm beats each other one."""
    found = {arm.name: results.accuracies(arm.name) for arm in results.plan.parsed}
    found = {arm: seeds for arm, seeds in found.items() if len(seeds) > 1}
    if len(found) < 2:
        return ""
    caption = (
        "Penalties (Ash et al., 2020): at which share of the budgets the arm of the row is significantly ahead of that "
        "of the column, by a two-sided paired t-test at 0.05, not corrected. Below: how often an arm is beaten, the "
        "mean over the others; lower is better."
    )
    return f"## Who beats whom\n\n{caption}\n\n{matrix(list(found), penalties(found))}"


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
            own = (sum(results.cost(base, last, measure, seeds)) if base else 0.0) or float("nan")
            cells[measure] = [choosing, choosing / own, (choosing + finishing) / own, finishing]
        macs, seconds = cells["macs"], cells["seconds"]
        timings = (results.cells[arm.name, seed, last][1] for seed in seeds)
        peaks = [t["peak_memory_bytes"] / 2**20 for t in timings if t]
        alike = base is None or results.devices(arm.name, seeds) == results.devices(base.name, seeds)
        shares = [f"{share:.2f}" if alike and share == share else "-" for share in seconds[1:3]]
        row = [giga(macs[0]), f"{macs[1]:.3f}", f"{seconds[0]:,.1f}", shares[0]]
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
