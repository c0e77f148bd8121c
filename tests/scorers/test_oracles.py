"""Scorers agree with their oracles on random, extreme and tied inputs."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.random import inclusion_probability

import prunefuse_al.scorers as scorers
from prunefuse_al.scorers import SCORERS, Random, get_scorer
from prunefuse_al.scorers._select import top_k
from prunefuse_al.types import Signals

POINT = ["least_confidence", "margin", "entropy"]
rows = st.integers(2, 6).flatmap(
    lambda c: st.lists(
        st.lists(
            st.one_of(st.floats(-1e4, 1e4, width=32), st.sampled_from([0.0, 1.0, -1e4, 1e4])), min_size=c, max_size=c
        ),
        min_size=1,
        max_size=8,
    )
)


def oracle(name, logits):
    return importlib.import_module(f"oracles.{name}").score(logits.tolist())


def signals(logits):
    return Signals(torch.arange(len(logits)) * 3 + 5, logits=logits)


@pytest.mark.parametrize("name", POINT)
@given(rows=rows)
def test_double_precision_agrees_to_rounding(name, rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(
        getattr(scorers, name)(logits), torch.tensor(oracle(name, logits), dtype=torch.float64), rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize("name", POINT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_lower_precisions_agree_with_the_same_values_in_double(name, dtype, classes):
    rng = torch.Generator().manual_seed(classes)
    logits = (20 * torch.randn(30, classes, generator=rng)).to(dtype)
    got = getattr(scorers, name)(logits)
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), torch.tensor(oracle(name, logits.double())).double(), rtol=1e-4, atol=1e-30
    )


@pytest.mark.parametrize("name", POINT)
@given(rows=rows, seed=st.integers(0, 9), data=st.data())
def test_selection_is_the_highest_oracle_scores(name, rows, seed, data):
    logits = torch.tensor(rows, dtype=torch.float64)
    k = data.draw(st.integers(1, len(rows)))
    picked = get_scorer(name).select(signals(logits), k, rng=seed)
    want = sorted(oracle(name, logits), reverse=True)[:k]
    np.testing.assert_allclose(picked.scores, want, rtol=1e-9, atol=1e-300)
    positions = (picked.indices - 5) // 3
    np.testing.assert_array_equal(getattr(scorers, name)(logits)[positions], picked.scores)


@pytest.mark.parametrize("name", POINT)
def test_bounds_and_extremes(name):
    function = getattr(scorers, name)
    for classes in (2, 3, 1000):
        highest = {"least_confidence": 1 - 1 / classes, "margin": 1.0, "entropy": math.log(classes)}[name]
        assert function(torch.zeros(1, classes)).item() == pytest.approx(highest)
    certain = torch.tensor([[1e4, -1e4], [3e38, -3e38]])
    assert function(certain).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", POINT)
def test_confident_samples_keep_their_order(name):
    """1 - max(softmax) in single precision is 0 from a gap of 17 on; the three scores still tell them apart."""
    gaps = torch.arange(18.0, 80.0, 2.0)
    logits = torch.stack([gaps, torch.zeros_like(gaps)], 1)
    scores = getattr(scorers, name)(logits)
    assert (scores.diff() < 0).all()
    assert (scores > 0).all()


def test_ties_are_broken_by_the_generator_or_by_the_lower_row():
    scores = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0])
    assert top_k(scores, 3).tolist() == [1, 0, 2]
    seen = {tuple(top_k(scores, 3, rng=seed).tolist()) for seed in range(60)}
    assert seen == {(1, a, b) for a in (0, 2, 3) for b in (0, 2, 3) if a != b}


@given(values=st.lists(st.integers(0, 4), min_size=1, max_size=30), data=st.data())
def test_top_k_is_a_stable_sort(values, data):
    k = data.draw(st.integers(1, len(values)))
    want = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert top_k(torch.tensor(values, dtype=torch.float32), k).tolist() == want


def test_random_is_uniform():
    counts = torch.zeros(10)
    for seed in range(2000):
        picked = Random().select(Signals(torch.arange(10)), 3, rng=seed)
        counts[picked.indices] += 1
    expected = 2000 * inclusion_probability(10, 3)
    assert (counts - expected).abs().max() < 4 * math.sqrt(expected * 0.7)


@pytest.mark.parametrize("name", POINT)
@pytest.mark.parametrize(
    ("logits", "phrase"),
    [
        (torch.zeros(4, 1), r"shape \[4, 1\] for 4 samples; expected \[samples, classes\] with two classes"),
        (torch.zeros(4), r"shape \[4\] for 4 samples"),
        (torch.zeros(3, 2), r"shape \[3, 2\] for 4 samples"),
        (
            torch.tensor([[0.0, 1], [float("nan"), 0], [0, 0], [0, float("inf")]]),
            r"logits of 2 of 4 samples are NaN or infinite: indices \[8, 14\]; look at",
        ),
    ],
)
def test_unusable_logits_are_refused(name, logits, phrase):
    with pytest.raises(ValueError, match=phrase):
        get_scorer(name).select(Signals(torch.arange(4) * 3 + 5, logits=logits), 1)


@pytest.mark.parametrize(
    ("k", "phrase"),
    [(5, "k=5 but there are 4 candidates; ask for 1 to 4"), (0, "k=0"), (1.5, "k=1.5 is a float"), ("2", "k='2'")],
)
@pytest.mark.parametrize("name", SCORERS)
def test_bad_budgets_are_refused(name, k, phrase):
    with pytest.raises(ValueError, match=phrase):
        get_scorer(name).select(signals(torch.zeros(4, 2)), k)
