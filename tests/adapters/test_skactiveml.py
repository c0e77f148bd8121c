"""The scikit-activeml adapter in its host's conventions: missing labels, candidates, utilities, embeddings."""

# ruff: noqa: E402
from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from fakes import Spread, assert_same_picks, seeded
from hosts import need_host
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torch import nn

need_host("skactiveml")
from skactiveml.classifier import ParzenWindowClassifier
from skactiveml.pool import Badge, UncertaintySampling
from skactiveml.utils import MISSING_LABEL, is_labeled

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.skactiveml import PruneFuseClassifier, PruneFuseQuery
from prunefuse_al.errors import BudgetError, InputError
from prunefuse_al.proxies import Probe

X, TRUE = load_digits(return_X_y=True)
X, TRUE = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:400], TRUE[:400]


@pytest.fixture
def y():
    labels = np.full(400, MISSING_LABEL)
    labels[5:400:4] = TRUE[5:400:4]
    return labels


def network(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 16),
        nn.ReLU(),
        nn.Linear(16, classes),
    )


def adam(parameters):
    return torch.optim.Adam(parameters, 0.02)


def classifier(**options):
    trainer = TorchTrainer(40, 16, optimizer=adam, device="cpu", progress=False)
    estimator = PruneFuseEstimator(network, 0.5, trainer=trainer, random_state=0)
    return PruneFuseClassifier(estimator, **{"classes": range(10), "random_state": 0, **options})


def test_a_probe_reads_each_picture_once(y):
    clf, qs = classifier(), PruneFuseQuery("margin", random_state=0)
    clf.estimator.set_params(proxy=Probe())
    for _ in range(2):
        rows = qs.query(X, y, clf.fit(X, y), batch_size=30)
        assert len(set(rows.tolist())) == 30
        y[rows] = TRUE[rows]
    clf.fit(X, y)
    assert sum(row.samples for row in clf.estimator_.costs_.rows() if row.stage == "features") == len(X)
    assert clf.fit_target().predict_proba(X[:5]).shape == (5, 10)


def test_the_loop_from_the_first_labels_to_the_target(y):
    clf, qs = classifier(), PruneFuseQuery("margin", random_state=0)
    for known in (99, 129, 159):
        clf.fit(X, y)
        assert is_labeled(y).sum() == known
        rows = qs.query(X, y, clf, batch_size=30)
        assert not is_labeled(y)[rows].any()
        assert len(set(rows.tolist())) == 30
        y[rows] = TRUE[rows]
    unseen = ~is_labeled(y)
    proxy = clf.fit(X, y).score(X[unseen], TRUE[unseen])
    assert proxy > 0.6
    assert clf.estimator_.embed(X).shape == (400, 8)
    assert clf.fit_target().score(X[unseen], TRUE[unseen]) > proxy - 0.05
    assert clf.estimator_.embed(X).shape == (400, 16)
    assert not hasattr(clf.fit(X, y).estimator_, "target_")
    rounds = [row.round for row in clf.estimator_.costs_.rows() if row.stage == "train_proxy"]
    assert rounds == [1, 2, 3, 4, 5]
    assert clf.estimator.__dict__.keys() == clone(clf.estimator).__dict__.keys()  # what was passed stays unfitted


@pytest.mark.parametrize("scorer", ["margin", "random"])
def test_a_query_is_the_cores_answer(y, scorer):
    clf = classifier().fit(X, y)
    unlabelled = np.flatnonzero(np.isnan(y))
    qs = PruneFuseQuery(scorer, random_state=3)
    rows = qs.query(X, y, clf, batch_size=7)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, qs.query(X, y, clf, batch_size=7))
    np.testing.assert_array_equal(rows, PruneFuseQuery(scorer, random_state=3).query(X, y, clf, batch_size=7))
    if scorer == "margin":
        np.testing.assert_array_equal(rows, clf.estimator_.query(X, 7, scorer="margin", candidates=unlabelled))
        theirs = UncertaintySampling(method="margin_sampling", random_state=0).query(
            X, y, clf, fit_clf=False, batch_size=7
        )
        first, second = np.sort(clf.predict_proba(X), axis=1)[:, :-3:-1].T
        assert_same_picks(rows, theirs, first - second)
    else:
        assert set(rows) != set(PruneFuseQuery(scorer, random_state=4).query(X, y, clf, batch_size=7))


