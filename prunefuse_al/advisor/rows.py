"""What `advise` says of each network, and what a pruning ratio must meet to be taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from .. import checks
from ..errors import InputError
from .agreement import Agreement
from .timing import Timing

OF_SAMPLE = ("spearman", "overlap", "accuracy")
"""Demands that only a labelled sample can answer, each of a least value; all others are of largest costs."""


@dataclass(frozen=True)
class Target:
    """What a proxy must meet; None asks for nothing. Costs are shares of what the dense loop costs.

    Attributes:
        cost: largest share of multiply-accumulates (MACs) for choosing.
        seconds: largest share of seconds for choosing.
        total: largest share of MACs for choosing and the target; 1 asks that the plan pays.
        spearman: least rank correlation with the dense network's scores, -1 to 1; needs a labelled sample.
        overlap: least share of the picks that are the dense network's too, 0 to 1; needs a labelled sample.
        accuracy: least accuracy on held-out rows, as a share of the dense network's; needs a labelled sample.

    Raises:
        InputError: a number is out of its range.
    """

    cost: float | None = None
    seconds: float | None = None
    total: float | None = 1.0
    spearman: float | None = None
    overlap: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float | None]] = {"spearman": (-1.0, 1.0), "overlap": (0.0, 1.0)}
        for name, value in self.asked():
            low, high = ranges.get(name, (0.0, None))
            what = f"a number from {low:g}{'' if high is None else f' to {high:g}'}, or None"
            checks.settle(self, **{name: checks.number(f"Target: {name}", value, least=low, most=high, what=what)})

    @classmethod
    def of(cls, target: Target | Mapping[str, float | None] | float | None) -> Target:
        """Return a target given as such, as a mapping of its fields, as its `cost` alone, or None (it must pay)."""
        if isinstance(target, Target):
            return target
        if isinstance(target, Mapping):
            known = [field.name for field in fields(cls)]
            unknown = sorted(set(target) - set(known))
            if unknown:
                raise InputError(f"advise: target has {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
            return cls(**target)
        return cls(cost=target)

    def asked(self) -> Iterator[tuple[str, float]]:
        """Yield the name and bound of everything that is asked."""
        every = ((field.name, getattr(self, field.name)) for field in fields(self))
        yield from [(name, value) for name, value in every if value is not None]

    def excess(self, row: AdviceRow) -> dict[str, float]:
        """Return by how much a row misses each demand: relative for costs, in units of agreement; <= 0 meets it."""
        found = {
            "cost": row.macs.selection_share,
            "seconds": row.seconds.selection_share,
            "total": row.macs.total_share,
            "spearman": math.nan if row.agreement is None else row.agreement.spearman,
            "overlap": math.nan if row.agreement is None else row.agreement.overlap,
            "accuracy": math.nan if row.accuracy_share is None else row.accuracy_share,
        }
        missed = {}
        for name, bound in self.asked():
            if name in OF_SAMPLE:
                gap = bound - found[name]
            else:
                gap = found[name] / bound - 1 if bound else math.inf
            missed[name] = math.inf if math.isnan(gap) else gap
        return missed

    def met_by(self, row: AdviceRow) -> bool:
        """Return whether a row meets every demand."""
        return all(gap <= 0 for gap in self.excess(row).values())

    def __str__(self) -> str:
        return ", ".join(f"{name} {'>=' if name in OF_SAMPLE else '<='} {bound:g}" for name, bound in self.asked())


@dataclass(frozen=True)
class Prediction:
    """What the plan will cost with a network, in MACs or in seconds, see `LoopPlan`.

    Attributes:
        selection: choosing the samples (training the proxies, scoring, every sync; in seconds the cuts too).
        total: choosing and training the target.
        selection_share: `selection` over the whole dense loop.
        total_share: `total` over the whole dense loop.
        over_svp: `total` over that of Selection via Proxy; None without a network for it.
        once: the part of `selection` that no round repeats: repairs of proxies, features of a frozen trunk; in seconds
            the cuts too.
    """

    selection: float
    total: float
    selection_share: float
    total_share: float
    over_svp: float | None = None
    once: float = 0.0

    @property
    def pays(self) -> bool:
        """The plan costs less than the dense loop."""
        return self.total_share < 1


@dataclass(frozen=True)
class AdviceRow:
    """What is known of one network.

    Attributes:
        name: ``"dense"``, ``"p=0.5"``, ``"p=0.5 as cut"``, ``"probe"``, ``"0.5 of epochs"``, ``"svp"``.
        pruning_ratio: 0 of the dense network, None of what is not cut from it, such as a probe.
        parameters: of the network that is trained in each round: of a probe, its head.
        forward_macs: multiply-accumulates of one forward pass of one sample.
        backward_macs: multiply-accumulates of one backward pass of one sample.
        prune_seconds: measured time of `prune`.
        timing: measured times.
        macs: predicted cost of the plan, counted.
        seconds: predicted cost of the plan, from the measured times.
        agreement: with the dense network's ranking; None without a labelled sample.
        kind: ``"dense"``; ``"pruned"``, and repaired where the network was trained before; ``"unrepaired"``, pruned and
            not repaired; ``"probe"``; ``"fewer epochs"``; ``"another"`` network; or the class of a kind of your own.
        accuracy: share of the held-out rows that it is right about after the trial; None without a labelled sample, or
            where labels are no classes.
        accuracy_share: `accuracy` over the dense network's.
        expected_difference: what records of other loops say of the target's accuracy, minus that of a dense loop that
            starts anew in every round; None where they say nothing: of trained networks, of other kinds, of other
            sizes.
        expected_agreement: what they say of the rank correlation with the dense network.
    """

    name: str
    pruning_ratio: float | None
    parameters: int
    forward_macs: float
    backward_macs: float
    prune_seconds: float
    timing: Timing
    macs: Prediction
    seconds: Prediction
    agreement: Agreement | None = None
    kind: str = "pruned"
    accuracy: float | None = None
    accuracy_share: float | None = None
    expected_difference: float | None = None
    expected_agreement: float | None = None

    @property
    def pays(self) -> bool:
        """The plan costs fewer MACs than the dense loop."""
        return self.macs.pays
