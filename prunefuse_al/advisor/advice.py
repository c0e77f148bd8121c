"""What `advise` found, what it takes, and both as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..costs import CostLedger
from ..plots import plot_advice
from .agreement import Trial
from .loop_costs import LoopPlan
from .rows import AdviceRow, Target
from .telling import told, verdict_of


@dataclass(frozen=True, eq=False)
class Advice:
    """What `advise` found; prints as a table.

    Attributes:
        rows: one per pruning ratio, ascending.
        dense: the dense network, and the dense loop.
        svp: the network for Selection via Proxy, or None.
        plan: what was asked to be costed.
        target: what a proxy must meet.
        trial: the short trainings on the labelled sample, or None.
        costs: what this advice cost: stages "prune", "repair", "features", "measure", "trial", of round 0.
        repeats: how often each network was timed.
        device: where.
        others: of other kinds: pruned and not repaired, a probe, fewer epochs.
        left_out: what was asked for -> why it is not looked at.
        trained: the dense network counts as trained before.
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
    others: tuple[AdviceRow, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    trained: bool = False

    @property
    def best(self) -> AdviceRow | None:
        """The row of the largest pruning ratio that meets the target, or of another kind that does for fewer MACs.

        None if none does.
        """
        ratio = next((row for row in reversed(self.rows) if self.target.met_by(row)), None)
        others = [row for row in self.others if self.target.met_by(row)]
        return min([*([] if ratio is None else [ratio]), *others], key=lambda row: row.macs.total, default=None)

    @property
    def nearest(self) -> AdviceRow:
        """The row whose worst miss of the target is smallest; of equals, the thinner."""
        rows = [*reversed(self.rows), *self.others]
        return min(rows, key=lambda row: max(self.target.excess(row).values(), default=0.0))

    @property
    def every(self) -> tuple[AdviceRow, ...]:
        """All rows, the dense one first, that for Selection via Proxy last."""
        return (self.dense, *self.rows, *self.others, *(() if self.svp is None else (self.svp,)))

    @property
    def verdict(self) -> str:
        """A sentence: which is best and what it costs and knows, or that none meets the target, or that none pays."""
        return verdict_of(self)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return all rows, the dense one first, as flat dicts such as ``{"macs_total_share": 0.58}``."""
        best = self.best
        return [{**_flat(asdict(row)), "pays": row.pays, "best": row is best} for row in self.every]

    def plot(self, ax: Any = None) -> Any:
        """Draw cost and agreement over the pruning ratio; see `plots.plot_advice`."""
        return plot_advice(self, ax)

    def __repr__(self) -> str:
        best = "none meets the target" if self.best is None else f"best {self.best.name}"
        return f"<Advice on {len(self.rows)} pruning ratios, {best}>"

    def __str__(self) -> str:
        return told(self)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}_") if isinstance(value, dict) else {prefix + name: value}
    return flat
