"""What a plan predicts is what the ledger of a real run records, multiply-accumulate for multiply-accumulate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import blobs, mlp, seeded
from torch import nn

from prunefuse_al import CostLedger, PrunedProxySelector, TorchTrainer
from prunefuse_al.advisor import LoopPlan
from prunefuse_al.advisor.loop_costs import Rates, dense_cost, proxy_cost, svp_cost
from prunefuse_al.costs.ledger import macs

X, Y = blobs(60)
PROBED = 2  # rows a TorchTrainer looks at before it trains: what the prediction states to leave out
TARGET = TorchTrainer(epochs=3, batch_size=8, progress=False, device="cpu")


def run(plan: LoopPlan, network: nn.Module, ratio: float, *, final_fit: bool = True, **options: Any) -> CostLedger:
    """Go through the plan with a selector and return its ledger."""
    trainer = TorchTrainer(epochs=plan.epochs, batch_size=8, progress=False, device="cpu")
    options = {"trainer": trainer, "target_trainer": TARGET, "random_state": 0, **options}
    selector = PrunedProxySelector(network, ratio, sync_every=plan.sync_every, **options)
    labelled = np.arange(plan.labels[0])
    for before, after in zip(plan.labels[:-1], plan.labels[1:], strict=True):
        selector.fit(X[labelled], Y[labelled])
        picked = selector.query(X, after - before, np.setdiff1d(np.arange(len(X)), labelled))
        labelled = np.concatenate([labelled, picked])
    if final_fit:
        selector.fit(X[labelled], Y[labelled])
        selector.fit_target()
    else:
        selector.fit_target(X[labelled], Y[labelled])
    assert len(labelled) == plan.labels[-1]
    return selector.costs


def rates(network: nn.Module) -> Rates:
    forward, backward = macs(network, X[:2])
    return Rates(forward + backward, forward)


def spent(ledger: CostLedger, *stages: str) -> float:
    return sum(row.macs for row in ledger.rows() if row.stage in stages)


def probes(ledger: CostLedger, own: Rates, dense: Rates) -> float:
    """Return what the rows cost by which every training was checked."""
    prices = {"train_proxy": own.score, "sync": dense.score, "train_target": dense.score}
    return sum(PROBED * prices.get(row.stage, 0) for row in ledger.rows())


@pytest.mark.parametrize(
    "plan",
    [
        LoopPlan(60, rounds=3, initial=12, k=9, epochs=2, target_epochs=3),
        *(
            LoopPlan(60, rounds, initial=12, k=(9, 3, 11, 7)[:rounds], epochs=2, target_epochs=3, sync_every=every)
            for every in (1, 2)
            for rounds in (1, 2, 3, 4)
        ),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
def test_v1_and_v2(plan: LoopPlan) -> None:
    network = mlp(6, 32, 16, 3)
    own, dense = rates(mlp(6, 16, 8, 3)), rates(network)
    ledger, cost = run(plan, network, 0.5), proxy_cost(plan, own, dense)
    stages = [row.stage for row in ledger.rows()]
    assert stages.count("sync") == len(plan.synced)
    assert stages.count("train_target") == (not plan.target_synced)
    assert stages.count("prune") == 1 + len(plan.synced) - plan.target_synced
    assert spent(ledger, "train_target") == cost.target + PROBED * dense.score * (not plan.target_synced)
    assert ledger.totals()["total"]["macs"] == cost.total + probes(ledger, own, dense)
    assert ledger.ratio() == pytest.approx(cost.selection / dense_cost(plan, dense).total, rel=0.1)


def test_the_dense_loop() -> None:
    plan, network = LoopPlan(60, rounds=3, initial=12, k=9, epochs=2), mlp(6, 32, 16, 3)
    dense = rates(network)
    ledger = run(plan, network, 0.0)
    selection = ledger.totals()["total"]["macs"] - spent(ledger, "train_target")
    assert selection == dense_cost(plan, dense).total + (plan.rounds + 1) * PROBED * dense.score
    assert ledger.verdict() == ""


def test_selection_via_proxy() -> None:
    plan = LoopPlan(60, rounds=3, initial=12, k=9, epochs=2, target_epochs=3)
    network, other = mlp(6, 32, 16, 3), mlp(6, 5, 3)
    own, dense = rates(other), rates(network)
    ledger = run(plan, network, 0.5, final_fit=False, proxy=other)
    assert ledger.totals()["total"]["macs"] == svp_cost(plan, own, dense).total + probes(ledger, own, dense)


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
def test_with_batchnorm_the_difference_is_the_stated_pass() -> None:
    """After a cut from a trained target the statistics are estimated again: one pass over what is labelled by then."""

    def build(width: int) -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)))

    plan = LoopPlan(60, rounds=2, initial=12, k=9, epochs=2, target_epochs=3, sync_every=1)
    network = build(16)
    own, dense = rates(build(8)), rates(network)
    ledger = run(plan, network, 0.5)
    estimated = own.score * sum(plan.labels[1:])
    assert spent(ledger, "recalibrate") == estimated
    recorded = ledger.totals()["total"]["macs"]
    assert recorded == proxy_cost(plan, own, dense).total + probes(ledger, own, dense) + estimated
