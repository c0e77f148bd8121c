"""Scores from training dynamics, and the core-set scorers that stand on them, agree with their oracles."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import aum as aum_oracle
from oracles import el2n as el2n_oracle
from oracles import forgetting as forgetting_oracle
from oracles import grand as grand_oracle
from oracles import moso as moso_oracle

from prunefuse_al.scorers import SCORERS, aum, el2n, forgetting, get_scorer, grand, moso
from prunefuse_al.testing.contracts import example_signals

VALUES = st.one_of(st.floats(-1e4, 1e4, width=32), st.sampled_from([0.0, 1.0, -1e4, 1e4]))


@st.composite
def trainings(draw):
    """Draw logits [t n c], features [n d] at t moments, labels [n] and rates [t]; with ties and extremes."""
    t, n, c, d = (draw(st.integers(low, high)) for low, high in ((1, 12), (1, 4), (2, 4), (1, 3)))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    scale = draw(st.sampled_from([0.0, 1.0, 30.0]))
    logits = scale * torch.randn(t, n, c, generator=rng, dtype=torch.float64)
    logits[0, 0, 0] = draw(VALUES)
    features = draw(st.sampled_from([0.0, 1.0])) * torch.randn(t, n, d, generator=rng, dtype=torch.float64)
    return logits, features, torch.randint(c, (n,), generator=rng), torch.rand(t, generator=rng, dtype=torch.float64)


def same(got, want):
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@given(training=trainings())
def test_aum_el2n_grand_and_moso_agree_in_double_precision(training):
    logits, features, labels, rates = training
    z, h, y = logits.tolist(), features.tolist(), labels.tolist()
    same(aum(logits, labels), aum_oracle.score(z, y))
    same(el2n(logits, labels), el2n_oracle.score(z, y))
    same(grand(logits, features, labels), grand_oracle.score(z, h, y))
    same(moso(logits, features, labels, rates), moso_oracle.score(z, h, y, rates.tolist()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [2, 1000])
def test_lower_precisions_agree_with_the_same_values_in_double(dtype, classes):
    rng = torch.Generator().manual_seed(classes)
    logits = (5 * torch.randn(3, 6, classes, generator=rng)).to(dtype)
    features = torch.randn(3, 6, 4, generator=rng).to(dtype)
    labels = torch.randint(classes, (6,), generator=rng)
    rates = torch.tensor([0.1, 0.05, 0.01], dtype=torch.float64)
    for got, wide in (
        (aum(logits, labels), aum(logits.double(), labels)),
        (el2n(logits, labels), el2n(logits.double(), labels)),
        (grand(logits, features, labels), grand(logits.double(), features.double(), labels)),
        (moso(logits, features, labels, rates), moso(logits.double(), features.double(), labels, rates)),
    ):
        torch.testing.assert_close(got, wide, rtol=1e-5, atol=1e-6)


@given(
    correct=st.integers(1, 9).flatmap(
        lambda t: st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=t, max_size=t)
    )
)
def test_forgetting_agrees(correct):
    assert forgetting(torch.tensor(correct)).tolist() == forgetting_oracle.score(correct)


def test_what_was_never_learnt_is_forgotten_most():
    """CCS's and DeepCore's code give such samples 0, as if they had been learnt at once."""
    every = torch.tensor(list(itertools.product([False, True], repeat=6))).T  # [t n]
    scores = forgetting(every)
    assert scores[0] == 6
    assert (scores[1:] <= 3).all()


def test_el2n_stops_after_ten_epochs_and_aum_does_not():
    logits, labels = torch.zeros(12, 1, 2), torch.zeros(1, dtype=torch.int64)
    logits[10:, 0, 0] = 50.0
    assert el2n(logits, labels).item() == pytest.approx(0.5**0.5)
    assert aum(logits, labels).item() == pytest.approx(2.0)


def test_confident_errors_keep_their_order():
    """1 - q_y in single precision is 0 from a gap of 17 on."""
    gaps = torch.arange(18.0, 80.0, 2.0)
    errors = el2n(torch.stack([gaps, torch.zeros_like(gaps)], 1)[None], torch.zeros(len(gaps), dtype=torch.int64))
    assert (errors.diff() < 0).all()


@pytest.mark.parametrize("name", ["forgetting", "aum", "el2n", "grand", "moso"])
def test_the_class_ranks_what_was_recorded(name):
    signals, scorer = example_signals(frozenset({"dynamics"})), get_scorer(name)
    recorded = signals.dynamics[name]
    easiest_last = -recorded if name == "aum" else recorded
    assert torch.equal(scorer.score(signals), easiest_last)
    picked = scorer.select(signals, 5)
    assert torch.equal(picked.indices, signals.indices[easiest_last.argsort(descending=True)[:5]])
    assert scorer.dynamics == {name}


@pytest.mark.parametrize("name", ["forgetting", "ccs"])
def test_dynamics_that_are_not_there_are_asked_for(name):
    signals, key = example_signals(frozenset({"dynamics"})), {"forgetting": "forgetting", "ccs": "aum"}[name]
    with pytest.raises(ValueError, match=rf"reads signals\.dynamics\['{key}'\], but dynamics is None; record them"):
        get_scorer(name).select(replace(signals, dynamics=None), 2)
    with pytest.raises(ValueError, match="but what was recorded is: correct"):
        get_scorer(name).select(replace(signals, dynamics={"correct": signals.dynamics["correct"]}), 2)
    with pytest.raises(ValueError, match=r"have shape \[3\] for 40 samples"):
        get_scorer(name).select(replace(signals, dynamics={key: torch.zeros(3)}), 2)


@pytest.mark.parametrize("name", ["moderate", "d2"])
@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"features": None}, r"reads signals\.features, but it is None"),
        ({"labels": None}, r"reads signals\.labels, but it is None"),
        ({"features": torch.zeros(40)}, r"features have shape \[40\] for 40 samples"),
        ({"labels": torch.zeros(40)}, r"labels have shape \[40\] and dtype torch.float32"),
    ],
)
def test_features_and_labels_are_checked(name, change, phrase):
    signals = example_signals(SCORERS[name]().needs)
    with pytest.raises(ValueError, match=phrase):
        get_scorer(name).select(replace(signals, **change), 2)


def test_a_large_sum_is_not_taken_for_infinity():
    signals = example_signals(frozenset({"features", "labels"}))
    for dtype, value in ((torch.float16, 6e4), (torch.float32, 3e38)):
        large = replace(signals, features=torch.full((40, 6), value).to(dtype))
        assert len(get_scorer("moderate").select(large, 3).indices) == 3
    assert np.isfinite(large.features.numpy()).all()
