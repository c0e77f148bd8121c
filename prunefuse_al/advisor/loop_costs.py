"""What an active-learning loop costs by arithmetic: how many rows pass through which network, times what a row costs.

A loop labels `initial` samples, then `rounds` times trains, scores the pool and labels k more, and trains once more on
all of them. A loop with a proxy pays for the target at the end; in the dense loop the last network *is* the target.
V2 trains a target at the end of every `sync_every`-th training, the last of which may be the one that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from .. import checks
from ..errors import InputError

EPOCHS = 181
"""Epochs of every training in the paper's CIFAR protocol."""


@dataclass(frozen=True)
class LoopPlan:
    """How an active-learning loop is run; the defaults are the paper's CIFAR protocol (arXiv 2603.26138).

    With a smaller `pool` the label numbers keep their share of it: 2 % to start, then 10 %, 20 %, ... of the pool.

    Attributes:
        pool: rows that can be labelled, those that are labelled from the start among them.
        rounds: how often samples are chosen, >= 1; one more training follows the last choice.
        initial: labels before the first choice; None: 2 % of the pool.
        k: labels added per choice, one number for all or one for each; None: what makes a further tenth of the pool.
        epochs: epochs of each proxy; None: the trainer's, else 181.
        target_epochs: epochs of each target, those of a sync as well; None: `epochs`.
        dense_epochs: epochs of each network of the dense loop; None: `epochs`.
        sync_every: None for V1; T for V2: the T-th, 2T-th, ... training ends with a sync, see `PrunedProxySelector`.

    Raises:
        InputError: a number is not whole or below 1, or more labels are asked for than the pool has.

    Example:
        >>> LoopPlan().labels
        (1000, 5000, 10000, 15000, 20000, 25000)
        >>> LoopPlan(pool=1000, rounds=3, initial=20, k=30).labels
        (20, 50, 80, 110)
        >>> LoopPlan(sync_every=2).synced
        (5000, 15000, 25000)
    """

    pool: int = 50_000
    rounds: int = 5
    initial: int | None = None
    k: int | Sequence[int] | None = None
    epochs: int | None = None
    target_epochs: int | None = None
    dense_epochs: int | None = None
    sync_every: int | None = None

    def __post_init__(self) -> None:
        checks.settle(self, **{name: _count(name, getattr(self, name)) for name in ("pool", "rounds")})
        for name in ("initial", "epochs", "target_epochs", "dense_epochs", "sync_every"):
            checks.settle(self, **{name: checks.maybe(_count, name, getattr(self, name))})
        k: Any = self.k
        if (isinstance(k, Sequence) and not isinstance(k, str)) or (isinstance(k, np.ndarray) and k.ndim):
            checks.settle(self, k=tuple(_count("k", step) for step in k))  # hashable, and nobody else's
        else:
            checks.settle(self, k=checks.maybe(_count, "k", k))
        for step in self._steps():
            _count("k" if self.k is not None else "k (a tenth of the pool, less what is labelled)", step)
        if self.labels[-1] > self.pool:
            raise InputError(
                f"LoopPlan: {self.labels[0]:,} initial labels and {self.rounds} rounds make {self.labels[-1]:,} "
                f"labels, but the pool has {self.pool:,} rows: lower initial, k or rounds"
            )

    @property
    def labels(self) -> tuple[int, ...]:
        """Labelled samples at each training, `rounds` + 1 numbers."""
        return tuple(accumulate(self._steps(), initial=self._initial))

    @property
    def synced(self) -> tuple[int, ...]:
        """Labelled samples at each sync of V2, of which the last may be the target; empty for V1."""
        return () if self.sync_every is None else self.labels[self.sync_every - 1 :: self.sync_every]

    @property
    def target_synced(self) -> bool:
        """The last training ends with a sync: that target is the one that is wanted, and no other is trained."""
        return self.sync_every is not None and (self.rounds + 1) % self.sync_every == 0

    @property
    def featured(self) -> int:
        """Rows that pass through a frozen trunk over the whole loop: the pool, and once more after each sync."""
        firsts = range(0, self.rounds + 1, self.sync_every or self.rounds + 1)  # trainings with a trunk that is new
        return sum(self.pool if first < self.rounds else self.labels[-1] for first in firsts)

    @property
    def cuts(self) -> int:
        """How often a proxy is cut: at first, and after each sync but that which makes the target."""
        return 1 + len(self.synced) - self.target_synced

    @property
    def _initial(self) -> int:
        return max(1, round(0.02 * self.pool)) if self.initial is None else self.initial

    def _steps(self) -> tuple[int, ...]:
        if isinstance(self.k, tuple):
            if len(self.k) != self.rounds:
                raise InputError(f"LoopPlan: k has {len(self.k)} numbers for {self.rounds} rounds; give one for each")
            return self.k
        if self.k is not None:
            return (self.k,) * self.rounds  # type: ignore[return-value]  # sequences became tuples
        totals = [self._initial, *(round(0.1 * number * self.pool) for number in range(1, self.rounds + 1))]
        return tuple(int(step) for step in np.diff(totals))

    def trained(self, network: str) -> int:
        """Return the rows that pass forward and backward through a network over the whole loop.

        Args:
            network: ``"proxy"``, ``"svp"`` (whose last training is left out: nothing is fused), ``"sync"`` (the dense
                network at all syncs), ``"target"`` (on all labels, by a sync or not), or ``"dense"`` (the dense loop).
        """
        checks.one_of("network", network, ("proxy", "svp", "sync", "target", "dense"))
        epochs = EPOCHS if self.epochs is None else self.epochs
        target = epochs if self.target_epochs is None else self.target_epochs
        dense = epochs if self.dense_epochs is None else self.dense_epochs
        return {
            "proxy": epochs * sum(self.labels),
            "svp": epochs * sum(self.labels[:-1]),
            "sync": target * sum(self.synced),
            "target": target * self.labels[-1],
            "dense": dense * sum(self.labels),
        }[network]

    @property
    def scored(self) -> int:
        """Rows of the pool that pass forward through whatever network chooses, over the whole loop."""
        return sum(self.pool - labelled for labelled in self.labels[:-1])

    def __str__(self) -> str:
        numbers = [f"{labelled:,}" for labelled in self.labels]
        shown = " -> ".join(numbers if len(numbers) < 9 else [*numbers[:3], "...", numbers[-1]])
        kind = "V1" if self.sync_every is None else f"V2 with sync_every={self.sync_every}"
        epochs = EPOCHS if self.epochs is None else self.epochs
        targets = epochs if self.target_epochs is None else self.target_epochs
        return f"{kind}, pool of {self.pool:,}, labels {shown}, {epochs} epochs, the target {targets}"


