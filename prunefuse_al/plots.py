"""Pictures of runs: each function draws on a matplotlib `Axes`, a new one if none is given, and returns it.

matplotlib is the extra ``plots``; it is imported when something is drawn.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from . import checks
from .costs import CostLedger
from .data import as_dataset, split_item
from .errors import InputError, MissingDependencyError
from .pruning import Proxy, PruningReport
from .types import Selection

DARK, LIGHT, RED, GREY = "#0b6e99", "#7fb8d3", "#d1495b", "#444444"
STAGE_COLOURS = {
    "prune": "#bbbbbb",
    "train_proxy": DARK,
    "retrain_proxy": "#3f8fb3",
    "recalibrate": "#9c89b8",
    "repair": "#6b5b95",
    "head": "#b3a7cc",
    "features": "#7a6f9b",
    "score": LIGHT,
    "rank": "#888888",
    "coreset": "#888888",
    "sync_fuse": "#8f2d3b",
    "sync_recalibrate": "#e8a0a9",
    "sync": RED,
    "fuse": "#5c946e",
    "recalibrate_target": "#c5b4e3",
    "train_target": "#e9a23b",
    "predict": "#dddddd",
}


def plot_advice(advice: Any, ax: Any = None) -> Any:
    """Draw what `advise` found: cost of the plan, and agreement with the dense network, over the pruning ratio.

    Args:
        advice: an `Advice`.
        ax: Axes to draw on; None makes one.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    checks.methods("plot_advice: advice", advice, ("to_dicts", "plot"), "what advise(...) returned")
    ax, ratios = _axes(ax), [row.pruning_ratio for row in advice.rows]
    for measure, colour in (("macs", DARK), ("seconds", "#e9a23b")):
        costs, name = [getattr(row, measure) for row in advice.rows], "MACs" if measure == "macs" else "seconds"
        ax.plot(ratios, [c.total_share for c in costs], "o-", color=colour, label=f"total, {name}")
        ax.plot(ratios, [c.selection_share for c in costs], "o:", color=colour, label=f"choosing, {name}")
        for called, row in _without_ratio(advice).items():
            share, style = getattr(row, measure).total_share, "-." if row is advice.svp else "--"
            ax.axhline(share, color=colour, linestyle=style, linewidth=1, label=f"{called} total, {name}")
    if advice.trial is not None:
        agreed = [row.agreement for row in advice.rows]
        ax.plot(ratios, [a.spearman for a in agreed], "s--", color=RED, label="Spearman with dense")
        ax.plot(ratios, [a.overlap for a in agreed], "^--", color="#9c89b8", label=f"overlap at {advice.trial.k}")
    ax.axhline(1, color=GREY, linewidth=1, label="the dense loop")
    if advice.best in advice.rows:
        ax.axvline(advice.best.pruning_ratio, color=GREY, linewidth=6, alpha=0.15)
    ax.set(xlabel="pruning ratio", ylabel="share of the dense loop, agreement", title=_title(advice))
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_learning_curve(labels: Sequence[int], accuracy: Mapping[str, Any], ax: Any = None) -> Any:
    """Draw accuracy over the number of labels, one line per arm; the band is one standard deviation over seeds.

    Args:
        labels: labelled samples at each budget, [b].
        accuracy: arm -> accuracies, [b] or [seeds b].
        ax: Axes to draw on; None makes one.

    Raises:
        InputError: an arm has another number of budgets.
        MissingDependencyError: matplotlib is not installed.
    """
    what = "a dict: arm -> accuracies [b] or [seeds b]"
    arms = checks.instance("plot_learning_curve: accuracy", accuracy, Mapping, what)
    budgets = _numbers("plot_learning_curve: labels", labels, "labelled samples at each budget, [b]")
    runs = {
        name: np.atleast_2d(_numbers(f"plot_learning_curve: accuracy[{name!r}]", values, "accuracies [b] or [seeds b]"))
        for name, values in arms.items()
    }  # [seeds b]
    for name, values in runs.items():
        if budgets.ndim != 1 or values.shape[-1] != len(budgets) or values.ndim != 2:
            found = f"accuracy of {name!r} has shape {list(np.shape(accuracy[name]))} for {budgets.size} budgets"
            raise InputError(f"plot_learning_curve: {found}; pass [b] or [seeds b]")
    ax = _axes(ax)
    for name, values in runs.items():
        (line,) = ax.plot(budgets, values.mean(0), marker="o", label=name)
        if len(values) > 1:
            mean, spread = values.mean(0), values.std(0, ddof=1)
            ax.fill_between(budgets, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel="labelled samples", ylabel="accuracy")
    ax.legend(frameon=False)
    return ax


