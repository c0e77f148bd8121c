"""Influence on the last layer is what its oracle says, and the search finds groups whose influences cancel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import influence as oracle

from prunefuse_al.scorers import Influence, influence, influence_vectors, largest_removal, smallest_removal
from prunefuse_al.scorers import _influence as module
from prunefuse_al.types import Signals

EXAMPLE = torch.tensor([[3.0, 0], [0, 1], [-2, -1], [-1, 1], [0, -1]])


def rows_of(n, c, d, seed):
    rng = torch.Generator().manual_seed(seed)
    logits, features = (torch.randn(n, width, generator=rng, dtype=torch.float64) for width in (c, d))
    return logits, features, torch.randint(c, (n,), generator=rng)


def test_the_worked_example_of_influence():
    """Damping is given in shares of the mean eigenvalue: 0.25 of 7/6."""
    h = torch.tensor([[1.0], [2.0], [3.0]])
    given_rows = (torch.zeros(3, 2), h, torch.tensor([0, 0, 1]))
    found = influence_vectors(*given_rows, bias=False, centre=False, damping=3 / 14)
    want = [[-0.0645161, 0.0645161], [-0.1290323, 0.1290323], [0.1935484, -0.1935484]]
    np.testing.assert_allclose(found, want, atol=1e-7)
    np.testing.assert_allclose(found.norm(dim=1), [0.0912396, 0.1824792, 0.2737188], atol=1e-7)
    assert found.sum() == pytest.approx(0, abs=1e-12)


def test_the_worked_example_of_the_search():
    for seed in range(20):
        assert smallest_removal(EXAMPLE, 2, rng=seed).rows.tolist() == [1, 4]
        assert smallest_removal(EXAMPLE, 3, rng=seed).rows.tolist() == [0, 2, 3]
        assert len(largest_removal(EXAMPLE, 1.0, keep=2, relative=False, rng=seed).rows) == 3
        assert len(largest_removal(EXAMPLE, 1.0, keep=0, relative=False, rng=seed).rows) == 5
    assert oracle.smallest(EXAMPLE.tolist(), 3) == (0, 2, 3)
    assert oracle.norm(EXAMPLE.tolist(), (1, 3, 4)) == pytest.approx(1.41421, abs=1e-5)  # the three shortest


@settings(max_examples=60)
@given(data=st.data())
def test_vectors_are_the_oracles(data):
    n, c, d = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([2, 3])), data.draw(st.integers(1, 4))
    options = {name: data.draw(st.booleans()) for name in ("bias", "centre")}
    damping = data.draw(st.sampled_from([0.01, 0.5]))
    logits, features, labels = rows_of(n, c, d, data.draw(st.integers(0, 99)))
    want = oracle.vectors(logits.tolist(), features.tolist(), labels.tolist(), damping, **options)
    np.testing.assert_allclose(
        influence_vectors(logits, features, labels, damping=damping, **options), want, rtol=1e-7, atol=1e-10
    )


@settings(max_examples=30)
@given(n=st.integers(2, 9), size=st.integers(0, 9), seed=st.integers(0, 99))
def test_the_search_finds_the_best_of_few_groups(n, size, seed):
    size = min(size, n)
    vectors = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = smallest_removal(vectors, size, rng=seed)
    best = oracle.norm(vectors.tolist(), oracle.smallest(vectors.tolist(), size)) if size else 0.0
    assert found.norm == pytest.approx(oracle.norm(vectors.tolist(), found.rows.tolist()) if size else 0.0)
    assert found.norm == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert found.rows.tolist() == sorted(set(found.rows.tolist()))


@settings(max_examples=15)
@given(n=st.integers(2, 7), keep=st.integers(0, 3), tolerance=st.sampled_from([0.0, 0.5, 2.0]), seed=st.integers(0, 99))
def test_the_largest_group_is_within_the_tolerance_and_leaves_the_floor(n, keep, tolerance, seed):
    vectors = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    keep = min(keep, n)
    found = largest_removal(vectors, tolerance, keep=keep, relative=False, rng=0)
    assert found.norm <= tolerance + 1e-9
    assert len(found.rows) <= oracle.largest(vectors.tolist(), tolerance, keep)
    if oracle.norm(vectors.tolist(), oracle.smallest(vectors.tolist(), n - keep)) < tolerance:
        assert len(found.rows) == n - keep  # sizes are bisected, and the largest is tried first


def test_a_tolerance_is_in_shares_of_random_groups():
    vectors = torch.randn(60, 20, generator=torch.Generator().manual_seed(0))
    vectors -= vectors.mean(0)
    found = largest_removal(vectors, 0.9, keep=10, rng=0)
    assert 0 < len(found.rows) <= 50
    assert found.norm <= 0.9 * found.random_norm
    assert len(largest_removal(1000 * vectors, 0.9, keep=10, rng=0).rows) == len(found.rows)


def test_removal_moves_weights_less_than_random_and_the_starts_differ():
    logits, features, labels = rows_of(300, 3, 5, 0)
    vectors = influence_vectors(logits, features, labels)
    one, other = (smallest_removal(vectors, 150, rng=seed) for seed in (0, 1))
    assert max(one.norm, other.norm) < 0.1 * one.random_norm
    assert len(set(one.rows.tolist()) & set(other.rows.tolist())) < 110


def fitted(features, labels, classes, decay):
    """A regression trained to its minimum."""
    weights = torch.zeros(classes, features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    inputs = torch.nn.functional.pad(features, (0, 1), value=1.0)
    solver = torch.optim.LBFGS([weights], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights.T, labels) + decay / 2 * weights.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weights.detach()


def test_retrained_weights_move_as_the_centred_vectors_say():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=rng, dtype=torch.float64)
    labels = (features[:, 0] + torch.randn(200, generator=rng, dtype=torch.float64) > 0).long()
    decay, removed = 0.05, torch.arange(20)
    full = fitted(features, labels, 2, decay)
    logits = features @ full[:, :-1].T + full[:, -1]
    # The decay is in the Hessian, and so it stands where the damping does.
    q = logits.softmax(1)
    mean = float((q[:, 0] * q[:, 1] * (1 + features.square().sum(1))).mean()) / 4
    vectors = influence_vectors(logits, features, labels, damping=decay / mean)
    kept = torch.ones(200, dtype=torch.bool)
    kept[removed] = False
    moved = (fitted(features[kept], labels[kept], 2, decay) - full).flatten()
    told = vectors[removed].sum(0) * 200 / 180
    assert (moved - told).norm() < 0.15 * moved.norm()


def test_kronecker_factors_and_projections_keep_the_norms_of_sums(monkeypatch):
    logits, features, labels = rows_of(400, 4, 30, 1)
    groups = [torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:50] for seed in range(20)]

    def norms(**options):
        vectors = influence_vectors(logits, features, labels, rng=0, **options)
        return torch.stack([vectors[group].sum(0).norm() for group in groups])

    exact = norms()
    assert (norms(width=100) / exact - 1).abs().mean() < 0.2
    monkeypatch.setattr(module, "_EXACT", 1)
    factored = norms()
    assert influence_vectors(logits, features, labels, width=60, rng=0).shape == (400, 60)
    assert np.corrcoef(exact, factored)[0, 1] > 0.5
    assert math.log(float((factored / exact).median())) == pytest.approx(0, abs=0.7)


def test_the_scorer_keeps_what_is_not_removed():
    logits, features, labels = rows_of(60, 3, 4, 2)
    kept = influence(logits, features, labels, 25, rng=3)
    signals = Signals(torch.arange(60) + 7, logits, features, labels=labels)
    assert (Influence().select(signals, 25, rng=3).indices - 7).tolist() == kept.tolist()
    vectors = influence_vectors(logits, features, labels)
    rest = torch.tensor([row for row in range(60) if row not in set(kept.tolist())])
    assert float(vectors[rest].sum(0).norm()) == pytest.approx(float(vectors[kept].sum(0).norm()))  # they sum to 0
    assert vectors[kept].norm(dim=1).diff().max() <= 0


def test_features_at_the_ends_of_the_range():
    logits, features, labels = rows_of(40, 3, 4, 2)
    want = influence(logits, features, labels, 9, bias=False, rng=0).tolist()
    for scale in (2.0**400, 2.0**-400):
        assert influence(logits, features * scale, labels, 9, bias=False, rng=0).tolist() == want
