"""BALD and BatchBALD agree with their oracles, and stay exact where the usual formula rounds to nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import bald as bald_oracle
from oracles import batchbald as batchbald_oracle

from prunefuse_al.errors import InputError
from prunefuse_al.scorers import BALD, BatchBALD, _batchbald, bald, batchbald
from prunefuse_al.scorers._batchbald import _Outcomes
from prunefuse_al.types import Signals

values = st.one_of(st.floats(-1e4, 1e4, width=32), st.sampled_from([0.0, 1.0, 2.0, -1e4, 1e4]))


@st.composite
def passes(draw, samples=6, most=4):
    t, n, c = draw(st.integers(2, most)), draw(st.integers(1, samples)), draw(st.integers(2, 4))
    flat = draw(st.lists(values, min_size=t * n * c, max_size=t * n * c))
    return torch.tensor(flat, dtype=torch.float64).view(t, n, c)


@settings(max_examples=200)
@given(passes())
def test_bald_agrees_with_forty_digits(mc_logits):
    want = torch.tensor(bald_oracle.score(mc_logits.tolist()), dtype=torch.float64)
    torch.testing.assert_close(bald(mc_logits), want, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_bald_in_lower_precisions(dtype, classes):
    rng = torch.Generator().manual_seed(classes)
    mc_logits = (10 * torch.randn(1, 2, classes, generator=rng) + torch.randn(3, 2, classes, generator=rng)).to(dtype)
    got = bald(mc_logits)
    assert got.dtype == torch.float32
    want = torch.tensor(bald_oracle.score(mc_logits.double().tolist()))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_bald_is_zero_where_passes_agree_and_keeps_the_order_where_they_nearly_do():
    agreed = torch.randn(1, 50, 10, generator=torch.Generator().manual_seed(0)).repeat(7, 1, 1)
    assert bald(agreed).tolist() == [0.0] * 50
    gaps = torch.arange(10.0, 60.0, 2.0)  # surer and surer; the passes differ by one in the logit
    nearly = torch.stack([torch.stack([gaps + shift, torch.zeros_like(gaps)], 1) for shift in (0.0, 1.0)])
    assert (bald(nearly).diff() < 0).all()
    assert (bald(nearly) > 0).all()
    assert float(bald(torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]]))[0]) == pytest.approx(math.log(2))


@settings(max_examples=150)
@given(mc_logits=passes(samples=5, most=3), seed=st.one_of(st.none(), st.integers(0, 5)), data=st.data())
def test_batchbald_is_greedy_in_the_joint_information(mc_logits, seed, data):
    n = mc_logits.shape[1]
    k = data.draw(st.integers(1, min(n, 4)))
    picked = batchbald(mc_logits, k, rng=seed).tolist()
    assert len(set(picked)) == k
    for count, position in enumerate(picked):
        informations = batchbald_oracle.informations(mc_logits.tolist(), picked[:count])
        assert informations[position] >= max(informations.values()) - 1e-8


def test_drawn_outcomes_choose_nearly_as_well_as_all_of_them():
    rng = torch.Generator().manual_seed(0)
    mc_logits = 2 * torch.randn(1, 30, 3, generator=rng) + 1.5 * torch.randn(20, 30, 3, generator=rng)
    samples = mc_logits.double().softmax(2).transpose(0, 1)  # [n t c]

    def joint(picked):
        return batchbald_oracle.joint_information(samples[picked].tolist())

    exact = batchbald(mc_logits, 6)
    for seed in range(3):
        drawn = batchbald(mc_logits, 6, outcomes=200, rng=seed)
        assert joint(drawn) > 0.95 * joint(exact)
    random = [np.random.default_rng(seed).choice(30, 6, replace=False) for seed in range(5)]
    assert joint(exact) > 1.2 * max(map(joint, random))


def test_what_is_left_when_nothing_can_be_learned_is_filled_up_by_bald_in_any_precision():
    rng = torch.Generator().manual_seed(0)
    mc_logits = 3 * torch.randn(1, 60, 3, generator=rng) + 2 * torch.randn(2, 60, 3, generator=rng)
    single, double = (batchbald(mc_logits.to(dtype), 40) for dtype in (torch.float32, torch.float64))
    assert single.tolist() == double.tolist()
    filled = bald(mc_logits.double())[double[20:]]  # two passes are told apart long before
    assert (filled.diff() <= 0).all()


@pytest.mark.parametrize("t", [4, 30])
def test_merged_outcomes_leave_no_less_to_be_learned(t):
    rng = torch.Generator().manual_seed(t)
    q = (2 * torch.randn(t, 50, 3, generator=rng, dtype=torch.float64)).softmax(2)
    state = _Outcomes.none(t)
    for position in range(5):
        state = state.learn(q[:, position], np.random.default_rng(0))
        few = state.merged()
        assert len(few.chance) <= len(state.chance)
        torch.testing.assert_close(few.chance @ few.posterior, state.chance @ state.posterior)
        assert (few.gains(q) >= state.gains(q) - 1e-12).all()
    assert 4 * len(few.chance) <= len(state.chance)


def test_a_large_pool_is_picked_from_as_if_all_were_looked_at(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    mc_logits = 3 * torch.randn(1, 3000, 4, generator=rng) + torch.randn(8, 3000, 4, generator=rng)
    picked = batchbald(mc_logits, 7, outcomes=64, rng=0)
    looked = []

    def every(state, logits, bounds, priority):
        gains = state.gains(_batchbald._probabilities(logits))
        gains[bounds == -torch.inf] = -torch.inf
        looked.append(len(gains))
        return int(gains.argmax())

    monkeypatch.setattr(_batchbald, "_most_informative", every)
    assert batchbald(mc_logits, 7, outcomes=64, rng=0).tolist() == picked.tolist()
    assert looked == [3000] * 7


def test_two_copies_of_the_best_sample_are_not_both_taken():
    best = torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0], [0.0, 9.0]])[:, None]  # tells passes 0, 2 from 1, 3
    other = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])[:, None]  # tells 0, 1 from 2, 3, less well
    mc_logits = torch.cat([best, best, other, torch.zeros(4, 5, 2)], 1)
    assert bald(mc_logits).topk(2).indices.sort().values.tolist() == [0, 1]
    assert batchbald(mc_logits, 2).tolist() == [0, 2]
    starts = {batchbald(mc_logits, 1, rng=seed).item() for seed in range(20)}
    assert starts == {0, 1}


def test_large_batches_of_sure_and_unsure_samples_neither_underflow_nor_stop_short():
    rng = torch.Generator().manual_seed(0)
    mc_logits = 30 * torch.randn(1, 150, 10, generator=rng) + 5 * torch.randn(10, 150, 10, generator=rng)
    picked = batchbald(mc_logits, 100, outcomes=100, rng=0)
    assert len(picked.unique()) == 100
    same = torch.zeros(3, 8, 4)
    assert batchbald(same, 8).tolist() == list(range(8))


@pytest.mark.parametrize("scorer", [BALD(), BatchBALD()])
@pytest.mark.parametrize(
    ("mc_logits", "phrase"),
    [
        (None, "reads signals.mc_logits, but it is None"),
        (torch.zeros(1, 4, 3), r"shape \[1, 4, 3\] for 4 samples; .* two passes and two classes or more"),
        (torch.zeros(2, 4, 1), r"shape \[2, 4, 1\]"),
        (torch.zeros(4, 2, 3), r"shape \[4, 2, 3\]"),
        (torch.full((2, 4, 3), torch.nan), r"mc_logits of 4 of 4 samples are NaN or infinite: indices \[0, 1, 2, 3\]"),
    ],
)
def test_unusable_passes_are_refused(scorer, mc_logits, phrase):
    with pytest.raises(ValueError, match=phrase):
        scorer.select(Signals(torch.arange(4), mc_logits=mc_logits), 2)


def test_outcomes_are_checked():
    with pytest.raises(InputError, match="outcomes=0; pass how many joint labels to look at, at least 1"):
        BatchBALD(0)
    assert batchbald(torch.tensor([[[9.0, 0.0]] * 3, [[0.0, 9.0]] * 3]), 3, outcomes=1).tolist() == [0, 1, 2]