def plot_costs(ledgers: CostLedger | Mapping[str, CostLedger], ax: Any = None, *, measure: str = "macs") -> Any:
    """Draw one bar per run, made of what its stages cost.

    Args:
        ledgers: a `CostLedger`, or name -> ledger.
        ax: Axes to draw on; None makes one.
        measure: ``"macs"`` or ``"seconds"``.

    Raises:
        InputError: an unknown measure, or nothing was counted.
        MissingDependencyError: matplotlib is not installed.
    """
    checks.one_of("plot_costs: measure", measure, ("macs", "seconds"))
    what = "a CostLedger, or a dict: name -> CostLedger"
    named = {"": ledgers} if isinstance(ledgers, CostLedger) else ledgers
    if not isinstance(named, Mapping) or not all(isinstance(ledger, CostLedger) for ledger in named.values()):
        raise checks.refused("plot_costs: ledgers", ledgers, what)
    totals = {name: ledger.totals() for name, ledger in named.items()}
    stages = list(dict.fromkeys(stage for sums in totals.values() for stage in sums if stage != "total"))
    if not stages:
        raise InputError("plot_costs: the ledgers have no rows; run fit() or query() first")
    ax, floor = _axes(ax), np.zeros(len(named))
    for stage in stages:
        heights = np.array([sums.get(stage, {}).get(measure, 0.0) for sums in totals.values()])
        ax.bar(list(named), heights, bottom=floor, width=0.65, color=STAGE_COLOURS.get(stage), label=stage)
        floor += heights
    ax.set_ylabel("multiply-accumulates" if measure == "macs" else "seconds")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_pareto(points: Mapping[str, tuple[Any, Any]], ax: Any = None, *, cost: str = "multiply-accumulates") -> Any:
    """Draw accuracy over compute, one line per arm, and the front: what no other point beats in both.

    Args:
        points: arm -> (costs [b], accuracies [b]).
        ax: Axes to draw on; None makes one.
        cost: label of the horizontal axis.

    Raises:
        InputError: costs and accuracies of an arm differ in number.
        MissingDependencyError: matplotlib is not installed.
    """
    what = "a dict: arm -> (costs [b], accuracies [b]), of one arm or more"
    arms = checks.instance("plot_pareto: points", points, Mapping, what)
    if not arms or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in arms.values()):
        raise checks.refused("plot_pareto: points", points, what)
    checks.instance("plot_pareto: cost", cost, str, "the label of the horizontal axis, a str")
    pairs = {
        name: tuple(_numbers(f"plot_pareto: points[{name!r}]", part, "costs [b] and accuracies [b]") for part in pair)
        for name, pair in arms.items()
    }
    for name, (costs, accuracies) in pairs.items():
        if costs.shape != accuracies.shape or costs.ndim != 1:
            shapes = f"{list(costs.shape)} costs and {list(accuracies.shape)} accuracies"
            raise InputError(f"plot_pareto: {name!r} has {shapes}; pass one of each per budget")
    ax = _axes(ax)
    for name, (costs, accuracies) in pairs.items():
        ax.plot(costs, accuracies, marker="o", label=name)
    every = np.concatenate([np.stack(pair, axis=1) for pair in pairs.values()])  # [points 2]
    front = pareto_front(every)
    ax.plot(*front.T, color=GREY, linewidth=6, alpha=0.15, drawstyle="steps-post", label="front")
    ax.set(xlabel=cost, ylabel="accuracy")
    ax.legend(frameon=False)
    return ax


