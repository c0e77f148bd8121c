"""What `advise` found, which ratio it takes, and both as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..costs import CostLedger, aligned, si
from ..plots import plot_advice
from .agreement import Trial
from .loop_costs import LoopPlan
from .rows import AdviceRow, Target
from .timing import Spread


@dataclass(frozen=True, eq=False)
class Advice:
    """What `advise` found; prints as a table.

    Attributes:
        rows: one per pruning ratio, ascending.
        dense: the dense network, and the dense loop.
        svp: the network for Selection via Proxy, or None.
        plan: what was asked to be costed.
        target: what a ratio must meet.
        trial: the short trainings on the labelled sample, or None.
        costs: what this advice cost: stages "prune", "measure", "trial", of round 0.
        repeats: how often each network was timed.
        device: where.
    """

    rows: tuple[AdviceRow, ...]
    dense: AdviceRow
    svp: AdviceRow | None
    plan: LoopPlan
    target: Target
    trial: Trial | None
    costs: CostLedger
    repeats: int
    device: str

    @property
    def best(self) -> AdviceRow | None:
        """The row of the largest pruning ratio that meets the target, None if none does."""
        return next((row for row in reversed(self.rows) if self.target.met_by(row)), None)

    @property
    def nearest(self) -> AdviceRow:
        """The row whose worst miss of the target is smallest; of equals, the thinner."""
        return min(reversed(self.rows), key=lambda row: max(self.target.excess(row).values(), default=0.0))

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return all rows, the dense one first, as flat dicts such as ``{"macs_total_share": 0.58}``."""
        every = [self.dense, *self.rows, *([self.svp] if self.svp is not None else [])]
        return [{**_flat(asdict(row)), "pays": row.pays, "best": row is self.best} for row in every]

    def plot(self, ax: Any = None) -> Any:
        """Draw cost and agreement over the pruning ratio; see `plots.plot_advice`."""
        return plot_advice(self, ax)

    def __repr__(self) -> str:
        best = "none meets the target" if self.best is None else f"best {self.best.name}"
        return f"<Advice on {len(self.rows)} pruning ratios, {best}>"

    def __str__(self) -> str:
        every = [self.dense, *self.rows, *([self.svp] if self.svp is not None else [])]
        svp, tried = self.svp is not None, self.trial is not None
        table = [_headings(svp, tried), *(_cells(row, svp, tried) for row in every)]
        return "\n".join([*_heading(self), aligned(table), *_closing(self)])


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}_") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _headings(svp: bool, tried: bool) -> tuple[str, ...]:
    names = ("", "parameters", "MACs", "train", "score", "choosing", "total", "choosing (s)", "total (s)", "pays in")
    return (*names, *(("of SvP", "of SvP (s)") if svp else ()), *(("Spearman", "overlap") if tried else ()))


def _cells(row: AdviceRow, svp: bool, tried: bool) -> tuple[str, ...]:
    timing = row.timing
    if row.name == "dense":
        speeds = [f"{si(timing.train.median)}s", f"{si(timing.score.median)}s"]
        costs = ["1", si(row.macs.total), "1", _duration(row.seconds.total), "-"]
    else:
        speeds = [_spread(timing.train_share), _spread(timing.score_share)]
        shares = (row.macs.selection_share, row.macs.total_share, row.seconds.selection_share, row.seconds.total_share)
        costs = [*(f"{share:.2f}" for share in shares), _pays_in(row)]
    cells = [row.name, f"{row.parameters:,}", si(row.forward_macs), *speeds, *costs]
    if svp:
        cells += [_optional(row.macs.over_svp), _optional(row.seconds.over_svp)]
    if tried:
        cells += [] if row.agreement is None else [f"{row.agreement.spearman:.2f}", f"{row.agreement.overlap:.2f}"]
    return tuple(cells)


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


def _heading(advice: Advice) -> list[str]:
    lines = [
        f"plan: {advice.plan}",
        f"train, score: seconds per sample on {advice.device}, over the dense network's; median [quartiles] of "
        f"{advice.repeats} repeats in turns",
        "choosing, total: shares of the dense loop's MACs and (s) predicted seconds; the total has the target in it",
    ]
    if advice.trial is not None:
        trial = advice.trial
        lines.append(
            f"Spearman, overlap: with the dense network's ranking of {trial.held_out:,} held-out samples, and of its "
            f"first {trial.k:,}, after {trial.trained_on:,} samples; by chance 0 and {trial.k / trial.held_out:.2f}, "
            "dense: trained again in another order"
        )
    return lines


def _closing(advice: Advice) -> list[str]:
    lines, best, target = [], advice.best, advice.target
    if best is not None:
        lines.append(
            f"best: {best.name}, the largest that meets the target ({target}): of the dense loop's MACs choosing "
            f"costs {best.macs.selection_share:.2f}, of its seconds {best.seconds.selection_share:.2f}"
        )
    else:
        near = advice.nearest
        missed = ", ".join(name for name, gap in target.excess(near).items() if gap > 0)
        lines.append(f"no ratio meets the target ({target}); {near.name} comes nearest and misses {missed}")
    if target.spearman is None and target.overlap is None:
        lines.append(
            "costs alone always favour the largest ratio; how far thinning can go before the picks change is told by "
            "labelled=(X, y) with a target for overlap= or spearman="
        )
    if best is not None and (fickle := _missing_agreement(advice, best)):
        lines.append(
            f"{', '.join(fickle)}, less thin, agreed less than asked, so chance has a part in this: "
            "give a larger labelled sample, more trial_epochs, or another random_state"
        )
    losing = [f"{row.name} ({row.macs.total_share:.2f})" for row in advice.rows if not row.pays]
    if losing:
        lines.append(f"does not pay, for the target is paid on top: {', '.join(losing)}{_syncs(advice)}")
    return [*lines, _own_cost(advice)]


def _missing_agreement(advice: Advice, best: AdviceRow) -> list[str]:
    """Return the rows before the best that rank too differently to meet the target."""
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