def test_candidates_and_utilities(y):
    clf, qs = classifier().fit(X, y), PruneFuseQuery("entropy", random_state=0)
    asked = np.array([250, 2, 13, 70])
    rows, utilities = qs.query(X, y, clf, candidates=asked, batch_size=2, return_utilities=True)
    assert set(rows) < set(asked)
    assert utilities.shape == (2, 400)
    assert set(np.flatnonzero(~np.isnan(utilities[0]))) == set(asked)
    p = clf.predict_proba(X[asked])
    np.testing.assert_allclose(utilities[0][asked], -(p * np.log(p)).sum(1), atol=1e-5)
    assert np.nanargmax(utilities[0]) == rows[0]
    assert np.isnan(utilities[1][rows[0]])
    assert np.nanargmax(utilities[1]) == rows[1]
    positions, same = qs.query(X, y, clf, candidates=X[asked], batch_size=2, return_utilities=True)
    assert_same_picks(asked[positions], rows, utilities[0])  # read in another order
    np.testing.assert_allclose(same, utilities[:, asked], rtol=1e-4, atol=1e-6)
    assert int(np.isnan(qs.query(X, y, clf, return_utilities=True)[1]).sum()) == is_labeled(y).sum()
    with pytest.warns(UserWarning, match="'batch_size=9' is larger"):
        assert len(qs.query(X, y, clf, candidates=asked, batch_size=9)) == 4


def test_a_scorer_of_batches_marks_its_picks_and_needs_the_network(y):
    clf, qs = classifier().fit(X, y), PruneFuseQuery(Spread())
    rows, utilities = qs.query(X, y, clf, batch_size=3, return_utilities=True)
    assert [np.nanargmax(line) for line in utilities] == rows.tolist()
    assert np.nansum(utilities, axis=1).tolist() == [1, 1, 1]
    assert np.isnan(utilities).sum(1).tolist() == [99, 100, 101]
    flat = X.reshape(400, -1)
    with pytest.raises(InputError, match="reads features, but all that was given here is logits"):
        qs.query(flat, y, ParzenWindowClassifier(classes=range(10)).fit(flat, y))


def test_any_of_their_classifiers_may_be_asked(y):
    flat = X.reshape(400, -1)
    clf = ParzenWindowClassifier(classes=range(10), random_state=0)
    rows = PruneFuseQuery("least_confidence", random_state=0).query(flat, y, clf, fit_clf=True, batch_size=5)
    assert not hasattr(clf, "classes_")
    worst = clf.fit(flat, y).predict_proba(flat).max(1)
    assert sorted(worst[rows]) == pytest.approx(sorted(np.sort(worst[np.isnan(y)])[:5]))


def test_their_strategies_take_the_classifier(y):
    clf = classifier().fit(X, y)
    p, embeddings = clf.predict_proba(X, return_embeddings=True)
    assert (p.shape, embeddings.shape) == ((400, 10), (400, 8))
    np.testing.assert_allclose(p.sum(1), 1)
    rows = Badge(random_state=0, clf_embedding_flag_name="return_embeddings").query(
        X, y, clf, fit_clf=False, batch_size=4
    )
    assert len(set(rows)) == 4


@pytest.mark.parametrize(
    ("missing", "names"), [(None, "object"), ("", "str"), (-1, "int64"), (MISSING_LABEL, "float64")]
)
def test_missing_labels_of_any_kind(missing, names):
    known = {"object": ["a", "b", "c"], "str": ["a", "b", "c"], "int64": [4, 5, 7], "float64": [0.5, 1.5, 2.5]}[names]
    truth = np.array(known, dtype=object if names == "object" else None)[TRUE % 3]
    y = truth.copy()
    y[::2] = missing
    clf = classifier(classes=known, missing_label=missing).fit(X, y)
    assert clf.classes_.tolist() == known
    assert set(clf.predict(X)) <= set(known)
    assert clf.score(X[1::2], truth[1::2]) > 0.6
    rows = PruneFuseQuery(missing_label=missing).query(X, y, clf, batch_size=3)
    assert (rows % 2 == 0).all()
    with pytest.raises((TypeError, ValueError), match=r"missing_label|must be uniformly"):
        PruneFuseQuery(missing_label=missing).query(X, y, clf.set_params(missing_label="?"))