def pareto_front(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the (cost, accuracy) pairs that no other is at least as cheap and as accurate as, cheapest first.

    Raises:
        InputError: no array [n 2].

    Example:
        >>> pareto_front(np.array([(1.0, 0.5), (2.0, 0.4), (3.0, 0.6)])).tolist()
        [[1.0, 0.5], [3.0, 0.6]]
    """
    what = "an array of (cost, accuracy) pairs, [n 2]"
    points, given = _numbers("pareto_front: points", points, what), points
    if points.ndim != 2 or points.shape[1] != 2:
        raise checks.refused("pareto_front: points", given, what)
    ordered = points[np.lexsort((-points[:, 1], points[:, 0]))]
    best = np.maximum.accumulate(ordered[:, 1])
    rises = np.diff(best, prepend=-np.inf) > 0
    return ordered[rises]


def plot_widths(proxy: Proxy | PruningReport, ax: Any = None) -> Any:
    """Draw the output width of every layer, dense and proxy.

    Args:
        proxy: a `Proxy` from `prune`, or its report.
        ax: Axes to draw on; None makes one.

    Raises:
        PruningError: the proxy has no report.
        MissingDependencyError: matplotlib is not installed.
    """
    report = proxy.report() if isinstance(proxy, Proxy) else proxy
    checks.instance("plot_widths: proxy", report, PruningReport, "a Proxy that prune(...) returned, or its report()")
    ax, positions = _axes(ax), range(len(report.widths))
    ax.bar(positions, [width.dense for width in report.widths], color=LIGHT, label="dense")
    ax.bar(positions, [width.proxy for width in report.widths], color=DARK, label="proxy")
    ax.set_xticks(positions, [width.name for width in report.widths], rotation=90, fontsize="x-small")
    ax.set(ylabel="output channels", title=f"p = {report.pruning_ratio:g}: {report.mac_share:.1%} of the MACs")
    ax.legend(frameon=False)
    return ax


def plot_selection(pool: Any, selection: Selection, ax: Any = None, *, columns: int = 8, most: int = 64) -> Any:
    """Draw a contact sheet of the picked pictures, best first, each with its score and row number.

    Every picture is stretched to the full range of grey or colour.

    Args:
        pool: arrays [n h w], [n c h w] or [n h w c] with 1 or 3 channels, or a dataset of such pictures.
        selection: from `PrunedProxySelector.select`.
        ax: Axes to draw on; None makes one.
        columns: pictures in a row.
        most: draw no more than so many.

    Raises:
        InputError: `columns` or `most` below 1, or the rows are no pictures.
        MissingDependencyError: matplotlib is not installed.
    """
    columns = checks.whole("plot_selection: columns", columns, least=1)
    most = checks.whole("plot_selection: most", most, least=1)
    checks.instance("plot_selection: selection", selection, Selection, "what PrunedProxySelector.select returned")
    data, rows = as_dataset(pool), selection.indices[:most].tolist()
    if outside := [row for row in rows if not 0 <= row < len(data)]:
        raise InputError(
            f"plot_selection: selection holds row {outside[0]}, and pool has rows 0 to {len(data) - 1:,}; pass "
            "the pool that was asked"
        )
    pictures = [_picture(split_item(data[row])[0]) for row in rows]
    if len({picture.shape for picture in pictures}) > 1:
        raise InputError("plot_selection: the pictures differ in size; give a dataset that resizes them")
    height, width, _ = pictures[0].shape
    across, down = min(columns, len(rows)), math.ceil(len(rows) / columns)
    pitch_y, pitch_x = round(1.3 * height) + 1, width + max(1, width // 8)
    ax, sheet = _axes(ax), np.ones((down * pitch_y, across * pitch_x, 3))
    for place, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        top, left = place // columns * pitch_y, place % columns * pitch_x
        sheet[top : top + height, left : left + width] = picture
        score = "" if selection.scores is None else f"{float(selection.scores[place]):.3g} "
        ax.text(left, top + height, f"{score}#{row}", fontsize="xx-small", va="top")
    ax.imshow(sheet, interpolation="nearest")
    ax.set_axis_off()
    return ax


def _picture(x: Any) -> np.ndarray[Any, Any]:
    """Return a picture as [h w 3], from 0 to 1."""
    array = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=float)
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise InputError(
            f"plot_selection: a row has shape {list(np.shape(x))}, which is no picture; "
            "pass [h w], [c h w] or [h w c] with 1 or 3 channels"
        )
    low, high = array.min(), array.max()
    return np.broadcast_to((array - low) / max(high - low, 1e-12), (*array.shape[:2], 3))


def _numbers(name: str, values: Any, what: str) -> np.ndarray[Any, Any]:
    """Return numbers as an array of floats, or raise `InputError`."""
    found: np.ndarray[Any, Any] = checks.array(name, values, what).cpu().numpy().astype(float)
    return found


def _without_ratio(advice: Any) -> dict[str, Any]:
    """Return the rows of other kinds by what they are called."""
    others = {row.name: row for row in advice.others}
    return others if advice.svp is None else {**others, "SvP": advice.svp}


def _title(advice: Any) -> str:
    best = "no ratio meets the target" if advice.best is None else f"best: {advice.best.name}"
    return f"{best} ({advice.target})" if str(advice.target) else best


def _axes(ax: Any) -> Any:
    """Return `ax`, or new ones."""
    if ax is not None:
        return checks.methods("ax", ax, ("plot", "bar", "set"), "matplotlib Axes, or None for new ones")
    # By name: the core imports no optional library, and this one only when it is asked to draw.
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise MissingDependencyError(
            'drawing needs matplotlib, which is not installed. Run: pip install "prunefuse_al[plots]"',
            name="matplotlib",
        ) from error
    return pyplot.subplots(layout="constrained")[1]
