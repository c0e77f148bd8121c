"""Moderate, CCS and D2 agree with their oracles, on ties and degenerate sets too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ccs as ccs_oracle
from oracles import d2 as d2_oracle
from oracles import moderate as moderate_oracle

from prunefuse_al.scorers import AUM, CCS, D2, Margin, Moderate, ccs, class_budgets, d2, get_scorer, moderate
from prunefuse_al.scorers._ccs import strata_of
from prunefuse_al.scorers._neighbours import knn
from prunefuse_al.testing.contracts import example_signals


@st.composite
def clouds(draw):
    """Draw features [n d] in eighths (sums are exact), labels [n], k: duplicates, one class, zeros, all equal."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    spread = draw(st.sampled_from([0, 1, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    features = rng.integers(-spread, spread + 1, (n, d)) / 8
    labels = rng.integers(0, draw(st.integers(1, 3)), n)
    return torch.from_numpy(features), torch.from_numpy(labels), draw(st.integers(1, n))


# Moderate


@given(cloud=clouds(), dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_moderate_keeps_the_middle_ranks(cloud, dtype):
    features, labels, k = cloud
    away = moderate_oracle.distances(features.tolist(), labels.tolist())
    got = moderate(features.to(dtype), labels, k).tolist()
    want = moderate_oracle.select(features.tolist(), labels.tolist(), k)
    assert len(set(got)) == k
    assert sorted(away[i] for i in got) == pytest.approx(sorted(away[i] for i in want), abs=1e-12)
    if len(set(away)) == len(away):
        assert set(got) == set(want)


@given(cloud=clouds())
def test_the_band_grows_from_its_middle(cloud):
    features, labels, k = cloud
    whole = moderate(features, labels, len(features)).tolist()
    assert moderate(features, labels, k).tolist() == whole[:k]


def test_the_band_is_of_the_whole_set_and_not_of_each_class():
    features = torch.tensor([[-1.0], [0.0], [1.0], [-200.0], [0.0], [100.0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert set(moderate(features, labels, 2).tolist()) == {0, 2}  # distances 1, 0, 1 and 200, 0, 100


def test_the_centre_is_the_median_and_not_the_mean():
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])  # median 2, mean 21.2
    assert moderate(features, torch.zeros(5, dtype=torch.int64), 1).tolist() == [3]  # distances 2, 1, 0, 1, 98


def test_moderate_leaves_rows_where_they_are():
    for shape in ((6, 1), (1, 6), (5, 2)):
        features = torch.arange(float(math.prod(shape))).flip(0).reshape(shape)
        before = features.clone()
        moderate(features, torch.zeros(shape[0], dtype=torch.int64), 1)
        assert torch.equal(features, before)


def test_a_thousand_classes():
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(3000, 4, generator=rng), torch.randint(1000, (3000,), generator=rng)
    want = moderate_oracle.select(features.double().tolist(), labels.tolist(), 301)
    assert set(moderate(features, labels, 301).tolist()) == set(want)


# CCS


@given(
    values=st.lists(st.one_of(st.integers(-40, 40), st.just(7), st.just(-40)), min_size=1, max_size=40),
    strata=st.sampled_from([1, 2, 3, 7, 50]),
    mislabelled=st.sampled_from([0.0, 0.1, 0.25, 0.9]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_ccs_gives_every_stratum_its_share(values, strata, mislabelled, seed, data):
    values = [value / 4 for value in values]
    k = data.draw(st.integers(1, len(values)))
    got = ccs(torch.tensor(values), k, mislabelled=mislabelled, strata=strata, rng=seed)
    picked = [values[i] for i in got.tolist()]
    stratum, shares = ccs_oracle.expected_counts(values, k, mislabelled, strata)
    assert len(set(got.tolist())) == k
    assert [sum(stratum[value] == s for value in picked) for s in range(strata)] == shares
    assert picked == sorted(picked, reverse=True)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), data=st.data())
def test_shares_add_up_and_none_exceeds_its_stratum(sizes, data):
    k = data.draw(st.integers(1, sum(sizes)))
    given_ = class_budgets(torch.tensor(sizes), k).tolist()
    assert given_ == ccs_oracle.shares(sizes, k)
    assert sum(given_) == k


def test_the_highest_is_kept_also_where_it_is_not_positive():
    """CCS's own code takes 1.0001 * max as the upper edge, which lies below a negative maximum."""
    values = -torch.arange(1.0, 101.0)
    assert strata_of(values.double(), 50).max() == 49
    picked = ccs(values, 100, mislabelled=0, rng=0)
    assert picked.tolist() == list(range(100))
    zero = ccs(torch.tensor([-1.0, 0.0]), 2, mislabelled=0, rng=0)
    assert zero.tolist() == [1, 0]


def test_extreme_and_equal_difficulties():
    assert strata_of(torch.tensor([-1.7e308, 0.0, 1.7e308], dtype=torch.float64), 50).tolist() == [0, 25, 49]
    assert strata_of(torch.full((4,), -1e4, dtype=torch.float64), 50).tolist() == [0, 0, 0, 0]
    assert len(set(ccs(torch.zeros(9), 9, rng=1).tolist())) == 9


def test_draws_inside_a_stratum_are_uniform():
    counts = torch.zeros(20)
    for seed in range(1500):
        counts[ccs(torch.arange(20.0), 8, mislabelled=0.2, strata=2, rng=seed)] += 1
    assert (counts[16:] == 0).all()  # the hardest fifth
    assert (counts[:16] / 1500 - 0.5).abs().max() < 4 * (0.25 / 1500) ** 0.5


def test_difficulty_is_any_point_scorer():
    signals = example_signals(frozenset({"logits", "dynamics"}))
    assert CCS().needs == {"dynamics"}
    assert CCS().dynamics == {"aum"}
    assert CCS("margin").needs == CCS(Margin()).needs == {"logits"}
    want = signals.indices[ccs(-signals.dynamics["aum"], 9, rng=3)]
    assert torch.equal(CCS().select(signals, 9, rng=3).indices, want)
    assert torch.equal(CCS(AUM()).select(signals, 9, rng=3).indices, want)
    assert D2("forgetting").needs == {"dynamics", "features", "labels"}


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda: CCS(mislabelled=1.0), r"mislabelled=1\.0; pass the share dropped"),
        (lambda: CCS(strata=0), "strata=0; pass a whole number of intervals"),
        (lambda: CCS("random"), "difficulty='random' gives no score for each sample"),
        (lambda: CCS("amu"), "unknown scorer 'amu'; did you mean 'aum'"),
        (lambda: D2(n_neighbors=0), "n_neighbors=0; pass a whole number"),
        (lambda: D2(gamma=-1), "gamma=-1; pass a finite number >= 0"),
        (lambda: D2("moderate"), "difficulty='moderate' gives no score"),
        (lambda: ccs(torch.zeros(3), 4), "ccs: k=4 but there are 3 candidates"),
        (lambda: d2(torch.zeros(3), torch.zeros(3, 1), 0), "d2: k=0 but there are 3 candidates"),
        (lambda: moderate(torch.zeros(3, 1), torch.zeros(3), 4), "moderate: k=4 but there are 3 candidates"),
    ],
)
def test_options_out_of_range_are_refused(make, phrase):
    with pytest.raises(ValueError, match=phrase):
        make()


