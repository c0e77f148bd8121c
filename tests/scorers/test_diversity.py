"""The diverse scorers agree with their oracles on random, tied and degenerate inputs, in every precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import badge as badge_oracle
from oracles import cal as cal_oracle
from oracles import k_center as k_center_oracle
from oracles import probcover as probcover_oracle
from oracles import typiclust as typiclust_oracle
from sklearn.neighbors import NearestNeighbors

from prunefuse_al.scorers import CAL, ProbCover, badge, cal, get_scorer, k_center, probcover, purity_radius, typiclust
from prunefuse_al.scorers import _distances as distances
from prunefuse_al.scorers import _probcover as covering
from prunefuse_al.scorers import _traversal as traversal
from prunefuse_al.types import Signals, as_rng

HUNDREDS = settings(max_examples=100)
KINDS = ["normal", "grid", "duplicates", "equal", "zeros", "far", "half", "double"]


@st.composite
def features_strategy(draw, least=1, most=24):
    n, d, seed = draw(st.integers(least, most)), draw(st.integers(1, 5)), draw(st.integers(0, 10**6))
    return make_features(draw(st.sampled_from(KINDS)), n, d, seed)


def make_features(kind, n, d, seed=0):
    rng = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, d, generator=rng)
    return {
        "normal": normal,
        "grid": torch.randint(-1, 3, (n, d), generator=rng).float(),
        "duplicates": normal[torch.randint(max(1, n // 3), (n,), generator=rng)],
        "equal": normal[:1].expand(n, d),
        "zeros": torch.zeros(n, d),
        "far": normal + 3e4,
        "half": normal.half(),
        "double": normal.double() * 1e-3 + 7,
    }[kind]


def make_logits(n, classes, seed, extreme=False):
    rng = torch.Generator().manual_seed(seed)
    if extreme:
        return torch.tensor([-1e4, 0.0, 1e4])[torch.randint(3, (n, classes), generator=rng)]
    return 2 * torch.randn(n, classes, generator=rng)


class Given:
    """Clusters that are known beforehand."""

    def __init__(self, labels):
        self.labels = labels

    def fit_predict(self, X):
        assert len(X) == len(self.labels)
        return self.labels


# k_center


@pytest.mark.parametrize("sizes", [(2048, 1024, 4096, 512), (4, 2, 3, 2), (3, 7, 2, 1)])
def test_k_center_picks_what_the_naive_traversal_picks(sizes, monkeypatch):
    for name, size in zip(("FRONT", "HOT", "BLOCK", "CHUNK"), sizes, strict=True):
        monkeypatch.setattr(traversal, name, size)

    @HUNDREDS
    @given(features=features_strategy(), data=st.data())
    def agrees(features, data):
        n = len(features)
        labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
        others = data.draw(st.sampled_from([0, 1, 3]))
        given_features = make_features("grid", others, features.shape[1])
        k = data.draw(st.integers(1, n - len(labelled)))
        seed = data.draw(st.sampled_from([None, 0, 1]))
        rank = None if seed is None else np.argsort(as_rng(seed).permutation(n)).tolist()
        got = k_center(features, k, labelled=labelled, labelled_features=given_features, rng=seed)
        want = k_center_oracle.pick(features.double().tolist(), k, labelled, given_features.double().tolist(), rank)
        assert got.tolist() == want

    agrees()


@pytest.mark.parametrize("kind", KINDS)
def test_k_center_takes_all_rows_and_one_row(kind):
    features = make_features(kind, 90, 33)
    want = k_center_oracle.pick(features.double().tolist(), 90)
    assert k_center(features, 90).tolist() == want
    assert k_center(features, 1).tolist() == want[:1]


@pytest.mark.parametrize(("largest", "dtype"), [(3e38, torch.float32), (1e-38, torch.float32), (1e120, torch.float64)])
def test_k_center_is_exact_at_the_ends_of_the_range(largest, dtype):
    features = (make_features("double", 60, 4) * 0.1).to(dtype) * largest
    assert k_center(features, 30).tolist() == k_center_oracle.pick(features.double().tolist(), 30)


def test_k_center_is_exact_where_single_precision_cannot_tell_apart():
    """Distances that differ by one part in 10^9, far from the origin."""
    offsets = torch.tensor([0.0, 1.0, 1.0 + 1e-9, 1.0 - 1e-9, 0.5], dtype=torch.float64)
    features = torch.stack([offsets, torch.full_like(offsets, 1e3)], 1)
    assert k_center(features, 2, labelled=[0]).tolist() == [2, 4]


def test_k_center_does_not_depend_on_how_short_torch_may_multiply(monkeypatch):
    features = make_features("normal", 300, 8)
    want = k_center(features, 60)
    monkeypatch.setattr(distances, "matmul_roundoff", lambda device: 2.0**-8)
    real = distances.lower_bounds
    short = lambda a, b: real(*(distances.Points(r.raw, r.factors.bfloat16().float()) for r in (a, b)))  # noqa: E731
    monkeypatch.setattr(distances, "lower_bounds", short)
    assert k_center(features, 60).tolist() == want.tolist()


@pytest.mark.parametrize(("setting", "roundoff"), [("highest", 0), ("high", 2.0**-11), ("medium", 2.0**-8)])
def test_the_roundoff_of_products_follows_torchs_settings(setting, roundoff):
    try:
        torch.set_float32_matmul_precision(setting)
        assert distances.matmul_roundoff(torch.device("cpu")) == roundoff
    finally:
        torch.set_float32_matmul_precision("highest")


@given(features=features_strategy(least=2), seed=st.integers(0, 99))
def test_bounds_are_below_the_distances(features, seed):
    features = features * 10.0 ** (seed % 3)
    frame = distances.Frame.around(features, distances.largest_entry(features), distances.working_dtype(features))
    low = distances.lower_bounds(frame.samples(features), frame.centres(features))
    exact = torch.stack([distances.squared_distances(features, row.expand_as(features)) for row in features])
    assert (low <= frame.limit(exact.clamp_min(1e-300))).all()


def test_most_pairs_are_never_compared(monkeypatch):
    """2,000 centres and 10,000 samples make 20 million pairs."""
    pairs = []
    real = distances.lower_bounds
    monkeypatch.setattr(distances, "lower_bounds", lambda a, b: pairs.append(len(a) * len(b)) or real(a, b))
    features = make_features("normal", 10_000, 16)
    k_center(features, 500, labelled=range(1500))
    assert sum(pairs) < 0.6 * 2000 * 10_000


# badge


@HUNDREDS
@given(features=features_strategy(), data=st.data())
def test_badge_draws_what_the_written_out_gradients_draw(features, data):
    n, seed = len(features), data.draw(st.integers(0, 99))
    logits = make_logits(n, data.draw(st.sampled_from([2, 3, 6])), seed, data.draw(st.booleans())).double()
    if data.draw(st.booleans()):
        logits = logits[:1].expand_as(logits)
    k = data.draw(st.integers(1, n))
    uniforms = as_rng(seed).random(k).tolist()
    want = badge_oracle.pick(logits.tolist(), features.double().tolist(), k, uniforms)
    assert badge(logits, features, k, rng=seed).tolist() == want


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_badge_in_single_precision(classes, dtype):
    logits, features = make_logits(40, classes, 1), make_features("normal", 40, 3).to(dtype)
    features[20:], logits[20:] = features[:20].clone(), logits[:20].clone()
    want = badge_oracle.pick(logits.tolist(), features.double().tolist(), 25, as_rng(3).random(24).tolist())
    assert badge(logits, features, 25, rng=3).tolist() == want


def test_badge_reaches_to_the_ends_of_the_range():
    logits, features = make_logits(30, 4, 0), make_features("normal", 30, 5)
    want = badge(logits.double(), features.double(), 12, rng=0).tolist()
    assert badge(logits, features * 2.0**120, 12, rng=0).tolist() == want
    assert badge(logits, features * 2.0**-120, 12, rng=0).tolist() == want


def test_badge_draws_by_squared_distance():
    """One class pair, gradients on a line at 0, 1, 3 and 10 (the longest): shares 100, 81 and 49 of 230."""
    logits, features = torch.zeros(4, 2), torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    seconds = [int(badge(logits, features, 2, rng=seed)[1]) for seed in range(1500)]
    shares = np.bincount(seconds, minlength=4) / 1500
    np.testing.assert_allclose(shares, [100 / 230, 81 / 230, 49 / 230, 0], atol=0.05)


# typiclust


@HUNDREDS
@given(features=features_strategy(), data=st.data())
def test_typiclust_follows_the_oracle_given_the_clusters(features, data):
    n = len(features)
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    others = make_features("grid", data.draw(st.integers(0, 3)), features.shape[1])
    k, count = data.draw(st.integers(1, n - len(labelled))), data.draw(st.sampled_from([1, 3, 20]))
    clusters = data.draw(st.lists(st.integers(-1, 3), min_size=n + len(others), max_size=n + len(others)))
    points = features.double().tolist() + others.double().tolist()
    got = typiclust(
        features, k, labelled=labelled, labelled_features=others, n_neighbors=count, clusterer=Given(np.array(clusters))
    )
    known = [*labelled, *range(n, n + len(others))]
    assert_same_up_to_ties(got.tolist(), typiclust_oracle.pick(points, clusters, known, k, count), points, count)


def assert_same_up_to_ties(got, want, points, count):
    """Where sums of roots are equal but for their last bits, either pick is right."""
    typicality = [[round(typiclust_oracle.mean_distance(points, i, count), 6) for i in picks] for picks in (got, want)]
    assert typicality[0] == pytest.approx(typicality[1], rel=1e-6, abs=1e-6)
    assert len(set(got)) == len(want)


def test_typiclust_by_kmeans_takes_the_middle_of_each_blob():
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    blobs = torch.cat(
        [c + make_features("normal", size, 2, size) for c, size in zip(centres, (30, 50, 40), strict=True)]
    )
    picked = typiclust(blobs, 3, rng=0)
    assert [next(b for b, end in enumerate((30, 80, 120)) if i < end) for i in picked] == [1, 2, 0]
    labelled = typiclust(blobs, 2, labelled=[35], rng=0)
    assert all(not 30 <= i < 80 for i in labelled.tolist())
    assert typiclust(blobs, 3, rng=0).tolist() == picked.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_features_give_k_rows_of_every_scorer(kind):
    features, n = make_features(kind, 70, 3), 70
    signals = Signals(
        torch.arange(n) + 5,
        make_logits(n, 3, 0),
        features,
        labelled_features=make_features(kind, 4, 3),
        labelled_logits=make_logits(4, 3, 1),
    )
    for name in ("k_center", "badge", "typiclust", "probcover", "cal"):
        for k in (1, 60, n):
            picked = get_scorer(name).select(signals, k, rng=0).indices
            assert len(picked.unique()) == k, (name, k)


# probcover


@HUNDREDS
@given(features=features_strategy(), data=st.data())
def test_probcover_follows_the_oracle(features, data):
    n = len(features)
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k, delta = data.draw(st.integers(1, n - len(labelled))), data.draw(st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0]))
    points = probcover_oracle.normalised(features.double().tolist())
    got = probcover(features, k, delta=delta, labelled=labelled)
    candidates = [i for i in range(n) if i not in labelled]
    assert got.tolist() == probcover_oracle.pick(points, labelled, candidates, k, delta)


@HUNDREDS
@given(features=features_strategy(), data=st.data())
def test_the_radius_is_the_largest_with_enough_pure_balls(features, data):
    clusters = data.draw(st.lists(st.integers(0, 2), min_size=len(features), max_size=len(features)))
    purity = data.draw(st.sampled_from([0.5, 0.95, 1.0]))
    points = features.double()
    want = probcover_oracle.radius(points.tolist(), clusters, purity)
    assert purity_radius(points, torch.tensor(clusters), purity=purity) == pytest.approx(want, rel=1e-9)


def test_probcover_in_small_blocks_picks_the_same(monkeypatch):
    features = make_features("normal", 200, 3)
    want = probcover(features, 40, classes=4, rng=0).tolist()
    for name in ("_BLOCK", "_CHUNK", "_PAIRS"):
        monkeypatch.setattr(covering, name, 7)
    assert probcover(features, 40, classes=4, rng=0).tolist() == want


def test_probcover_reads_logits_only_to_count_classes():
    assert "logits" in ProbCover().needs
    assert "logits" not in ProbCover(delta=0.5).needs | ProbCover(classes=3).needs


# cal


@HUNDREDS
@given(features=features_strategy(), data=st.data())
def test_cal_is_the_mean_divergence_from_the_nearest(features, data):
    n, d = features.shape
    m, classes, seed = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([2, 5])), data.draw(st.integers(0, 99))
    logits, known_logits = (make_logits(rows, classes, seed + rows, data.draw(st.booleans())) for rows in (n, m))
    known = make_features(data.draw(st.sampled_from(KINDS[:5])), m, d, seed)
    count, backwards = data.draw(st.sampled_from([1, 3, 10])), data.draw(st.booleans())
    got = cal(logits, features, known_logits, known, n_neighbors=count, from_neighbours=backwards)
    tables = [t.double().tolist() for t in (logits, features, known_logits, known)]
    low, high = map(np.array, cal_oracle.bounds(*tables, min(count, m), backwards))
    slack = 1e-9 + 1e-9 * high
    assert (low - slack <= got.numpy()).all()
    assert (got.numpy() <= high + slack).all()


def test_any_search_can_be_plugged_in():
    class Backwards:
        """Finds the last rows; stands for an approximate index."""

        def fit(self, X):
            self.rows = len(X)

        def kneighbors(self, X, n_neighbors):
            return None, np.tile(np.arange(self.rows - n_neighbors, self.rows), (len(X), 1))

    features, logits = make_features("normal", 9, 2), make_logits(9, 3, 0)
    last = cal(logits, features, logits[-2:], features[-2:], n_neighbors=2)
    assert torch.equal(cal(logits, features, logits, features, n_neighbors=2, neighbours=Backwards()), last)
    tree = NearestNeighbors(algorithm="kd_tree")
    want = cal(logits, features, logits, features, n_neighbors=2)
    assert torch.allclose(cal(logits, features, logits, features, n_neighbors=2, neighbours=tree), want)
    assert not hasattr(tree, "n_samples_fit_")  # a copy was fitted


class Wrong:
    def fit(self, X):
        pass

    def kneighbors(self, X, n_neighbors):
        return None, np.full((len(X), n_neighbors), -1)

    def fit_predict(self, X):
        return np.zeros(len(X))


GOOD, LOGITS = make_features("normal", 6, 2), make_logits(6, 3, 0)


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda: k_center(GOOD, 6, labelled=[1]), "k=6 but there are 5 candidates; ask for 1 to 5"),
        (lambda: k_center(GOOD, 2, labelled=[7]), "labelled holds row 7, but features has rows 0 to 5"),
        (lambda: k_center(GOOD, 2, labelled=[0.5]), r"labelled=\[0\.5\]; pass row numbers"),
        (lambda: k_center(GOOD, 2, labelled_features=torch.zeros(2, 3)), "have 3 columns and features 2"),
        (lambda: k_center(GOOD[0], 2), r"shape \[2\]"),
        (lambda: k_center("GOOD", 2), "features='GOOD'; pass an array, a tensor or a list of numbers"),
        (lambda: k_center(GOOD / 0, 2), r"features of 6 of 6 samples are NaN or infinite: indices \[0, 1"),
        (lambda: badge(LOGITS, GOOD[:5], 2), r"features have shape \[5, 2\] for 6 samples"),
        (lambda: badge(LOGITS, GOOD, 7), "k=7 but there are 6 candidates"),
        (lambda: typiclust(GOOD, 2, clusterer=3), "clusterer=3; pass an object with `fit_predict"),
        (lambda: typiclust(GOOD, 2, clusterer=Wrong()), r"gave float64 \[6\]; expected integers \[6\]"),
        (lambda: typiclust(GOOD, 2, neighbours=Wrong()), "from -1 to -1; expected row numbers"),
        (lambda: typiclust(GOOD, 2, neighbours=3), "neighbours=3; pass an object with `fit"),
        (lambda: probcover(GOOD, 2, delta=-1.0), "delta=-1.0; pass a finite number >= 0, or None"),
        (lambda: probcover(GOOD, 2, purity=0.0), "purity=0.0; pass a share above 0 and at most 1"),
        (lambda: cal(LOGITS, GOOD, LOGITS[:0], GOOD[:0]), "of 0 labelled samples; at least one is needed"),
        (lambda: CAL().select(Signals(torch.arange(6), LOGITS, GOOD), 1), "one of them is None"),
        (
            lambda: CAL().score(Signals(torch.arange(6), LOGITS, GOOD, labelled_features=GOOD, labelled_logits=GOOD)),
            r"labelled_logits have shape \[6, 2\] for 6 labelled samples and 3 classes",
        ),
    ],
)
def test_unusable_input_is_refused(call, phrase):
    with pytest.raises(ValueError, match=phrase):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_picks_the_same():
    features, logits = make_features("normal", 3000, 32), make_logits(3000, 10, 0)
    assert k_center(features.cuda(), 300).tolist() == k_center(features, 300).tolist()
    picked = badge(logits.double().cuda(), features.double().cuda(), 50, rng=0)
    assert picked.tolist() == badge(logits.double(), features.double(), 50, rng=0).tolist()
    assert probcover(features.cuda(), 50, delta=0.9).tolist() == probcover(features, 50, delta=0.9).tolist()
