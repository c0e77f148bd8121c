"""The tables and the figure of the quickstart."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from data import Images
from scipy import stats

from prunefuse_al import CostLedger

STAGES = {  # what a reader calls the stages of a ledger
    "train to choose": ("train_proxy", "retrain_proxy"),
    "score the pool": ("score",),
    "prune, rank": ("prune", "rank", "coreset", "recalibrate"),
    "fuse, train the target": ("fuse", "recalibrate_target", "train_target"),
}
CHOOSING = list(STAGES)[:3]
COLOURS = {"target": "#0b6e99", "proxy": "#7fb8d3", "dense": "#444444", "random": "#d1495b"}
STAGE_COLOURS = dict(zip(STAGES, ("#0b6e99", "#7fb8d3", "#bbbbbb", "#e9a23b"), strict=True))


def tables(images: Images, args: argparse.Namespace, results: Sequence[dict]) -> str:
    """Return everything that the quickstart prints at the end."""
    parts = (setting(images, args, results[0]), accuracies(results), final(args, results), costs(results))
    return "\n\n".join((*parts, verdict(results)))


def setting(images: Images, args: argparse.Namespace, result: dict) -> str:
    """Say what was run, and what each arm was given."""
    report = result["report"]
    pool = min(args.pool or len(images.y_train), len(images.y_train))
    return (
        f"{args.data}: {pool:,} pictures to choose from, {len(images.y_test):,} to test on; {args.scorer}\n"
        f"{args.network}: {report.dense_parameters:,} parameters; its proxy at p = {args.pruning_ratio:g}: "
        f"{report.proxy_parameters:,} parameters, {report.proxy_macs / report.dense_macs:.1%} of the MACs\n"
        f"{args.epochs} epochs of {args.optimizer} from a rate of {args.lr:g}; proxies go on from the last "
        f"round's, for a third of that; fused targets: {args.target_epochs} epochs"
    )


def accuracies(results: Sequence[dict]) -> str:
    """Return test accuracy per budget."""
    runs = {name: [result[name] for result in results] for name in ("proxy", "dense", "random")}
    columns = {
        "fused target": [run.accuracy for run in runs["proxy"]],
        "its proxy": [run.proxy_accuracy for run in runs["proxy"]],
        "dense loop": [run.accuracy for run in runs["dense"]],
        "random, dense": [run.accuracy for run in runs["random"]],
    }
    lines = [["labels", *columns]]
    budgets, drawn = results[0]["proxy"].labels, results[0]["random"].labels
    for position, labels in enumerate(budgets):
        cells = [spread(run[position] for run in runs) for runs in list(columns.values())[:3]]
        at_random = [run[drawn.index(labels)] for run in columns["random, dense"]] if labels in drawn else None
        lines.append([str(labels), *cells, spread(at_random) if at_random else ""])
    seeds = f"{len(results)} seed{'s' * (len(results) > 1)}"
    return f"Test accuracy in % after the last epoch, mean ± standard deviation, {seeds}\n" + aligned(lines)


def final(args: argparse.Namespace, results: Sequence[dict]) -> str:
    """Compare the networks that each way ends with, and on the labels that the proxy chose, the two starts."""
    epochs, short, longer = args.epochs, args.target_epochs, results[0]["longer"]
    ends = {
        f"fused target, recommended, {short} epochs": [r["proxy"].accuracy[-1] for r in results],
        f"fused target, the paper's settings, {epochs} epochs": [r["paper"].accuracy[-1] for r in results],
        f"dense loop, {epochs} epochs": [r["dense"].accuracy[-1] for r in results],
        f"random labels, {epochs} epochs": [r["random"].accuracy[-1] for r in results],
        f"the proxy's labels, from scratch, {short} epochs": [r["scratch"] for r in results],
        f"the same, {longer} epochs: MACs of all proxies + target": [r["scratch_longer"] for r in results],
    }
    fused = np.array(next(iter(ends.values())))
    lines = [["", "accuracy", "fused minus it"]]
    for name, values in ends.items():
        difference = spread(fused - np.array(values), "+") if len(lines) > 1 else ""
        lines.append([name, spread(values), difference])
    return f"With {results[0]['proxy'].labels[-1]} labels; differences paired by seed\n" + aligned(lines, left=True)


def costs(results: Sequence[dict]) -> str:
    """Return seconds and MACs per stage, proxy loop and dense loop, per seed."""
    own, other = (per_stage([result[name].costs for result in results]) for name in ("proxy", "dense"))
    lines = [["", "seconds", "dense", "ratio", "GMACs", "dense", "ratio"]]
    for name in (*CHOOSING, "choosing", *list(STAGES)[3:], "all"):
        cells = [name]
        for measure in ("seconds", "macs"):
            scale = 1e9 if measure == "macs" else 1
            part, whole = (side[name][measure] / scale for side in (own, other))
            cells += [f"{part:.2f}", f"{whole:.2f}", f"{part / whole:.2f}" if whole else "-"]
        lines.append(cells)
    head = "Costs per seed up to the last budget, targets of earlier budgets and testing left out"
    return f"{head}\n{aligned(lines, left=True)}"


def verdict(results: Sequence[dict]) -> str:
    """Say in words what the figures of this run show; a difference counts where its 95 % interval leaves out 0."""
    own, other = (per_stage([result[name].costs for result in results]) for name in ("proxy", "dense"))
    shares = {(name, m): own[name][m] / other[name][m] for name in ("choosing", "all") for m in ("macs", "seconds")}
    lines = [
        "Choosing took {:.2f} of the dense loop's MACs and {:.2f} of its seconds, everything {:.2f} and {:.2f}.".format(
            *shares.values()
        )
    ]
    fused = np.array([r["proxy"].accuracy[-1] for r in results])
    for name, values in (
        ("the dense loop's network", [r["dense"].accuracy[-1] for r in results]),
        ("random labels", [r["random"].accuracy[-1] for r in results]),
        ("the same labels and epochs from scratch", [r["scratch"] for r in results]),
        ("the same labels from scratch for longer, at equal compute", [r["scratch_longer"] for r in results]),
    ):
        lines.append(f"The fused target is {compared(fused - np.array(values), name)}.")
    if shares["choosing", "seconds"] > 1.5 * shares["choosing", "macs"]:
        lines.append("Seconds fell less than MACs: calling a layer takes its time, however thin it is.")
    return "Verdict\n" + "\n".join(lines)


def compared(differences: np.ndarray, name: str) -> str:
    """Return how something stands to `name`, from differences paired by seed (Student's t)."""
    mean = 100 * differences.mean()
    if len(differences) < 2:
        return f"{mean:+.1f} points beside {name} (one seed says little)"
    half = 100 * stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    word = "better than" if mean > half else "worse than" if mean < -half else "not told apart from"
    return f"{word} {name}: {mean:+.1f} points, 95 % interval {mean - half:+.1f} to {mean + half:+.1f}"


def per_stage(ledgers: Sequence[CostLedger]) -> dict[str, dict[str, float]]:
    """Return seconds and MACs of each of `STAGES`, of choosing and of all, averaged over ledgers."""
    totals = CostLedger(row for ledger in ledgers for row in ledger.rows()).totals()
    zero = {"seconds": 0.0, "macs": 0.0}

    def summed(names: Sequence[str]) -> dict[str, float]:
        return {m: sum(totals.get(name, zero)[m] for name in names) / len(ledgers) for m in zero}

    result = {name: summed(stages) for name, stages in STAGES.items()}
    result["choosing"] = summed([stage for name in CHOOSING for stage in STAGES[name]])
    result["all"] = summed([stage for stages in STAGES.values() for stage in stages])
    return result


def spread(values: Iterable[float], sign: str = "") -> str:
    """Return mean ± standard deviation in percent."""
    percent = 100 * np.array(list(values))
    deviation = f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else ""
    return f"{percent.mean():{sign}.1f}{deviation}"


def aligned(lines: Sequence[Sequence[str]], left: bool = False) -> str:
    """Return a table; the first column to the left if asked."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left and not position else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def figure(results: Sequence[dict], path: str) -> None:
    """Draw accuracy over labels, accuracy over compute, and the cost of each stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    over_labels(axes[0], results)
    over_compute(axes[1], results)
    cost_bars(axes[2], results)
    for ax in axes[:2]:
        ax.set_ylabel("test accuracy (%)")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, loc="lower right", fontsize=8)
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)