def test_a_cost_matrix_moves_the_prediction(y):
    costs = 1 - np.eye(10)
    costs[:, 3] = 0  # to predict 3 is free
    assert set(classifier(cost_matrix=costs).fit(X, y).predict(X)) == {3}


def test_nothing_to_learn_from_yet():
    nothing = np.full(400, MISSING_LABEL)
    clf = classifier().fit(X, nothing)
    np.testing.assert_array_equal(clf.predict_proba(X), np.full((400, 10), 0.1))
    rows = PruneFuseQuery(random_state=0).query(X, nothing, clf, batch_size=20)
    assert set(rows) != set(PruneFuseQuery(random_state=1).query(X, nothing, clf, batch_size=20))
    for call in (clf.fit_target, lambda: clf.predict_proba(X, return_embeddings=True)):
        with pytest.raises(NotFittedError, match=r"no network has been trained.*label some rows"):
            call()
    one = nothing.copy()
    one[3] = 1
    np.testing.assert_array_equal(classifier(classes=None).fit(X, one).predict_proba(X), np.ones((400, 1)))
    with pytest.raises(ValueError, match="No class label is known"):
        classifier(classes=None).fit(X, nothing)


def test_errors_of_training_come_through(y):
    """scikit-activeml's own wrapper would go on with an untrained classifier."""
    broken = X.copy()
    broken[5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        classifier().fit(broken, y)
    small = classifier().set_params(estimator__module=seeded(lambda: network((1, 8, 8), 3)))
    with pytest.raises(InputError, match="classes= has 10 labels, the network has 3 outputs"):
        small.fit(X, y)
    with pytest.raises(TypeError, match="must be a PruneFuseEstimator"):
        PruneFuseClassifier(np.zeros, classes=range(10)).fit(X, y)
    clf = classifier().fit(X, y)
    with pytest.raises(BudgetError, match="no candidates"), pytest.warns(UserWarning, match="'batch_size=0' was set"):
        PruneFuseQuery().query(X, TRUE.astype(float), clf)  # nothing is left to label
    with pytest.raises(TypeError, match=r"must have type .*SkactivemlClassifier"):
        PruneFuseQuery().query(X, y, clf.estimator_)
    with pytest.raises(NotFittedError):
        PruneFuseQuery().query(X, y, classifier())
    with pytest.raises(ValueError, match="features"):
        clf.predict_proba(X.reshape(400, -1))


def test_copies_grid_search_and_row_numbers(y):
    clf = classifier().fit(X, y)
    p = clf.predict_proba(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), p)
    np.testing.assert_array_equal(clone(clf).fit(X, y).predict_proba(X), p)
    rows = np.arange(400)[:, None]
    lazy = classifier().set_params(estimator__dataset=X).fit(rows, y)
    np.testing.assert_allclose(lazy.predict_proba(rows), p, atol=1e-5)
    asked = PruneFuseQuery().query(rows, y, lazy, batch_size=5), PruneFuseQuery().query(X, y, clf, batch_size=5)
    assert_same_picks(*asked, p.max(1))
    known = is_labeled(y)
    grid = {"estimator__pruning_ratio": [0.25, 0.5]}
    search = GridSearchCV(classifier(), grid, cv=2).fit(X[known], TRUE[known])
    width = search.best_estimator_.estimator_.embed(X[:2]).shape[1]
    assert width == 16 * (1 - search.best_params_["estimator__pruning_ratio"])


def test_a_pretrained_network_is_repaired_on_all_rows(y):
    net = seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    )
    quick = TorchTrainer(2, progress=False, device="cpu")
    quick.fit(net, (X[5:400:4], TRUE[5:400:4]), seed=0)
    clf = PruneFuseClassifier(PruneFuseEstimator(net, trainer=quick, random_state=0), classes=range(10))
    first = clf.fit(X, y).estimator_.selector_
    assert first.proxy.repair_report.rows == len(X)
    assert clf.fit(X.copy(), y).estimator_.selector_ is first  # other rows of X do not start over
    assert [row.stage for row in first.costs.rows()].count("repair") == 1
