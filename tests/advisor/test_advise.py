"""`advise` end to end on small networks: what it counts, predicts, ranks and chooses, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import PlainTrainer, blobs, mlp, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, Selection, TorchTrainer, advise, prune
from prunefuse_al.advisor import Advice, AdviceRow, LoopPlan, Prediction, Target
from prunefuse_al.advisor.agreement import Agreement, compare
from prunefuse_al.advisor.arguments import resolved
from prunefuse_al.advisor.loop_costs import Rates, dense_cost, proxy_cost, svp_cost
from prunefuse_al.advisor.timing import Spread, Timing
from prunefuse_al.costs.ledger import CostLedger, CostRow, macs
from prunefuse_al.errors import InputError, PruneFuseError, PruningError, UnsupportedModelError

X, Y = blobs(80)
PLAN = LoopPlan(pool=300, rounds=3, initial=20, k=40)
TRAINER = TorchTrainer(epochs=4, batch_size=16, progress=False, device="cpu")
EXAMPLE = X[:2]


def dense() -> nn.Module:
    return mlp(6, 48, 32, 3)


def small(**options: Any) -> Advice:
    options = {"ratios": (0.5,), "plan": PLAN, "trainer": TRAINER, "repeats": 1, **options}
    target = options.pop("target", None)
    return advise(options.pop("model", dense()), options.pop("example_inputs", EXAMPLE), target, **options)


@pytest.fixture(scope="module")
def advice() -> Advice:
    options: dict[str, Any] = {"labelled": (X, Y), "proxy": mlp(6, 5, 3), "trial_epochs": 2}
    return small(ratios=(0.75, 0.25, 0.5), target=Target(cost=0.5), repeats=2, **options)


def test_rows_are_what_prune_gives_in_ascending_order(advice: Advice) -> None:
    assert [row.name for row in (advice.dense, *advice.rows, advice.svp)] == [
        "dense",
        "p=0.25",
        "p=0.5",
        "p=0.75",
        "svp",
    ]
    for row in advice.rows:
        proxy = prune(dense(), EXAMPLE, row.pruning_ratio)
        assert row.parameters == proxy.report().proxy_parameters
        assert (row.forward_macs, row.backward_macs) == macs(proxy.module, EXAMPLE)
        assert row.prune_seconds > 0
    assert advice.dense.parameters == sum(p.numel() for p in dense().parameters())
    assert advice.plan == replace(PLAN, epochs=4)


def test_predictions_are_the_plans_arithmetic_of_counts_and_of_times(advice: Advice) -> None:
    def of_macs(row: AdviceRow) -> Rates:
        return Rates(row.forward_macs + row.backward_macs, row.forward_macs)

    def of_seconds(row: AdviceRow) -> Rates:
        base = advice.dense.timing
        train, score = row.timing.train_share.median, row.timing.score_share.median
        return Rates(base.train.median * train, base.score.median * score, row.prune_seconds)

    for measure, rates in (("macs", of_macs), ("seconds", of_seconds)):
        base = rates(advice.dense)
        loop, svp = dense_cost(advice.plan, base), svp_cost(advice.plan, rates(advice.svp), base)
        for row in (advice.dense, *advice.rows, advice.svp):
            cost = {"dense": loop, "svp": svp}.get(row.name) or proxy_cost(advice.plan, rates(row), base)
            found: Prediction = getattr(row, measure)
            assert (found.selection, found.total) == pytest.approx((cost.selection, cost.total))
            assert found.selection_share == pytest.approx(cost.selection / loop.total)
            assert found.total_share == pytest.approx(cost.total / loop.total)
            assert found.over_svp == pytest.approx(cost.total / svp.total)
            assert found.pays == (cost.total < loop.total)


def test_it_says_what_it_cost_itself(advice: Advice) -> None:
    totals = advice.costs.totals()
    assert set(totals) == {"prune", "measure", "trial", "total"}
    assert {row.round for row in advice.costs.rows()} == {0}
    trained = [row for row in advice.costs.rows() if row.stage == "trial" and row.backward_macs]
    assert len(trained) == 6  # every network, and the dense one twice
    forward, backward = macs(dense(), EXAMPLE)
    assert trained[0].macs == 2 * 40 * (forward + backward) + 2 * forward  # 2 epochs on half of 80 rows
    assert totals["measure"]["macs"] > 0
    assert "this advice took" in str(advice)
    assert "nothing counted" not in str(advice.costs)
    assert advice.costs.verdict() == ""


def test_prints_exports_and_says_which_it_takes(advice: Advice) -> None:
    text = str(advice)
    for words in ("p=0.75", "of SvP", "Spearman", "40 held-out samples", "pool of 300, labels 20 -> 60 -> 100 -> 140"):
        assert words in text
    assert text.count("\n") < 16
    assert max(map(len, text.splitlines())) < 260
    dicts = advice.to_dicts()
    assert [row["name"] for row in dicts if row["best"]] == ["p=0.75"] == [advice.best.name]
    assert {len(row) for row in dicts} == {len(dicts[0])}
    assert json.loads(json.dumps(dicts))[1]["macs_total_share"] == advice.rows[0].macs.total_share
    assert repr(advice) == "<Advice on 3 pruning ratios, best p=0.75>"


def test_the_trial_is_the_selectors_own_work_and_repeats_itself(advice: Advice) -> None:
    again = small(ratios=(0.75,), labelled=(X, Y), trial_epochs=2)
    assert again.rows[0].agreement == advice.rows[-1].agreement
    assert again.dense.agreement == advice.dense.agreement
    assert (again.trial.held_out, again.trial.trained_on) == (40, 40)
    assert again.trial.k == round(40 * 40 / 280)  # the plan's first choice: 40 of 280
    other = small(ratios=(0.75,), labelled=(X, Y), trial_epochs=2, random_state=1)
    assert other.rows[0].agreement != again.rows[0].agreement


def test_the_network_is_left_alone() -> None:
    network = mlp(6, 48, 3)
    network.eval()
    before = copy.deepcopy(network.state_dict())
    small(model=network, labelled=(X[:20], Y[:20]), trial_epochs=1)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert not network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_none_meets_the_target_and_the_table_is_still_there() -> None:
    found = small(ratios=(0.25, 0.5), target=0.01)
    assert found.best is None
    assert found.nearest is found.rows[-1]
    text = str(found)
    assert "no ratio meets the target (cost <= 0.01, total <= 1); p=0.5 comes nearest and misses cost" in text
    assert "p=0.25" in text
    assert not any(row["best"] for row in found.to_dicts())
    assert "none meets" in repr(found)


def test_what_does_not_pay_is_said_with_the_reason() -> None:
    single = small(plan={"pool": 300, "rounds": 1, "initial": 5, "k": 100})
    assert "does not pay, for the target is paid on top: p=0.5 (" in str(single)
    assert single.best is None
    synced = small(plan=replace(PLAN, sync_every=1))
    dense, epochs = synced.dense, TRAINER.epochs
    share = epochs * (20 + 60 + 100) * (dense.forward_macs + dense.backward_macs) / dense.macs.total
    assert f"; 3 syncs before the target alone cost {share:.2f}: take a larger sync_every" in str(synced)
    once = small(plan={"pool": 300, "rounds": 1, "initial": 5, "k": 100, "sync_every": 2})
    assert once.rows[0].macs.total == single.rows[0].macs.total  # the sync makes the target, and V1 pays for one too
    assert "does not pay" in str(once)
    assert "alone cost" not in str(once)
    assert "costs alone always favour the largest ratio" in str(synced)


# ---- choosing ----


def row_of(ratio: float, cost: float, seconds: float, total: float, spearman: float, overlap: float) -> AdviceRow:
    spread = Spread(1.0, 1.0, 1.0)
    timing = Timing(spread, spread, spread, spread)
    predicted = Prediction(1.0, 1.0, cost, total), Prediction(1.0, 1.0, seconds, 1.0)
    return AdviceRow(f"p={ratio}", ratio, 1, 1.0, 2.0, 0.0, timing, *predicted, Agreement(spearman, overlap))


def advice_of(rows: list[AdviceRow], target: Target) -> Advice:
    first = row_of(0.0, 1, 1, 1, 1, 1)
    return Advice(tuple(rows), first, None, PLAN, target, None, CostLedger(), 1, "cpu")


numbers = st.floats(0, 2, allow_nan=False)
shares = st.floats(0, 1)
row_values = st.tuples(numbers, numbers, numbers, st.floats(-1, 1) | st.just(float("nan")), shares)
targets = st.builds(
    Target,
    cost=st.none() | numbers,
    seconds=st.none() | numbers,
    total=st.none() | numbers,
    spearman=st.none() | st.floats(-1, 1),
    overlap=st.none() | shares,
)


@given(st.lists(row_values, min_size=1, max_size=6), targets)
def test_the_largest_ratio_that_meets_everything_is_taken(values: list[tuple[float, ...]], target: Target) -> None:
    rows = [row_of((number + 1) / 10, *value) for number, value in enumerate(values)]
    wanted = None
    for row, (cost, seconds, total, spearman, overlap) in zip(rows, values, strict=True):
        asked = (target.cost, target.seconds, target.total)
        met = all(bound is None or found <= bound for bound, found in zip(asked, (cost, seconds, total), strict=True))
        met &= target.spearman is None or spearman >= target.spearman
        met &= target.overlap is None or overlap >= target.overlap
        wanted = row if met else wanted
    found = advice_of(rows, target)
    assert found.best is wanted
    if wanted is not None:
        assert target.met_by(found.nearest)


def test_the_nearest_misses_least() -> None:
    rows = [row_of(0.3, 0.5, 1, 0.8, 0.9, 0.5), row_of(0.5, 0.3, 1, 0.6, 0.65, 0.5), row_of(0.7, 0.1, 1, 0.4, 0.2, 0.5)]
    assert advice_of(rows, Target(cost=0.2, spearman=0.7)).nearest.name == "p=0.5"
    assert advice_of(rows, Target(cost=0.2, spearman=0.7)).best is None


def test_a_fluke_is_named() -> None:
    rows = [row_of(0.3, 0.5, 1, 0.8, 0.3, 0.5), row_of(0.5, 0.3, 1, 0.6, 0.9, 0.5)]
    found = advice_of(rows, Target(spearman=0.7))
    assert found.best.name == "p=0.5"
    text = str(replace(found, costs=CostLedger([CostRow(0, "measure", "dense", 1.0, 1, 1, 1, 1, 1, 0)])))
    assert "p=0.3, less thin, agreed less than asked" in text


# ---- agreement ----


def naive_ranks(values: list[float]) -> list[float]:
    """Rank from 1; equal values share the mean of their ranks."""
    return [
        1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def naive_spearman(left: list[float], right: list[float]) -> float:
    a, b = naive_ranks(left), naive_ranks(right)
    mean = (len(a) + 1) / 2
    product = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return product / (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12), st.data())
def test_agreement_is_the_textbooks(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    rows = data.draw(st.permutations([100 + 7 * number for number in range(len(pairs))]))
    k = data.draw(st.integers(1, len(pairs)))

    def ranking(column: int) -> Selection:
        scores = dict(zip(rows, (float(pair[column]) for pair in pairs), strict=True))
        order = sorted(rows, key=lambda row: -scores[row])
        return Selection(torch.tensor(order), torch.tensor([scores[row] for row in order]))

    found = compare(ranking(0), ranking(1), k)
    shared = set(ranking(0).indices[:k].tolist()) & set(ranking(1).indices[:k].tolist())
    assert found.overlap == len(shared) / k
    left, right = ([float(pair[column]) for pair in pairs] for column in (0, 1))
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert np.isnan(found.spearman)
    else:
        assert found.spearman == pytest.approx(naive_spearman(left, right))


# ---- networks and trainers of other kinds ----


class _Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(20, 8), mlp(8, 24, 3)

    def forward(self, tokens: Tensor, *, mask: Tensor) -> dict[str, Tensor]:
        kept = self.words(tokens) * mask[..., None]  # [b t d]
        return {"logits": self.body(kept.mean(1))}


def test_several_inputs_by_name_and_whole_numbers() -> None:
    example = {"tokens": torch.arange(12).reshape(3, 4), "mask": torch.ones(3, 4)}
    found = small(model=seeded(_Texts), example_inputs=example)
    assert found.rows[0].timing.train.median > 0
    assert found.rows[0].macs.selection_share < 0.7


def test_any_trainer_and_any_dataset() -> None:
    data = torch.utils.data.TensorDataset(X[:30], Y[:30])
    found = small(trainer=PlainTrainer(epochs=2), labelled=data)
    assert -1 <= found.rows[0].agreement.spearman <= 1
    assert found.plan.epochs == 2
    assert resolved(PLAN, object()) == PLAN  # says nothing of epochs: the paper's 181
    assert "181 epochs" in str(PLAN)


def test_transforms_see_what_the_user_labelled_and_nothing_made_up() -> None:
    def scaled(x: Tensor) -> Tensor:
        assert x.shape[1:] == (2, 6)
        return x.mean(1)

    trainer = TorchTrainer(4, 16, transform=scaled, eval_transform=scaled, progress=False, device="cpu")
    small(trainer=trainer)
    twice = torch.stack([X, X], dim=1)
    small(trainer=trainer, labelled=(twice, Y), trial_epochs=1)


def test_pruning_options_are_passed_on() -> None:
    assert small(round_to=16).rows[0].parameters == prune(dense(), EXAMPLE, 0.5, round_to=16).report().proxy_parameters


# ---- refusals ----

CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "ratio of 1": (lambda: small(ratios=(0.5, 1.0)), InputError, r"holds 1\.0; .*0 < p < 1"),
    "ratio of 0": (lambda: small(ratios=(0,)), InputError, "the dense network .* is always there"),
    "ratio as a word": (lambda: small(ratios=("half",)), InputError, "holds 'half'"),
    "no ratios": (lambda: small(ratios=()), InputError, "is empty"),
    "a ratio twice": (lambda: small(ratios=(0.5, 0.5)), InputError, "twice"),
    "labels beyond the pool": (lambda: small(plan={"pool": 50, "k": 40, "rounds": 2}), InputError, "pool has 50 rows"),
    "unknown field of the plan": (lambda: small(plan={"budget": 5}), InputError, "plan has 'budget'; known: pool"),
    "unknown field of the target": (lambda: small(target={"speed": 1}), InputError, "'speed'; known: cost"),
    "target below 0": (lambda: small(target=-0.1), InputError, r"cost=-0\.1; pass a number from 0"),
    "target as a word": (lambda: small(target="cheap"), InputError, "cost='cheap'"),
    "overlap above 1": (lambda: small(target=Target(overlap=1.5)), InputError, r"overlap=1\.5; .*from 0 to 1"),
    "NaN": (lambda: small(target=float("nan")), InputError, "cost=nan"),
    "agreement without a sample": (lambda: small(target={"overlap": 0.5}), InputError, r"pass labelled=\(X, y\)"),
    "sample without labels": (lambda: small(labelled=X), InputError, "no labels"),
    "sample of three": (lambda: small(labelled=(X[:3], Y[:3])), InputError, "3 rows.*at least 4"),
    "scorer without scores": (lambda: small(labelled=(X, Y), scorer="random"), InputError, "Random gives no score"),
    "unknown scorer": (lambda: small(labelled=(X, Y), scorer="entrophy"), InputError, "did you mean 'entropy'"),
    "repeats of 0": (lambda: small(repeats=0), InputError, "repeats=0; pass a whole number from 1"),
    "seed below 0": (lambda: small(random_state=-1), InputError, "random_state=-1; pass a whole number from 0"),
    "nothing to thin": (lambda: small(model=mlp(6, 3)), PruningError, "nothing"),
    "no network": (lambda: small(model="resnet"), UnsupportedModelError, "found str"),
    "no network for SvP": (lambda: small(proxy="resnet"), UnsupportedModelError, "found str"),
    "a trainer that calls nothing": (lambda: small(trainer=_Idle()), InputError, "fit did not call the network"),
}


class _Idle(PlainTrainer):
    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> float:
        return 0.0


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_words(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, PruneFuseError)


def test_the_advice_can_be_followed() -> None:
    best = small(ratios=(0.25, 0.5), labelled=(X, Y), trial_epochs=1).best
    assert best is not None
    selector = PrunedProxySelector(dense(), best.pruning_ratio, trainer=TRAINER, random_state=0).fit(X, Y)
    assert sum(p.numel() for p in selector.model.parameters()) == best.parameters
    assert list(itertools.islice(selector.query(X, 3), 3))
