"""The arithmetic of a plan: against a loop simulated row by row, and against the table in the project's reference."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import seeded
from hypothesis import given
from hypothesis import strategies as st

from prunefuse_al import prune
from prunefuse_al.advisor import LoopPlan
from prunefuse_al.advisor.loop_costs import EPOCHS, LoopCost, Rates, dense_cost, proxy_cost, svp_cost
from prunefuse_al.costs.ledger import CostLedger, CostRow, macs
from prunefuse_al.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from networks import ResNet, cifar_resnet


def rates(shared: Any) -> st.SearchStrategy[Rates]:
    return st.builds(Rates, st.integers(1, 50), st.integers(1, 50), shared)


@st.composite
def plans(draw: st.DrawFn) -> LoopPlan:
    rounds, optional = draw(st.integers(1, 5)), st.none() | st.integers(1, 4)
    initial, steps = draw(st.integers(1, 6)), draw(st.lists(st.integers(1, 6), min_size=rounds, max_size=rounds))
    alike = draw(st.booleans())
    return LoopPlan(
        pool=initial + sum(steps) + draw(st.integers(0, 9)) + 30 * alike,
        rounds=rounds,
        initial=initial,
        k=steps[0] if alike else steps,
        epochs=draw(st.integers(1, 4)),
        target_epochs=draw(optional),
        dense_epochs=draw(optional),
        sync_every=draw(optional),
    )


def simulated(plan: LoopPlan, own: Rates, dense: Rates, arm: str) -> CostLedger:
    """Go through the loop as a selector would, one row of data after the other."""
    ledger, labelled = CostLedger(), plan.initial
    steps = [plan.k] * plan.rounds if isinstance(plan.k, int) else list(plan.k)  # type: ignore[arg-type]
    target_epochs = plan.target_epochs or plan.epochs
    epochs = (plan.dense_epochs or plan.epochs) if arm == "dense" else plan.epochs

    def pass_through(number: int, stage: str, price: float, rows: int, times: int = 1) -> None:
        spent = 0.0
        for _ in range(times):
            for _ in range(rows):
                spent += price
        ledger.extend([CostRow(number, stage, "", 0.0, rows * times, int(spent), 0, 0, 0, 0)])

    to_cut, target_made = arm == "v", False
    for number in range(1, plan.rounds + 2):
        last = number == plan.rounds + 1
        if arm == "svp" and last:
            break
        if to_cut:
            pass_through(number, "prune", own.cut, 1)
        pass_through(number, "train_proxy", own.train, labelled, epochs)
        to_cut = target_made = False
        if arm == "v" and plan.sync_every is not None and number % plan.sync_every == 0:
            pass_through(number, "sync", dense.train, labelled, target_epochs)
            to_cut = target_made = True
        if not last:
            pass_through(number, "score", own.score, plan.pool - labelled)
            labelled += steps[number - 1]
    if arm != "dense" and not target_made:
        pass_through(plan.rounds + 1, "train_target", dense.train, labelled, target_epochs)
    return ledger


@given(plans(), rates(st.integers(0, 9)), rates(st.just(0)))
def test_arithmetic_equals_a_loop_simulated_row_by_row(plan: LoopPlan, own: Rates, dense: Rates) -> None:
    loop = simulated(plan, dense, dense, "dense")
    assert dense_cost(plan, dense) == LoopCost(loop.totals()["total"]["macs"], 0.0)
    for arm, cost in (("v", proxy_cost(plan, own, dense)), ("svp", svp_cost(plan, own, dense))):
        walked = simulated(plan, own, dense, arm)
        assert cost.target == walked.totals().get("train_target", {"macs": 0})["macs"]
        assert cost.total == walked.totals()["total"]["macs"]
        assert walked.ratio(loop) == pytest.approx(cost.selection / dense_cost(plan, dense).total)
        assert walked.ratio(loop, total=True) == pytest.approx(cost.total / dense_cost(plan, dense).total)


@given(plans(), rates(st.just(0)), st.integers(1, 50))
def test_more_syncs_and_dearer_proxies_never_cost_less(plan: LoopPlan, dense: Rates, extra: int) -> None:
    thin, dear = Rates(1, 1), Rates(1 + extra, 1 + extra)
    assert proxy_cost(plan, thin, dense).total < proxy_cost(plan, dear, dense).total
    without = LoopPlan(**{**vars(plan), "sync_every": None})
    more = proxy_cost(plan, thin, dense).total - proxy_cost(without, thin, dense).total
    assert more >= 0
    assert (more == 0) == (plan.synced in ((), plan.labels[-1:]))  # the target itself is no extra


TABLE = {  # MACs kept; V1, V2 with T = 1, V2 with T = 2 over the dense loop (derived, not measured)
    0.3: (0.473, 0.80, 1.46, 1.19),
    0.4: (0.341, 0.67, 1.32, 1.06),
    0.5: (0.251, 0.58, 1.23, 0.97),
    0.6: (0.145, 0.47, 1.13, 0.87),
    0.7: (0.077, 0.40, 1.06, 0.80),
    0.8: (0.036, 0.36, 1.02, 0.76),
}


DRAWN = (5000, 10_000, 15_000, 20_000, 25_000)


def as_the_table_counts(every: int, own: Rates, dense: Rates) -> float:
    """Return the cost of V2 over the dense loop where rounds are counted from the first 5,000 labels.

    The proxy trained on the 1,000 start labels chooses, but belongs to no round: V2 begins after it, so T = 1 makes
    targets of 5,000, 10,000, ..., 25,000 labels and T = 2 of 10,000, 20,000 and, at the end, 25,000.
    """
    start = EPOCHS * 1000 * own.train + 49_000 * own.score
    rest = LoopPlan(rounds=4, initial=5000, k=5000, sync_every=every)
    assert rest.labels == DRAWN
    return (start + proxy_cost(rest, own, dense).total) / dense_cost(LoopPlan(), dense).total


@functools.cache
def resnet56(ratio: float = 0.0) -> tuple[ResNet, Rates]:
    """Return ResNet-56 with every width times 1 - ratio, rounded down, and what a row costs it."""
    widths = tuple(int(width * (1 - ratio) + 1e-9) for width in (16, 32, 64))
    network = seeded(lambda: ResNet((9, 9, 9), widths, 3, 10, preactivation=True))  # type: ignore[arg-type]
    forward, backward = macs(network, torch.zeros(2, 3, 32, 32))
    return network, Rates(forward + backward, forward)


@pytest.fixture(scope="module")
def dense() -> Rates:
    return resnet56()[1]


@pytest.mark.parametrize("ratio", TABLE)
def test_the_table_of_resnet_56_in_the_papers_protocol(ratio: float, dense: Rates) -> None:
    kept, v1, every_round, every_other = TABLE[ratio]
    network, own = resnet56(ratio)
    assert own.score / dense.score == pytest.approx(kept, abs=5e-4)
    assert LoopPlan().labels == (1000, *DRAWN) == (1000, 5000, 10_000, 15_000, 20_000, 25_000)
    assert round(proxy_cost(LoopPlan(), own, dense).total / dense_cost(LoopPlan(), dense).total, 2) == v1
    for every, share in ((1, every_round), (2, every_other)):
        assert round(as_the_table_counts(every, own, dense), 2) == share, network


@pytest.mark.parametrize(
    ("every", "here", "there"), [(1, (1000, *DRAWN), DRAWN), (2, DRAWN[::2], (*DRAWN[1::2], 25_000))]
)
def test_a_selector_counts_the_start_as_a_round_and_the_table_does_not(
    every: int, here: tuple[int, ...], there: tuple[int, ...], dense: Rates
) -> None:
    """The targets' labels are all that differs, so the shares do by those labels over what the dense loop pays for."""
    plan, (_, own) = LoopPlan(sync_every=every), resnet56(0.5)
    assert plan.synced == here
    extra = (sum(here) - sum(there)) * EPOCHS * dense.train
    found = proxy_cost(plan, own, dense).total - extra
    assert found / dense_cost(plan, dense).total == pytest.approx(as_the_table_counts(every, own, dense), rel=1e-12)