# D2


class ByHand:
    """Finds each row itself, then its neighbours as the oracle does: equal distances in the order of the rows."""

    def fit(self, features):
        self.features = features
        return self

    def kneighbors(self, asked, n_neighbors):
        rows = d2_oracle.nearest(self.features.tolist(), n_neighbors - 1)
        return None, np.array([[i, *found] for i, found in enumerate(rows)])


class Answers:
    """Gives back what it was made with."""

    def __init__(self, rows):
        self.rows = rows

    def fit(self, features):
        return self

    def kneighbors(self, asked, n_neighbors):
        return None, self.rows


@given(cloud=clouds(), seed=st.integers(0, 99), gamma=st.sampled_from([0.0, 0.1, 2.0]), neighbours=st.integers(1, 5))
def test_d2_is_explained_by_the_greedy_loop(cloud, seed, gamma, neighbours):
    features, labels, k = cloud
    n = len(features)
    rng = np.random.default_rng(seed)
    difficulty = torch.from_numpy(rng.integers(-5, 6, n) / 4)
    got = d2(
        difficulty, features, k, labels=labels, n_neighbors=neighbours, gamma=gamma, mislabelled=0.2,
        neighbours=ByHand(), rng=seed,
    ).tolist()  # fmt: skip
    assert len(set(got)) == k
    dropped = ccs_oracle.dropped(n, k, 0.2)
    least_dropped = sorted(difficulty.tolist())[n - dropped :][:1] or [math.inf]
    assert all(difficulty[i] <= least_dropped[0] for i in got)
    if len(set(difficulty.tolist())) < n and dropped:
        return  # which of equals was dropped is drawn, so the graphs are not known here
    kept = sorted(range(n), key=lambda i: difficulty[i])[: n - dropped]
    x = difficulty - difficulty[kept].min()
    present = sorted({int(labels[i]) for i in kept})
    members = [sorted(i for i in kept if labels[i] == label) for label in present]
    shares = ccs_oracle.shares([len(rows) for rows in members], k)
    for rows, share in zip(members, shares, strict=True):
        picks = [rows.index(i) for i in got if i in rows]  # the order within a class is kept
        assert len(picks) == share
        assert d2_oracle.explains(picks, x[rows].tolist(), features[rows].tolist(), neighbours, gamma, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_d2_on_scikit_learns_graph_agrees_too(dtype):
    rng = torch.Generator().manual_seed(1)
    for _ in range(20):
        features = torch.randn(30, 4, generator=rng).to(dtype)
        difficulty = torch.rand(30, generator=rng, dtype=torch.float64)
        got = d2(difficulty, features, 12, mislabelled=0, rng=0).tolist()
        x = (difficulty - difficulty.min()).tolist()
        assert d2_oracle.explains(got, x, features.double().tolist(), 5, 0.1, 1e-5)
        assert not d2_oracle.explains(got[::-1], x, features.double().tolist(), 5, 0.1, 1e-5)


def test_d2_spreads_over_duplicates():
    features = torch.tensor([[0.0], [0.0], [0.0], [50.0], [51.0]])
    picked = d2(torch.tensor([5.0, 5.0, 5.0, 3.0, 0.0]), features, 2, n_neighbors=2, mislabelled=0, rng=0).tolist()
    assert picked[0] in (0, 1, 2)
    assert picked[1] == 3  # the first one's duplicates have fallen to zero


def test_neighbours_leave_out_the_row_itself():
    features = torch.zeros(6, 2)
    distances, rows = knn(features, 3)
    assert (distances == 0).all()
    assert all(i not in found for i, found in enumerate(rows.tolist()))
    assert knn(features[:1], 3)[1].shape == (1, 0)
    assert knn(features[:2], 3)[1].tolist() == [[1], [0]]
    with pytest.raises(ValueError, match=r"gave int64 \[6, 1\] from 0 to 0; expected row numbers \[6, 4\] from 0 to 5"):
        knn(features, 3, neighbours=Answers(np.zeros((6, 1), dtype=int)))
    with pytest.raises(ValueError, match="from -1 to 0; expected row numbers"):
        knn(features, 1, neighbours=Answers(np.array([[-1, 0]] * 6)))


def test_permuting_the_candidates_permutes_moderate_and_d2():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    for scorer in (Moderate(), D2()):
        signals = example_signals(scorer.needs)
        fields = {name: getattr(signals, name)[order] for name in ("features", "labels")}
        moved = {name: values[order] for name, values in (signals.dynamics or {}).items()}
        other = type(signals)(signals.indices[order], dynamics=moved or None, **fields)
        assert set(scorer.select(signals, 9, rng=0).indices.tolist()) == set(
            scorer.select(other, 9, rng=0).indices.tolist()
        )
    assert get_scorer("d2") == D2()