def fewer_epochs(epochs: int, share: float) -> int:
    """Return a share of some epochs, at least one."""
    return max(1, round(share * epochs))


def with_fewer_epochs(plan: LoopPlan, share: float) -> LoopPlan:
    """Return a plan with a share of the epochs of each proxy, targets and the dense loop as they are."""
    epochs = EPOCHS if plan.epochs is None else plan.epochs
    target = epochs if plan.target_epochs is None else plan.target_epochs
    dense = epochs if plan.dense_epochs is None else plan.dense_epochs
    return replace(plan, epochs=fewer_epochs(epochs, share), target_epochs=target, dense_epochs=dense)


@dataclass(frozen=True)
class Rates:
    """What a network costs, in MACs or in seconds.

    Attributes:
        train: per row that trains it.
        score: per row that it scores.
        cut: per cutting it, repair included.
        features: per row whose features its frozen trunk computes.
    """

    train: float
    score: float
    cut: float = 0.0
    features: float = 0.0


@dataclass(frozen=True)
class Repairing:
    """How many rows pass while one proxy is repaired, see `repair`.

    Attributes:
        rows: that layers are fitted to.
        imitated: that the proxy then learns to answer like the dense network on.
        epochs: of that.
        features: what the last layer is given is imitated as well.
    """

    rows: int
    imitated: int = 0
    epochs: int = 0
    features: bool = True

    def cost(self, proxy: Rates, dense: Rates) -> float:
        """Return what it costs: each row passes once through either network, and there and back in each epoch.

        Left out are the few rows by which it is seen what there is to repair.
        """
        fitted = self.rows * (dense.score + proxy.score)
        if not self.epochs:
            return fitted
        begun = dense.score + (proxy.score if self.features else 0.0)
        return fitted + self.imitated * (begun + self.epochs * proxy.train)


@dataclass(frozen=True)
class LoopCost:
    """What a loop costs, in the unit of the rates: choosing the samples, and the target where it comes on top.

    As in a `CostLedger`, every sync counts as choosing, also one that makes the target. `once` is the part of choosing
    that no round repeats: cuts, repairs, features.
    """

    selection: float
    target: float = 0.0
    once: float = 0.0

    @property
    def total(self) -> float:
        """Choosing and target."""
        return self.selection + self.target


def dense_cost(plan: LoopPlan, dense: Rates) -> LoopCost:
    """Return what active learning with the dense network costs."""
    return LoopCost(plan.trained("dense") * dense.train + plan.scored * dense.score)


def proxy_cost(plan: LoopPlan, proxy: Rates, dense: Rates) -> LoopCost:
    """Return what the plan costs with a proxy cut from the dense network, or with a probe of it.

    Counted are the passes that train, score, compute features and sync, and the cuts with their repairs. Left out are
    the two rows by which a trainer checks what it was given, estimating BatchNorm statistics after a cut (one forward
    pass), the first head of a repaired proxy (one forward pass of what is labelled), ranking and fusing.

    Example:
        >>> dense, proxy = Rates(3, 1), Rates(0.75, 0.25)
        >>> f"{proxy_cost(LoopPlan(), proxy, dense).total / dense_cost(LoopPlan(), dense).total:.2f}"
        '0.58'
    """
    once = plan.cuts * proxy.cut + plan.featured * proxy.features
    choosing = plan.trained("proxy") * proxy.train + plan.scored * proxy.score + once
    target = 0.0 if plan.target_synced else plan.trained("target") * dense.train
    return LoopCost(choosing + plan.trained("sync") * dense.train, target, once)


def svp_cost(plan: LoopPlan, other: Rates, dense: Rates) -> LoopCost:
    """Return what Selection via Proxy (Coleman et al. 2020) costs: `other` chooses, the dense network is the target.

    `other` may be the dense network itself, trained for fewer epochs (see `with_fewer_epochs`).
    """
    choosing = plan.trained("svp") * other.train + plan.scored * other.score
    return LoopCost(choosing, plan.trained("target") * dense.train)


def _count(name: str, value: Any) -> int:
    return checks.whole(f"LoopPlan: {name}", value, least=1)
