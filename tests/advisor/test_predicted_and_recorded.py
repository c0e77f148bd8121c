"""What a plan predicts is what the ledger of a real run records, multiply-accumulate for multiply-accumulate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import blobs, mlp, seeded
from torch import nn

from prunefuse_al import CostLedger, PrunedProxySelector, TorchTrainer, advise
from prunefuse_al.advisor import FewerEpochs, LoopPlan
from prunefuse_al.advisor.loop_costs import Rates, Repairing, dense_cost, proxy_cost, svp_cost, with_fewer_epochs
from prunefuse_al.costs.ledger import macs
from prunefuse_al.proxies import Dense, Probe
from prunefuse_al.pruning import Imitation

X, Y = blobs(60)
PROBED = 2  # rows a TorchTrainer looks at before it trains: what the prediction states to leave out
LOOKED_AT = 30  # rows, of each network, by which a repair sees what there is to do: left out as well
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
    """Return what the rows cost by which every training was checked, and that first heads were fitted to."""
    prices = {"train_proxy": own.score, "sync": dense.score, "train_target": dense.score}
    return spent(ledger, "head") + sum(PROBED * prices.get(row.stage, 0) for row in ledger.rows())


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


# ---- other kinds, and what is paid once

SYNCS = [None, 1, 2]


def blocks(width: int) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            *(nn.Linear(6, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, 3),
        )
    )


def walked(plan: LoopPlan, dense: Rates, head: Rates) -> tuple[float, float]:
    """Go through a loop with a probe row by row: MACs of features, and of all choosing but syncs."""
    known: set[int] = set()
    features = spent = 0.0
    for number, labelled in enumerate(plan.labels, 1):
        rows = range(labelled)  # the first are labelled first: which ones does not matter here
        for row in [*rows, *(range(plan.pool) if number <= plan.rounds else ())]:
            features += dense.score * (row not in known)
            known.add(row)
        spent += sum(head.train for _ in range(plan.epochs or 0) for _ in rows)
        spent += sum(head.score for _ in range(labelled, plan.pool)) * (number <= plan.rounds)
        if plan.sync_every and number % plan.sync_every == 0:
            known.clear()
    return features, features + spent


@pytest.mark.parametrize("every", SYNCS)
@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
def test_a_probe_reads_the_pool_once_for_each_trunk(every: int | None) -> None:
    plan = LoopPlan(60, rounds=3, initial=12, k=(9, 3, 11), epochs=2, target_epochs=3, sync_every=every)
    network = mlp(6, 32, 16, 3)
    dense, head = rates(network), Rates(16 * 3 * 2, 16 * 3)  # of a head no gradient of its input is needed
    own = Rates(head.train, head.score, features=dense.score)
    ledger, cost = run(plan, network, 0.5, proxy=Probe()), proxy_cost(plan, own, dense)
    assert spent(ledger, "features") == cost.once == walked(plan, dense, own)[0]
    assert cost.selection - plan.trained("sync") * dense.train == walked(plan, dense, own)[1]
    assert ledger.totals()["total"]["macs"] == cost.total + probes(ledger, head, dense)


@pytest.mark.parametrize("every", SYNCS)
@pytest.mark.parametrize("how", [True, {"rows": 25}, {"distil": 2}, {"distil": Imitation(epochs=1, on="outputs")}])
@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
def test_each_cut_is_repaired_on_the_pool(how: Any, every: int | None) -> None:
    plan = LoopPlan(60, rounds=2, initial=12, k=9, epochs=2, target_epochs=3, sync_every=every)
    network = blocks(16)
    dense, own = rates(network), rates(blocks(8))
    given = {"rows": 60, "distil": None} | ({} if how is True else how)
    imitated = Imitation(epochs=given["distil"] or 0) if not isinstance(given["distil"], Imitation) else given["distil"]
    asked = Repairing(given["rows"], 60, imitated.epochs, imitated.on == "both")
    thin = Rates(own.train, own.score, cut=asked.cost(own, dense))
    ledger = run(plan, network, 0.5, pretrained=True, unlabelled=X, repair=how, cross="copy")
    cost = proxy_cost(plan, thin, dense)
    repairs = [row for row in ledger.rows() if row.stage == "repair"]
    assert len(repairs) == plan.cuts
    # Imitating, the proxy is in eval mode, of which a ledger counts the way there alone.
    back = plan.cuts * imitated.epochs * 60 * (own.train - own.score)
    looked = sum(row.macs for row in repairs) + back - cost.once
    assert 0 <= looked <= plan.cuts * LOOKED_AT * (dense.score + own.score)
    assert ledger.totals()["total"]["macs"] + back == cost.total + probes(ledger, own, dense) + looked


def test_fewer_epochs_of_the_dense_network() -> None:
    plan = LoopPlan(60, rounds=3, initial=12, k=9, epochs=4, target_epochs=3)
    network, fewer = mlp(6, 32, 16, 3), with_fewer_epochs(plan, 0.5)
    dense = rates(network)
    ledger, cost = run(fewer, network, 0.5, final_fit=False, proxy=Dense()), svp_cost(fewer, dense, dense)
    assert (fewer.epochs, fewer.target_epochs, fewer.dense_epochs) == (2, 3, 4)
    assert ledger.totals()["total"]["macs"] == cost.total + probes(ledger, dense, dense)
    assert cost.selection == 2 * (12 + 21 + 30) * dense.train + (48 + 39 + 30) * dense.score


@pytest.mark.parametrize("every", SYNCS)
@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.CostWarning")
def test_advise_predicts_what_a_selector_records(every: int | None) -> None:
    """The rows of `advise` itself, of each kind, against the ledger of a loop that was run."""
    plan = LoopPlan(60, rounds=3, initial=12, k=9, epochs=4, target_epochs=3, sync_every=every)
    network = blocks(16)
    trainer = TorchTrainer(epochs=4, batch_size=8, progress=False, device="cpu")
    found = advise(
        network, X[:2], ratios=(0.5,), plan=plan, pretrained=True, unlabelled=X, trainer=trainer, repeats=1,
        kinds=("pruned", "unrepaired", "probe", FewerEpochs(0.5)),
    )  # fmt: skip
    rows, dense = {row.name: row for row in found.every}, rates(network)
    told: dict[str, dict[str, Any]] = {
        "p=0.5": {"pretrained": True, "unlabelled": X, "cross": "copy"},
        "p=0.5 as cut": {"pretrained": True, "repair": False, "cross": "copy"},
        "probe": {"proxy": Probe()},
    }
    for name, options in told.items():
        ledger = run(plan, network, 0.5, **options)
        row = rows[name]
        own = Rates(row.forward_macs + row.backward_macs, row.forward_macs)
        beside = ledger.totals()["total"]["macs"] - probes(ledger, own, dense) - row.macs.total
        assert 0 <= beside <= plan.cuts * LOOKED_AT * (dense.score + own.score), name
    short = with_fewer_epochs(replace(plan, sync_every=None), 0.5)
    ledger = run(short, network, 0.5, final_fit=False, proxy=Dense())
    assert ledger.totals()["total"]["macs"] == rows["0.5 of epochs"].macs.total + probes(ledger, dense, dense)
