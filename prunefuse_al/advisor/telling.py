"""What `advise` found in words: a table, the sentence about what is best, and what else there is to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..costs import aligned, si
from .considered import DENSE
from .law import Law, laws
from .rows import OF_SAMPLE, AdviceRow
from .timing import Spread

if TYPE_CHECKING:
    from .advice import Advice


def told(advice: Advice) -> str:
    """Return all that there is to say, a table in the middle."""
    columns = [column for column in COLUMNS if column.shown(advice)]
    table = [[column.heading for column in columns]]
    table += [[column.cell(row) for column in columns] for row in advice.every]
    return "\n".join([*_heading(advice), aligned([tuple(line) for line in table]), *_closing(advice)])


def verdict_of(advice: Advice) -> str:
    """Return the sentence about what is best, from the figures."""
    best = advice.best
    if best is not None:
        return f"{best.name}: {_figures(advice, best)}"
    return _unmet(advice) if any(row.pays for row in _choosing(advice)) else _unpaid(advice)


def _choosing(advice: Advice) -> tuple[AdviceRow, ...]:
    return (*advice.rows, *advice.others)


def _unmet(advice: Advice) -> str:
    near = advice.nearest
    missed = ", ".join(name for name, gap in advice.target.excess(near).items() if gap > 0)
    kinds = ", nor does another kind meet it" if advice.others else ""
    return f"no ratio meets the target ({advice.target}); {near.name} comes nearest and misses {missed}{kinds}"


def _unpaid(advice: Advice) -> str:
    cheapest = min(_choosing(advice), key=lambda row: row.macs.total)
    macs = cheapest.macs
    return (
        f"none pays: {cheapest.name}, the cheapest, takes {macs.total_share:.2f} of the dense loop's MACs, "
        f"{macs.selection_share:.2f} for choosing and the rest for the target; let the dense network choose, or plan "
        "more rounds or a larger pool"
    )


def _figures(advice: Advice, row: AdviceRow) -> str:
    macs, seconds = row.macs, row.seconds
    parts = [
        f"choosing takes {macs.selection_share:.2g} of the dense loop's MACs and {seconds.selection_share:.2g} of its "
        f"seconds, with the target {macs.total_share:.2f} and {seconds.total_share:.2f}"
    ]
    if row.accuracy is not None and advice.dense.accuracy is not None:
        parts.append(f"accuracy {100 * row.accuracy:.1f} % against {100 * advice.dense.accuracy:.1f} %")
    if row.agreement is not None:
        parts.append(f"agreement {row.agreement.spearman:.2f}")
    return ", ".join(parts)


# ---- the table


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Attributes:
        heading: its name.
        cell: what it says of a row.
        shown: whether it is there.
    """

    heading: str
    cell: Callable[[AdviceRow], str]
    shown: Callable[[Advice], bool] = lambda advice: True


def _speed(name: str) -> Callable[[AdviceRow], str]:
    def cell(row: AdviceRow) -> str:
        if row.kind == DENSE:
            return f"{si(getattr(row.timing, name).median)}s"
        return _spread(getattr(row.timing, f"{name}_share"))

    return cell


def _tried(advice: Advice) -> bool:
    return advice.trial is not None


def _compared(advice: Advice) -> bool:
    return advice.svp is not None


def _once(advice: Advice) -> bool:
    return any(row.macs.once for row in advice.every)


COLUMNS = (
    _Column("", lambda row: row.name),
    _Column("kind", lambda row: row.kind),
    _Column("parameters", lambda row: f"{row.parameters:,}"),
    _Column("MACs", lambda row: si(row.forward_macs)),
    _Column("train", _speed("train")),
    _Column("score", _speed("score")),
    _Column("once", lambda row: si(row.macs.once) if row.macs.once else "-", _once),
    _Column("once (s)", lambda row: _duration(row.seconds.once) if row.macs.once else "-", _once),
    _Column("choosing", lambda row: "1" if row.kind == DENSE else f"{row.macs.selection_share:.2f}"),
    _Column("total", lambda row: si(row.macs.total) if row.kind == DENSE else f"{row.macs.total_share:.2f}"),
    _Column("choosing (s)", lambda row: "1" if row.kind == DENSE else f"{row.seconds.selection_share:.2f}"),
    _Column(
        "total (s)",
        lambda row: _duration(row.seconds.total) if row.kind == DENSE else f"{row.seconds.total_share:.2f}",
    ),
    _Column("pays in", lambda row: "-" if row.kind == DENSE else _pays_in(row)),
    _Column("of SvP", lambda row: _optional(row.macs.over_svp), _compared),
    _Column("of SvP (s)", lambda row: _optional(row.seconds.over_svp), _compared),
    _Column(
        "accuracy",
        lambda row: "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        lambda advice: advice.dense.accuracy is not None,
    ),
    _Column("Spearman", lambda row: "-" if row.agreement is None else f"{row.agreement.spearman:.2f}", _tried),
    _Column("overlap", lambda row: "-" if row.agreement is None else f"{row.agreement.overlap:.2f}", _tried),
)


def _pays_in(row: AdviceRow) -> str:
    both = [name for name, cost in (("MACs", row.macs), ("seconds", row.seconds)) if cost.pays]
    return "both" if len(both) == 2 else both[0] if both else "neither"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


