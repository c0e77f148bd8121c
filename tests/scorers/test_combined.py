"""Combinators do what their oracles say, whatever they are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import class_balanced, class_standardised, cost_aware, mixture, two_stage

from prunefuse_al.errors import BudgetError, InputError
from prunefuse_al.scorers import (
    CCS,
    D2,
    ClassBalanced,
    ClassStandardised,
    CostAware,
    Mixture,
    TwoStage,
    class_budgets,
    entropy,
    get_scorer,
    margin,
    score_per_cost,
    standardised_by_class,
)
from prunefuse_al.types import Signals

tied_logits = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, -1e4, 1e4]), min_size=3, max_size=3), min_size=1, max_size=12
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def signals_of(logits, labels=None):
    return Signals(torch.arange(len(logits)) * 7 + 2, logits=logits, labels=labels)


def positions(selection):
    return ((selection.indices - 2) // 7).tolist()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=7), seed=st.integers(0, 3), data=st.data())
def test_budgets_are_as_equal_as_classes_allow(sizes, seed, data):
    k = data.draw(st.integers(0, sum(sizes)))
    budgets = class_budgets(torch.tensor(sizes), k, rng=seed)
    assert budgets.sum() == k
    assert (budgets <= torch.tensor(sizes)).all()
    assert sorted(budgets.tolist()) == class_balanced.budget_multiset(sizes, k)


@given(logits=tied_logits, data=st.data())
def test_class_balanced_takes_the_best_of_each_class_in_turn(logits, data):
    n = len(logits)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    k = data.draw(st.integers(1, n))
    picked = positions(ClassBalanced("margin").select(signals_of(logits, labels), k))
    classes, sizes = labels.unique(return_counts=True)
    budgets = dict(zip(classes.tolist(), class_budgets(sizes, k).tolist(), strict=True))
    want = class_balanced.select(margin(logits).tolist(), labels.tolist(), budgets)
    assert {label: [i for i in picked if labels[i] == label] for label in want} == want
    turns = [sum(labels[j] == labels[i] for j in picked[: picked.index(i)]) for i in picked]
    assert turns == sorted(turns)


@given(
    scores=st.lists(st.one_of(st.integers(-9, 9), st.sampled_from([-1e4, 1e4])), min_size=1, max_size=14),
    size=st.sampled_from([1e-200, 1.0, 1e200]),
    data=st.data(),
)
def test_class_standardised(scores, size, data):
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores)))
    got = standardised_by_class(torch.tensor(scores, dtype=torch.float64) * size, torch.tensor(labels))
    np.testing.assert_allclose(got, class_standardised.score([float(s) for s in scores], labels), rtol=1e-9, atol=1e-9)


def test_a_class_of_low_scores_is_not_left_out():
    dynamics = {"moso": torch.tensor([100.0, 101.0, 102.0, 1.0, 2.0, 9.0])}
    signals = Signals(torch.arange(6) + 3, labels=torch.tensor([0, 0, 0, 1, 1, 1]), dynamics=dynamics)
    picked = ClassStandardised().select(signals, 2)
    assert picked.indices.tolist() == [8, 5]
    assert picked.scores.tolist() == pytest.approx([5 / (38 / 3) ** 0.5, 1.5**0.5])
    assert get_scorer("moso").select(signals, 2).indices.tolist() == [5, 4]


@given(logits=tied_logits, share=st.floats(0, 1), data=st.data())
def test_mixture(logits, share, data):
    k = data.draw(st.integers(1, len(logits)))
    picked = Mixture("margin", "entropy", share=share).select(signals_of(logits), k)
    assert positions(picked) == mixture.select(margin(logits).tolist(), entropy(logits).tolist(), k, share)


@given(logits=tied_logits, keep=st.floats(1, 5), data=st.data())
def test_two_stage(logits, keep, data):
    k = data.draw(st.integers(1, len(logits)))
    picked = TwoStage("margin", "entropy", keep=keep).select(signals_of(logits), k)
    assert positions(picked) == two_stage.select(margin(logits).tolist(), entropy(logits).tolist(), k, keep)


@given(logits=tied_logits, seed=st.integers(0, 99))
def test_cost_aware(logits, seed):
    costs = np.random.default_rng(seed).uniform(0.1, 10, 7 * len(logits) + 2)
    own = CostAware("entropy", costs).score(signals_of(logits))
    want = cost_aware.score(entropy(logits).tolist(), costs[2::7][: len(logits)])
    np.testing.assert_allclose(own, want, rtol=1e-12)


def test_the_parts_of_a_random_mixture_do_not_repeat_each_other():
    """Both parts draw from one generator: two parts with equal seeds would pick the same rows of what they see."""
    signals = Signals(torch.arange(1000))
    first, second = Mixture("random", "random").select(signals, 20, rng=0).indices.split(10)
    assert first.tolist() != second.tolist()
    assert len(set(first.tolist() + second.tolist())) == 20
    again = Mixture("random", "random").select(signals, 20, rng=0).indices
    assert torch.equal(torch.cat([first, second]), again)


def test_costs_of_any_kind_make_equal_scorers():
    given_ = [[1, 2, 3.5], np.array([1, 2, 3.5]), torch.tensor([1, 2, 3.5])]
    one, other, third = (CostAware("margin", costs) for costs in given_)
    assert one == other == third
    assert hash(one) == hash(other)
    assert one != CostAware("margin", [1, 2, 4])
    assert repr(CostAware("margin", np.ones(1001))) == "CostAware(Margin(), <1,001 costs>)"
    with pytest.raises(ValueError, match="read-only"):
        one.costs[0] = 9


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda: TwoStage("margin", "random", keep=0.5), "keep=0.5; pass how many candidates stay for each pick"),
        (lambda: TwoStage("margin", "random", keep=float("nan")), "keep=nan"),
        (lambda: TwoStage("margin", "entrophy"), "did you mean 'entropy'"),
        (lambda: Mixture(share=1.2), "share=1.2; .* 0 to 1"),
        (lambda: ClassBalanced(3), "scorer=3 has no usable"),
        (lambda: ClassStandardised("k_center"), r"KCenter\(\) gives picks and no score"),
        (lambda: CostAware("random", [1.0]), r"Random\(\) gives picks and no score"),
        (lambda: CostAware("margin", [1.0, 0.0, -1.0]), r"costs of shape \(3,\); entry 1 is 0, 2 are bad"),
        (lambda: CostAware("margin", [1.0, float("nan")]), "entry 1 is nan"),
        (lambda: CostAware("margin", [[1.0]]), r"shape \(1, 1\); pass one positive number"),
        (lambda: CostAware("margin", [1.0] * 5).score(signals_of(torch.zeros(2, 2))), "5 costs .* candidate 9"),
        (lambda: score_per_cost(torch.tensor([1.0, -2.0]), torch.ones(2)), r"1 of 2 scores are below 0 \(lowest -2\)"),
        (lambda: ClassBalanced().select(signals_of(torch.zeros(4, 2)), 2), "reads signals.labels, but it is None"),
        (
            lambda: ClassBalanced().select(signals_of(torch.zeros(4, 2), torch.zeros(4)), 2),
            "dtype torch.float32 for 4 samples; expected one class number",
        ),
    ],
)
def test_what_cannot_be_combined_is_said(make, phrase):
    with pytest.raises(InputError, match=phrase):
        make()


def test_more_than_there_is_cannot_be_shared_out():
    with pytest.raises(BudgetError, match="k=5 but the classes hold 4 samples"):
        class_budgets(torch.tensor([1, 3]), 5)
    for name in ("class_balanced", "mixture"):
        with pytest.raises(BudgetError, match="k=5 but there are 4 candidates"):
            get_scorer(name).select(signals_of(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), 5)


@pytest.mark.parametrize("made", [CCS, D2, ClassBalanced, ClassStandardised, lambda part: CostAware(part, [1.0])])
@pytest.mark.parametrize("part", ["margin", "ml_entropy", "aum"])
def test_what_is_made_of_a_scorer_reads_what_that_reads(made, part):
    whole, own = made(part), get_scorer(part)
    assert whole.needs >= own.needs
    assert whole.outputs == getattr(own, "outputs", "softmax")
    assert whole.dynamics == getattr(own, "dynamics", frozenset())