def test_the_hand_shrunk_network_costs_what_the_pruned_one_does() -> None:
    example = torch.zeros(2, 3, 32, 32)
    pruned = prune(seeded(lambda: cifar_resnet(20)), example, 0.4).module
    shrunk = seeded(lambda: ResNet((3, 3, 3), (9, 19, 38), 3, 10, preactivation=True))
    assert macs(pruned, example) == macs(shrunk, example)


def test_v1_pays_from_about_an_eighth_to_a_fifth_and_v2_every_round_never_does(dense: Rates) -> None:
    def total(ratio: float, **options: Any) -> float:
        plan = LoopPlan(**options)
        return proxy_cost(plan, resnet56(ratio)[1], dense).total / dense_cost(plan, dense).total

    assert total(0.1) > 1
    assert total(0.2) < 1
    assert total(0.8, sync_every=1) > 1
    assert total(0.8, sync_every=6) == total(0.8)  # the only sync makes the target


def test_labels_keep_their_share_of_another_pool() -> None:
    assert LoopPlan(pool=5000).labels == (100, 500, 1000, 1500, 2000, 2500)
    assert LoopPlan(rounds=10).labels[-1] == 50_000
    assert LoopPlan(pool=100, initial=10, k=np.array([5, 7]), rounds=2) == LoopPlan(100, 2, 10, (5, 7))
    assert "V2 with sync_every=2, pool of 50,000, labels 1,000 -> 5,000" in str(LoopPlan(sync_every=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 100, "initial": 40, "k": 30, "rounds": 3}, "130 labels, but the pool has 100 rows"),
        ({"rounds": 11}, "labels, but the pool has 50,000 rows"),
        ({"initial": 6000}, r"k \(a tenth of the pool, less what is labelled\)=-1000"),
        ({"k": (10, 20)}, "k has 2 numbers for 5 rounds"),
        ({"k": 0}, "k=0; pass a whole number from 1"),
        ({"rounds": 2, "k": (10, 2.5)}, r"k=2\.5"),
        ({"pool": 0}, "pool=0"),
        ({"rounds": True}, "rounds=True"),
        ({"epochs": 1.5}, r"epochs=1\.5"),
        ({"sync_every": -1}, "sync_every=-1"),
    ],
)
def test_an_impossible_plan_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoopPlan(**options)
