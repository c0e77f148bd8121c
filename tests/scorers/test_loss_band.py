"""Loss bands are their oracle's, and prefer losses near 1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import loss_band as oracle

from prunefuse_al.scorers import LossBand, least_confidence, loss_band
from prunefuse_al.types import Signals


@given(n=st.integers(1, 9), c=st.integers(2, 5), seed=st.integers(0, 99), size=st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_it_is_the_oracles(n, c, seed, size):
    rng = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(n, c, generator=rng, dtype=torch.float64)
    labels = torch.randint(c, (n,), generator=rng)
    want = torch.tensor(oracle.score(logits.tolist(), labels.tolist()), dtype=torch.float64)
    torch.testing.assert_close(loss_band(logits, labels), want, rtol=1e-7, atol=1e-7)


def logits_of(losses):
    q = (-torch.tensor(losses, dtype=torch.float64)).exp()
    return torch.stack([q, 1 - q], 1).log()


def test_the_worked_example():
    signals = Signals(torch.arange(3), logits_of([0.1, 1.0, 3.0]), labels=torch.zeros(3, dtype=torch.int64))
    scores = LossBand().score(signals)
    assert (-scores).tolist() == pytest.approx([2.402485, 0.999990, 1.901384], abs=1e-6)
    assert LossBand().select(signals, 1).indices.tolist() == [1]


def test_very_easy_samples_go_first_then_very_hard_ones():
    losses = [0.01, 0.1, 0.5, 2.0, 5.0]
    scores = loss_band(logits_of(losses), torch.zeros(5, dtype=torch.int64))
    assert (-scores).tolist() == pytest.approx([4.614, 2.402, 1.193, 1.307, 3.391], abs=1e-3)


def test_by_predicted_labels_of_two_classes_it_is_least_confidence():
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine, theirs = loss_band(logits, logits.argmax(1)), least_confidence(logits)
    assert torch.equal(mine.argsort(), theirs.argsort())
    assert math.log(2) < 1  # no loss of a predicted class of two is above 1