# ---- above and below it


def _heading(advice: Advice) -> list[str]:
    lines = [
        f"plan: {advice.plan}",
        f"train, score: seconds per sample on {advice.device}, over the dense network's; median [quartiles] of "
        f"{advice.repeats} repeats in turns",
        "choosing, total: shares of the dense loop's MACs and (s) predicted seconds; the total has the target in it"
        + ("; once: the part of choosing that repairs and features take" if _once(advice) else ""),
    ]
    if advice.trial is not None:
        trial = advice.trial
        right = "accuracy: on the held-out samples; " if advice.dense.accuracy is not None else ""
        lines.append(
            f"{right}Spearman, overlap: with the dense network's ranking of {trial.held_out:,} held-out samples, and "
            f"of its first {trial.k:,}, after {trial.trained_on:,} samples; by chance 0 and "
            f"{trial.k / trial.held_out:.2f}, dense: trained again in another order"
        )
    return lines


def _closing(advice: Advice) -> list[str]:
    best, target = advice.best, advice.target
    lines = [_unmet(advice) if best is None else f"best by the target ({target}) is {advice.verdict}"]
    if not any(row.pays for row in _choosing(advice)):
        lines.append(_unpaid(advice))
    if not any(name in OF_SAMPLE for name, _ in target.asked()):
        lines.append(_unknown(advice))
    if best is not None and (fickle := _missing_agreement(advice, best)):
        lines.append(
            f"{', '.join(fickle)}, less thin, agreed less than asked, so chance has a part in this: "
            "give a larger labelled sample, more trial_epochs, or another random_state"
        )
    losing = [f"{row.name} ({row.macs.total_share:.2f})" for row in _choosing(advice) if not row.pays]
    if losing:
        lines.append(f"does not pay, for the target is paid on top: {', '.join(losing)}{_syncs(advice)}")
    lines += _recorded(advice)
    lines += [f"{name} is not looked at: {why}" for name, why in advice.left_out.items()]
    return [*lines, _own_cost(advice)]


def _unknown(advice: Advice) -> str:
    """Return what costs alone do not tell, and what does."""
    if advice.trial is None and advice.trained:
        return (
            "these are costs alone: whether the features of this trained network tell your classes apart, so that a "
            "probe ranks well, or else how much of what it knows is left at a ratio, is told by labelled=(X, y)"
        )
    return (
        "costs alone always favour the largest ratio; how far thinning can go before the picks change is told by "
        "labelled=(X, y) with a target for accuracy=, overlap= or spearman="
    )


def _recorded(advice: Advice) -> list[str]:
    """Return what records of other loops expect of these proxies, with how far off they are on plans left out."""
    ahead = {row.name: row.expected_difference for row in advice.rows if row.expected_difference is not None}
    alike = {row.name: row.expected_agreement for row in advice.rows if row.expected_agreement is not None}
    lines = []
    if ahead:
        what = "points of accuracy over a dense loop that starts anew"
        lines.append(_by_law(laws()["difference"], what, ahead, 100, "+.1f"))
    if alike and advice.trial is None:
        what = "Spearman with the dense network after the first labels"
        lines.append(_by_law(laws()["agreement"], what, alike, 1, ".2f"))
    return lines


def _by_law(law: Law, what: str, expected: Mapping[str, float], unit: int, form: str) -> str:
    said = f"records of {law.plans} other set-ups, from scratch, expect {what}: "
    off = f"off by {unit * law.error:{form.strip('+')}} on set-ups left out"
    if law.form == "mean":
        value = next(iter(expected.values()))
        return f"{said}{unit * value:{form}} over all ratios; {off}, where no law of ratio and labels did surely better"
    values = ", ".join(f"{name} {unit * value:{form}}" for name, value in expected.items())
    return f"{said}{values}; {off} (their mean alone by {unit * law.error_of_mean:{form.strip('+')}})"


def _missing_agreement(advice: Advice, best: AdviceRow) -> list[str]:
    """Return the rows before the best ratio that rank too differently to meet the target."""
    if best not in advice.rows:
        return []
    asked = ("spearman", "overlap")
    before = advice.rows[: advice.rows.index(best)]
    return [row.name for row in before if any(advice.target.excess(row).get(name, 0) > 0 for name in asked)]


def _syncs(advice: Advice) -> str:
    """Return what syncing costs beyond the target, which V1 pays as well."""
    plan, dense = advice.plan, advice.dense
    times, rows = len(plan.synced) - plan.target_synced, plan.trained("sync")
    if not times:
        return ""
    if plan.target_synced:
        rows -= plan.trained("target")
    share = rows * (dense.forward_macs + dense.backward_macs) / dense.macs.total
    syncs = f"{times} sync{'s' * (times > 1)}"
    return f"; {syncs} before the target alone cost {share:.2f}: take a larger sync_every, or none"


def _own_cost(advice: Advice) -> str:
    spent = advice.costs.totals()["total"]
    share = spent["macs"] / advice.dense.macs.total
    return (
        f"this advice took {_duration(spent['seconds'])} and {si(spent['macs'])} MACs, {share:.2g} of the dense loop's"
    )