def over_labels(ax: Any, results: Sequence[dict]) -> None:
    """Draw mean accuracy, with one standard deviation, at each budget."""
    curves = {
        ("dense", "dense loop", "-", "dense"): [r["dense"].accuracy for r in results],
        ("random", "random labels, dense", "", "random"): [r["random"].accuracy for r in results],
        ("proxy", "proxy alone", "--", "proxy"): [r["proxy"].proxy_accuracy for r in results],
        ("target", "PruneFuse target", "-", "proxy"): [r["proxy"].accuracy for r in results],
    }
    for (colour, label, style, name), values in curves.items():
        labels, percent = results[0][name].labels, 100 * np.array(values)  # [seeds budgets]
        mean, deviation = percent.mean(0), percent.std(0, ddof=min(1, len(percent) - 1))
        ax.plot(labels, mean, linestyle=style, marker="o", markersize=4, color=COLOURS[colour], label=label)
        if style:  # what was measured at every budget
            ax.fill_between(labels, mean - deviation, mean + deviation, color=COLOURS[colour], alpha=0.12, linewidth=0)
    for label, style, at_end in (
        ("dense from scratch, same labels and epochs", "x", [r["scratch"] for r in results]),
        ("PruneFuse target, the paper's settings", "^", [r["paper"].accuracy[-1] for r in results]),
    ):
        ax.plot(results[0]["proxy"].labels[-1], 100 * np.mean(at_end), style, color="black", markersize=6, label=label)
    ax.set(title="accuracy over labels", xlabel="labels")


