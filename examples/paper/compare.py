"""Numbers from records: accuracy, costs, paired differences, overlap, agreement in rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from plan import Arm, Plan
from records import Store
from scipy import stats
from significance import Difference, area, paired
from subselnet import GUESSING, PRETRAINING

from prunefuse_al.costs.ledger import SELECTION_STAGES, CostLedger

TARGET_STAGES = ("fuse", "recalibrate_target", "train_target")
PREPARING = (*PRETRAINING, GUESSING)  # paid once, before anything is chosen
BETWEEN = ("score", "rank")  # paid to get to the next budget, so not for the last one


@dataclass(frozen=True)
class Results:
    """The records and timings of a plan, as far as they are there.

    Attributes:
        plan: what was asked.
        cells: (arm's name, seed, round) -> (record, timing or None).
    """

    plan: Plan
    cells: dict[tuple[str, int, int], tuple[dict[str, Any], dict[str, Any] | None]]

    @classmethod
    def read(cls, plan: Plan, store: Store) -> Results:
        """Return what is there."""
        cells = {}
        for arm in plan.parsed:
            for seed in plan.seeds:
                for number in range(store.done(arm, seed, plan.rounds)):
                    record = store.record(arm, seed, number)
                    assert record is not None
                    cells[arm.name, seed, number] = record, store.timing(arm, seed, number)
        return cls(plan, cells)

    def seeds(self, *arms: str, number: int | None = None) -> list[int]:
        """Return the seeds on which all these arms have got to a round, the last one if none is named."""
        number = self.plan.rounds - 1 if number is None else number
        return [seed for seed in self.plan.seeds if all((arm, seed, number) in self.cells for arm in arms)]

    def values(self, arm: str, number: int, key: str, seeds: Sequence[int] | None = None) -> list[Any]:
        """Return an entry of the records of a round, one per seed."""
        seeds = self.seeds(arm, number=number) if seeds is None else seeds
        return [self.cells[arm, seed, number][0][key] for seed in seeds]

    def difference(self, pairs: Sequence[tuple[str, str]], number: int | None) -> Difference:
        """Return the difference in accuracy of two arms, the mean over pairs of them, seed by seed.

        Args:
            pairs: names of arms, ours and theirs.
            number: the round; None: of each arm's mean over the budgets.
        """
        seeds = self.seeds(*(arm for pair in pairs for arm in pair), number=number)
        rounds = range(1, self.plan.rounds) if number is None else [number]
        ours, theirs = (
            np.mean([self.values(pair[side], r, "accuracy", seeds) for pair in pairs for r in rounds], axis=0)
            for side in (0, 1)
        )
        return paired(ours, theirs)

    def accuracies(self, arm: str, start: int = 1) -> dict[int, list[float]]:
        """Return seed -> accuracy by budget, of the seeds on which an arm is done; `start` 0: from the first labels."""
        rounds = range(start, self.plan.rounds)
        return {seed: [self.cells[arm, seed, r][0]["accuracy"] for r in rounds] for seed in self.seeds(arm)}

    def areas(self, arm: str) -> dict[int, float]:
        """Return seed -> area under the budget curve, from the first labels to the last budget."""
        labels = self.labels(0)
        return {seed: area(labels, accuracy) for seed, accuracy in self.accuracies(arm, 0).items()}

    def labels(self, start: int = 1) -> list[float]:
        """Return the labels at each budget: as records say, else as the plan does."""
        found = {number: record["labels"] for (_, _, number), (record, _) in self.cells.items()}
        asked = (self.plan.first, *self.plan.budgets)
        return [found.get(number, asked[number]) for number in range(start, self.plan.rounds)]

    def rows(self, arm: str, seed: int, number: int) -> list[dict[str, Any]]:
        """Return what a round cost: MACs from its record, seconds from its timing (0 where that is lost)."""
        record, timing = self.cells[arm, seed, number]
        seconds = dict((timing or {}).get("seconds", {}))
        peak = (timing or {}).get("peak_memory_bytes", 0)
        # Seconds are kept per stage: its first row gets them.
        return [{**r, "seconds": seconds.pop(r["stage"], 0.0), "peak_memory_bytes": peak} for r in record["costs"]]

    def devices(self, arm: str, seeds: Sequence[int]) -> set[str]:
        """Return the devices that an arm's last rounds ran on."""
        timings = [self.cells[arm, seed, self.plan.rounds - 1][1] for seed in seeds]
        return {timing["device"] for timing in timings if timing}

    def ledger(self, arm: Arm, seed: int, number: int) -> tuple[CostLedger, CostLedger]:
        """Return what choosing cost up to a round, and what its target cost."""
        choosing, finishing = CostLedger(), CostLedger()
        for r in range(number + 1):
            for row in CostLedger.from_dicts(self.rows(arm.name, seed, r)).rows():
                if row.stage in PREPARING:
                    choosing.extend([row])
                elif row.stage in SELECTION_STAGES:
                    if arm.unasked:  # nothing is trained to choose
                        if r == number and row.stage == "train_proxy":
                            finishing.extend([row])
                    elif r < number or row.stage not in BETWEEN:
                        choosing.extend([row])
                elif row.stage in TARGET_STAGES and r == number:
                    finishing.extend([row])
        return choosing, finishing

    def cost(self, arm: Arm, number: int, measure: str, seeds: Sequence[int] | None = None) -> tuple[float, float]:
        """Return (choosing, target) up to a round, "macs" or "seconds", the mean over seeds."""
        seeds = self.seeds(arm.name, number=number) if seeds is None else seeds
        pairs = [self.ledger(arm, seed, number) for seed in seeds]
        return (
            float(np.mean([total(choosing, measure) for choosing, _ in pairs])),
            float(np.mean([total(finishing, measure) for _, finishing in pairs])),
        )

    def labelled(self, arm: str, seed: int, number: int) -> set[int]:
        """Return the rows that an arm picked before a round, the first ones left out."""
        return {row for r in range(number) for row in self.cells[arm, seed, r][0]["picked"]}

    def overlap(self, one: str, other: str) -> float:
        """Return which share of the picks of one arm another has too, at the last budget; the mean over seeds."""
        last = self.plan.rounds - 1
        shares = []
        for seed in self.seeds(one, other):
            a, b = (self.labelled(arm, seed, last) for arm in (one, other))
            shares.append(len(a & b) / max(1, len(a)))
        return float(np.mean(shares)) if shares else float("nan")

    def agreement(self, arm: str, number: int, other: str | None = None) -> float:
        """Return Spearman's rho of how unsure the network that chooses is, and another arm's target; the mean.

        Args:
            arm: whose network chooses.
            number: the round.
            other: whose target; None: the arm's own.
        """
        found = []
        for seed in self.seeds(arm, other or arm, number=number):
            chooser = self.cells[arm, seed, number][0]["probes"].get("chooser")
            target = self.cells[other or arm, seed, number][0]["probes"].get("target")
            if chooser and target:
                found.append(stats.spearmanr(chooser, target).statistic)
        return float(np.mean(found)) if found else float("nan")


def total(ledger: CostLedger, measure: str) -> float:
    """Return the sum over a ledger."""
    return float(ledger.totals().get("total", {}).get(measure, 0.0))


def first_reaching(curve: Sequence[float], accuracy: float) -> int | None:
    """Return after how many epochs (from 1) a curve first reaches an accuracy, None if never."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value >= accuracy), None)
