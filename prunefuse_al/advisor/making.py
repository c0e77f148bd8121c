"""Making a proxy of each kind once, as a selector would: its network, who trains and asks it, and what that took."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..costs import CostLedger, CostRow, Stage, macs, parameter_count
from ..fusing import Fusion
from ..proxies import AnyProxy, Dense, Kind, OtherNetwork, Pruned, Task, Training
from ..pruning import Imitation, Proxy, repair
from ..training import Reader
from .considered import Candidate
from .loop_costs import LoopPlan, Rates, Repairing
from .timing import Timing, Work

ROWS: int = inspect.signature(repair).parameters["rows"].default
"""Rows that layers are fitted to, if nothing else is asked for."""


@dataclass(frozen=True, eq=False)
class Made:
    """A candidate whose proxy was made.

    Attributes:
        candidate: see there.
        start: the proxy, not trained.
        work: who trains its network on what, and who asks it.
        forward: multiply-accumulates of a forward pass of a row.
        backward: of a backward pass.
        taken: what making it took.
        data: rows that there were to repair it on.
    """

    candidate: Candidate
    start: AnyProxy
    work: Work
    forward: float
    backward: float
    taken: tuple[CostRow, ...]
    data: int

    @property
    def parameters(self) -> int:
        """Parameters of the network that is trained and asked: of a probe, its head."""
        return parameter_count(self.work.trains.network)

    @property
    def prune_seconds(self) -> float:
        """Seconds that `prune` took."""
        return self._took("prune")

    def of_macs(self, plan: LoopPlan, dense: Made) -> Rates:
        """Return what it costs in multiply-accumulates."""
        repaired = self._repairing(plan.pool)
        cut = 0.0 if repaired is None else repaired.cost(self._passes, dense._passes)
        return replace(self._passes, cut=cut, features=self._each_feature("macs"))

    def of_seconds(self, plan: LoopPlan, dense: Made, timing: Timing, base: Timing) -> Rates:
        """Return what it costs in seconds; those of a repair grow with its rows as multiply-accumulates do."""
        here, planned, cut = self._repairing(self.data), self._repairing(plan.pool), self._took("prune", "repair")
        if here is not None and planned is not None and (passed := here.cost(self._passes, dense._passes)):
            cut += self._took("repair") * (planned.cost(self._passes, dense._passes) / passed - 1)
        # Shares, being measured in turns, are steadier than the seconds of one network.
        train, score = base.train.median * timing.train_share.median, base.score.median * timing.score_share.median
        return Rates(train, score, cut, self._each_feature("seconds"))

    @property
    def _passes(self) -> Rates:
        return Rates(self.forward + self.backward, self.forward)

    def _took(self, *stages: str) -> float:
        return sum(row.seconds for row in self.taken if row.stage in stages)

    def _each_feature(self, measure: str) -> float:
        found = [row for row in self.taken if row.stage == "features"]
        samples = sum(row.samples for row in found)
        return sum(row.measured(measure) for row in found) / samples if samples else 0.0

    def _repairing(self, rows: int) -> Repairing | None:
        """Return what passes while it is repaired on data of so many rows; None where it is not."""
        kind, start = self.candidate.proxy, self.start
        if not isinstance(kind, Pruned) or not isinstance(start, Proxy) or start.repair_report is None:
            return None
        options = {} if isinstance(kind.repair, bool) else kind.repair
        most, how = options.get("rows", ROWS), options.get("distil")
        how = how if isinstance(how, Imitation) else Imitation(epochs=how or 0)
        seen = start.repair_report.rows
        short = seen < min(self.data, most or self.data)  # memory held no more
        fitted = min(rows, most or rows, *([seen] if short else []))
        return Repairing(fitted, min(rows, how.rows or rows), how.epochs, how.on != "outputs")


class Started(Kind):
    """A kind whose proxy is there already, so that nothing is cut twice.

    Args:
        own: how the proxy is trained and asked.
        start: the proxy.
    """

    fuses: ClassVar[bool] = False

    def __init__(self, own: Kind, start: AnyProxy) -> None:
        self._own, self._start = own, start

    def cut(self, task: Task, before: AnyProxy | None = None) -> AnyProxy:
        """Return the proxy."""
        return self._start

    def begin(self, task: Task, start: AnyProxy, stage: Stage) -> Training:
        """Return the kind's own training."""
        return self._own.begin(task, start, stage)

    def reader(self, task: Task, proxy: AnyProxy, rows: Tensor | None = None, *, pool: bool = False) -> Reader:
        """Return what the kind asks it by."""
        return self._own.reader(task, proxy, rows, pool=pool)

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        """Return what the kind puts back."""
        return self._own.put_back(dense, proxy, fusion)


def made(candidate: Candidate, task: Task, called_with: Any) -> Made:
    """Return a candidate with its proxy, which is cut, repaired, or has its features computed, in stages of the ledger.

    Args:
        candidate: what to make.
        task: with the dense network and rows with labels.
        called_with: what the dense network is called with, two rows.
    """
    kind, ledger, before = candidate.proxy, task.ledger, len(task.ledger)
    kind.check(task.trainer, None)
    # Of the dense network itself nothing is cut.
    start = OtherNetwork(task.dense) if isinstance(kind, Dense) else kind.cut(task)
    with CostLedger().stage("train_proxy", round=task.round, network="proxy") as stage:  # which is not trained yet
        training = kind.begin(task, start, stage)
    own = training.data is not None
    trains = Reader(training.trainer or task.trainer, training.network, training.data if own else task.data)
    asks = kind.reader(task, start, pool=True)
    example = asks.example() if own else called_with
    forward, backward = macs(training.network, example)
    work, data = Work(trains, asks, example), getattr(kind, "unlabelled", None)
    taken = ledger.rows()[before:]
    return Made(candidate, start, work, forward, backward, taken, len(task.data if data is None else data))
