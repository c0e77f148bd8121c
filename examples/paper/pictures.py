"""The pictures of a report, each as PNG and PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from compare import Results

from prunefuse_al.plots import plot_learning_curve, plot_pareto

STAGES = {"choosing": "#0b6e99", "target": "#e9a23b"}


def draw_all(results: Results, folder: Path) -> dict[str, str]:
    """Draw what there is; return name -> caption of each picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import cycler, pyplot

    # Plans have more arms than the usual ten colours, and than twenty.
    lines = cycler(linestyle=["-", "--"]) * cycler(color=pyplot.get_cmap("tab20").colors)
    drawn = {}
    for name, (draw, caption) in PICTURES.items():
        figure, ax = pyplot.subplots(figsize=(9.5, 4.6), layout="constrained")
        ax.set_prop_cycle(lines)
        if draw(results, ax):
            figure.savefig(folder / f"{name}.png", dpi=110)
            figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})  # the same records, the same bytes
            drawn[name] = caption
        pyplot.close(figure)
    return drawn


def accuracy(results: Results, ax: Any) -> bool:
    """Draw accuracy by budget."""
    curves, labels = {}, []
    for arm in results.plan.parsed:
        seeds = results.seeds(arm.name)
        if seeds:
            rounds = range(results.plan.rounds)
            curves[arm.name] = np.array([results.values(arm.name, r, "accuracy", seeds) for r in rounds]).T
            labels = [results.values(arm.name, r, "labels", seeds)[0] for r in rounds]
    if curves:
        plot_learning_curve(labels, curves, ax)
        legend(ax)
    return bool(curves)


def pareto(results: Results, ax: Any) -> bool:
    """Draw accuracy against all compute, without the targets of earlier budgets."""
    points = {}
    for arm in results.plan.parsed:
        if results.seeds(arm.name) and not arm.subset:
            rounds = range(1, results.plan.rounds)
            costs = [sum(results.cost(arm, r, "macs")) / 1e12 for r in rounds]
            points[arm.name] = (costs, [float(np.mean(results.values(arm.name, r, "accuracy"))) for r in rounds])
    if points:
        plot_pareto(points, ax, cost="multiply-accumulates (10^12)")
        legend(ax)
    return bool(points)


def bars(results: Results, ax: Any) -> bool:
    """Draw choosing and target of each arm, in MACs and in seconds, as shares of the baseline's."""
    plan, last = results.plan, results.plan.rounds - 1
    base = next((arm for arm in plan.parsed if arm.name == plan.baseline), None)
    arms = [arm for arm in plan.parsed if not arm.subset and results.seeds(arm.name, plan.baseline)]
    if base is None or not arms:
        return False
    for offset, measure in ((-0.2, "macs"), (0.2, "seconds")):
        whole = sum(results.cost(base, last, measure)) or float("nan")
        parts = np.array([results.cost(arm, last, measure) for arm in arms]) / whole  # [arms 2]
        at, alpha = np.arange(len(arms)) + offset, 1.0 if measure == "macs" else 0.55
        ax.barh(at, parts[:, 0], 0.38, color=STAGES["choosing"], alpha=alpha, label=f"choosing, {measure}")
        ax.barh(at, parts[:, 1], 0.38, parts[:, 0], color=STAGES["target"], alpha=alpha, label=f"target, {measure}")
    ax.set_yticks(range(len(arms)), [arm.name for arm in arms], fontsize="x-small")
    ax.invert_yaxis()
    ax.axvline(1, color="#444444", linewidth=1)
    ax.set(xlabel=f"share of {plan.baseline}")
    legend(ax)
    return True


def training(results: Results, ax: Any) -> bool:
    """Draw test accuracy after every epoch of the last target."""
    last, some = results.plan.rounds - 1, False
    for arm in results.plan.parsed:
        curves = results.values(arm.name, last, "curve")
        if curves and min(map(len, curves)) > 1:
            length = min(map(len, curves))
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            ax.plot(range(1, length + 1), mean, "-" if arm.pruned else "--", label=arm.name)
            some = True
    if some:
        ax.set(xlabel="epoch of the last target", ylabel="test accuracy")
        legend(ax)
    return some


def legend(ax: Any) -> None:
    """Put the legend, which may be long, beside the axes and not over the lines."""
    ax.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1), handlelength=3.5)


PICTURES = {
    "accuracy": (accuracy, "Test accuracy by labels, mean and one standard deviation over seeds"),
    "pareto": (pareto, "Accuracy against compute, choosing and the target of that budget"),
    "costs": (bars, "What choosing and the last target cost"),
    "curves": (training, "Test accuracy after every epoch of the training at the last budget, mean over seeds"),
}