def over_compute(ax: Any, results: Sequence[dict]) -> None:
    """Draw mean accuracy over what it takes to get there, with the labels not counted."""
    for name, colour, label in (
        ("dense", "dense", "dense loop"),
        ("random", "random", "random labels, trained once"),
        ("proxy", "target", "PruneFuse: choosing + target"),
    ):
        compute = np.array([r[name].macs for r in results]).mean(0) / 1e9
        if name == "random":  # nothing has to be trained to choose
            compute = np.diff(compute, prepend=0)
        accuracy = 100 * np.array([r[name].accuracy for r in results]).mean(0)
        style = "" if name == "random" else "-"
        ax.plot(compute, accuracy, linestyle=style, marker="o", markersize=4, color=COLOURS[colour], label=label)
    ax.set(title="accuracy over compute", xlabel="multiply-accumulates so far (billions)")


def cost_bars(ax: Any, results: Sequence[dict]) -> None:
    """Draw what each stage costs, as a share of the dense loop."""
    own, other = (per_stage([r[name].costs for r in results]) for name in ("proxy", "dense"))
    bars = [("dense loop\nMACs", other, "macs"), ("PruneFuse\nMACs", own, "macs")]
    bars += [("dense loop\nseconds", other, "seconds"), ("PruneFuse\nseconds", own, "seconds")]
    floor = np.zeros(len(bars))
    for stage, colour in STAGE_COLOURS.items():
        heights = np.array([side[stage][m] / other["all"][m] for _, side, m in bars])
        ax.bar([name for name, _, _ in bars], heights, bottom=floor, color=colour, label=stage, width=0.65)
        floor += heights
    for position, height in enumerate(floor):
        ax.text(position, height, f"{height:.2f}", ha="center", va="bottom")
    ax.set(title="cost per stage", ylabel="share of the dense loop", ylim=(0, 1.35 * floor.max()))
    ax.legend(frameon=False, ncols=2, loc="upper center")
