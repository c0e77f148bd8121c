"""The modAL adapter on the version that is installed; test_modal_versions.py runs this file on both."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from fakes import assert_same_picks
from hosts import need_host
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_X_y

from prunefuse_al.errors import BudgetError, InputError
from prunefuse_al.scorers import SCORERS, LeastConfidence, get_scorer

modAL_models = need_host("modal", "modAL.models")
from modAL.models import ActiveLearner, Committee  # noqa: E402
from modAL.uncertainty import uncertainty_sampling  # noqa: E402

from prunefuse_al.adapters import modal  # noqa: E402
from prunefuse_al.adapters.modal import query_strategy, repair_modal, restore_modal  # noqa: E402

NEWER = hasattr(modAL_models, "DeepActiveLearner")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    X = rng.normal(size=(90, 4)) + 2 * np.eye(3, 4)[y]
    return X, y


@pytest.fixture
def learner(data):
    X, y = data
    return ActiveLearner(LogisticRegression(), query_strategy("margin"), X_training=X[:20], y_training=y[:20])


def picks(learner, pool, **kwargs):
    rows, samples = learner.query(pool, **kwargs)
    np.testing.assert_array_equal(samples, pool[rows])
    return rows


@pytest.mark.parametrize("name", [name for name in SCORERS if get_scorer(name).needs <= {"logits"}])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_query_gives_k_rows_of_the_pool(learner, data, name, k):
    """k = 2 is the case that modAL 0.4.2.1 takes apart when a strategy returns only rows."""
    pool = data[0][20:]
    learner.query_strategy = query_strategy(name)
    rows = picks(learner, pool, n_instances=k)
    assert (rows.dtype, rows.shape, len(set(rows.tolist()))) == (np.int64, (k,), k)
    np.testing.assert_array_equal(rows, picks(learner, pool, n_instances=k))


def test_least_confidence_agrees_with_modal(learner, data):
    pool = data[0][20:]
    learner.query_strategy = query_strategy("least_confidence")
    ours = picks(learner, pool, n_instances=5)
    learner.query_strategy = uncertainty_sampling
    highest = learner.predict_proba(pool).max(1)
    theirs = picks(learner, pool, n_instances=5)
    assert_same_picks(ours, theirs[highest[theirs].argsort()], highest)


@pytest.mark.skipif(not NEWER, reason="modAL 0.4.1 has no metrics")
def test_scores_come_back_as_metrics(learner, data):
    pool = data[0][20:]
    rows, _, scores = learner.query(pool, n_instances=4, return_metrics=True)
    p = np.sort(learner.predict_proba(pool), 1)
    np.testing.assert_allclose(scores, (1 - p[:, -1] + p[:, -2])[rows], rtol=1e-9)


def test_probabilities_of_zero_and_one_are_ranked_and_nan_is_refused():
    class Certain:
        def __init__(self, probabilities):
            self.probabilities = np.array(probabilities)

        def predict_proba(self, X):
            return self.probabilities

    strategy = query_strategy("entropy")
    rows, scores = strategy._select(Certain([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), np.zeros((3, 1)), 1)
    assert (rows.tolist(), scores.tolist()) == ([2], [pytest.approx(np.log(2))])
    with pytest.raises(ValueError, match=r"of 1 of 2 samples are NaN or infinite: indices \[1\]"):
        strategy(Certain([[1.0, 0.0], [np.nan, 0.0]]), np.zeros((2, 1)))


def test_the_estimators_own_query_is_called_once_and_with_the_seed(data):
    X, y = data
    proxy = Recorder().fit(X, y)
    learner = ActiveLearner(proxy, query_strategy("margin", random_state=5))
    assert picks(learner, X, n_instances=3).tolist() == [2, 1, 0]
    ((pool, k, scorer, seed),) = proxy.calls
    assert (k, repr(scorer), seed) == (3, "Margin()", 5)
    assert pool is X


def test_a_pipeline_is_followed_to_its_last_step(data):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), Recorder()).fit(X, y)
    assert picks(ActiveLearner(pipeline, query_strategy()), X, n_instances=2).tolist() == [1, 0]
    np.testing.assert_allclose(pipeline[-1].calls[0][0], pipeline[0].transform(X))


def test_errors_reach_the_caller_and_name_the_numbers(learner, data):
    pool = data[0][20:]
    with pytest.raises(BudgetError, match="k=71 but there are 70 candidates"):
        learner.query(pool, n_instances=71)
    with pytest.raises(InputError, match="reads features, but all that was given here is logits"):
        query_strategy(NeedsFeatures())(learner, pool)
    with pytest.raises(InputError, match="did you mean 'margin'"):
        query_strategy("margn")


@pytest.mark.parametrize("only_new", [False, True])
def test_fit_teach_and_score_run_on_this_scikit_learn(learner, data, only_new):
    X, y = data
    learner.fit(X[:30], y[:30])
    learner.teach(X[30:50], y[30:50], only_new=only_new)
    assert len(learner.X_training) == (30 if only_new and NEWER else 50)  # 0.4.1 keeps the new rows either way
    assert learner.score(X, y) > 0.5
    with pytest.raises(ValueError, match="NaN"):
        learner.teach(np.full((1, 4), np.nan), np.array([0]))


def test_a_committee_is_asked_for_its_consensus(data):
    X, y = data
    members = [ActiveLearner(LogisticRegression(C=c), X_training=X[:20], y_training=y[:20]) for c in (0.1, 1.0)]
    committee = Committee(members, query_strategy("least_confidence"))
    rows = picks(committee, X[20:], n_instances=4)
    highest = committee.predict_proba(X[20:]).max(1)
    assert_same_picks(rows, highest.argsort()[:4], highest)
    committee.teach(X[20:][rows], y[20:][rows])
    assert committee.score(X, y) > 0.5


def test_strategies_pickle_compare_and_print():
    strategy = query_strategy("margin", random_state=3)
    assert pickle.loads(pickle.dumps(strategy)) == strategy
    assert repr(strategy) == "QueryStrategy(scorer=Margin(), random_state=3)"


def test_the_repair_is_narrow_reversible_and_announced_once(learner, data, caplog):
    import sklearn.utils

    assert repair_modal() == []  # importing the adapter did it
    modules = restore_modal()
    assert modules == ["modAL.models.learners" if NEWER else "modAL.models.base"]
    try:
        assert restore_modal() == []
        with pytest.raises((TypeError, FutureWarning), match="force_all_finite"):  # refused from 1.8, warned of before
            learner.fit(*data)
    finally:
        with caplog.at_level(logging.WARNING):
            assert repair_modal() == modules
    assert repair_modal() == []
    (record,) = caplog.records
    assert "scikit-learn renamed" in record.getMessage()
    assert modules[0] in record.getMessage()
    assert sklearn.utils.check_X_y is check_X_y
    learner.fit(*data)


def test_nothing_is_repaired_where_the_old_argument_is_the_only_one(monkeypatch):
    def old(X, y, *, force_all_finite=True):
        return X, y

    modules = restore_modal()
    try:
        monkeypatch.setattr(modal, "check_X_y", old)
        assert repair_modal() == []
    finally:
        monkeypatch.undo()
        assert repair_modal() == modules


@dataclass(frozen=True)
class NeedsFeatures(LeastConfidence):
    needs: ClassVar[frozenset[str]] = frozenset({"features"})


class Recorder(LogisticRegression):
    """Stands in for a proxy: remembers how it was queried, and picks the first rows backwards."""

    def query(self, X, n_instances, scorer=None, random_state=None, return_scores=False):
        self.calls = [*getattr(self, "calls", []), (X, n_instances, scorer, random_state)]
        rows = np.arange(n_instances)[::-1]
        return (rows, np.ones(n_instances)) if return_scores else rows
