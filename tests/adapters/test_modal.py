"""The modAL adapter on the version that is installed; test_modal_versions.py runs this file on both."""

from __future__ import annotations

import contextlib
import importlib
import logging
import pickle
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from fakes import assert_same_picks
from hosts import need_host
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_X_y

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.errors import BudgetError, InputError
from prunefuse_al.scorers import SCORERS, LeastConfidence, get_scorer

modAL_models = need_host("modal", "modAL.models")
import modAL.utils.data as modAL_data  # noqa: E402
import pandas  # noqa: E402
from modAL.models import ActiveLearner, Committee  # noqa: E402
from modAL.uncertainty import uncertainty_sampling  # noqa: E402

from prunefuse_al.adapters import modal  # noqa: E402
from prunefuse_al.adapters.modal import query_strategy, repair_modal, restore_modal  # noqa: E402

NEWER = hasattr(modAL_models, "DeepActiveLearner")
DROPPED = not hasattr(pandas.DataFrame, "append")
TRAINER = TorchTrainer(2, 16, device="cpu", progress=False)


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


@pytest.mark.parametrize("only_new", [False, True])
@pytest.mark.parametrize("kind", ["scikit-learn's", "ours"])
def test_teach_stacks_data_frames_on_this_pandas(data, kind, only_new):
    """pandas 2 dropped `DataFrame.append`, by which modAL stacks what it knows and what it is taught."""
    X, y = pandas.DataFrame(data[0], columns=list("abcd")), data[1]
    made = LogisticRegression() if kind == "scikit-learn's" else PruneFuseEstimator(random_state=0, trainer=TRAINER)
    learner = ActiveLearner(made, query_strategy("margin"), X_training=X[:20], y_training=y[:20])
    rows, samples = learner.query(X[20:], n_instances=3)
    pandas.testing.assert_frame_equal(samples, X[20:].iloc[rows])
    taught = samples if only_new else samples[list("dcba")]  # what is put together goes by name
    learner.teach(taught, y[20:][rows], only_new=only_new)
    if only_new and NEWER:  # 0.4.1 keeps the new rows either way
        return
    pandas.testing.assert_frame_equal(learner.X_training, pandas.concat([X[:20], samples]))
    assert learner.y_training.tolist() == [*y[:20], *y[20:][rows]]
    assert learner.predict(X).shape == (90,)


def test_committees_and_single_rows_stack_data_frames_too(data):
    X, y = pandas.DataFrame(data[0], columns=list("abcd")), data[1]
    members = [ActiveLearner(LogisticRegression(C=c), X_training=X[:20], y_training=y[:20]) for c in (0.1, 1.0)]
    committee = Committee(members, query_strategy("least_confidence"))
    committee.teach(X[20:25], y[20:25])
    assert [len(member.X_training) for member in committee] == [25, 25]
    one = modAL_data.add_row(X[:2], X.iloc[7])  # as modAL.expected_error does with what `iterrows` gives
    pandas.testing.assert_frame_equal(one, X.iloc[[0, 1, 7]])
    assert modAL_data.data_vstack([data[0][:2], data[0][5:]]).shape == (87, 4)
    assert modAL_data.data_vstack([csr_matrix(data[0]), csr_matrix(data[0])]).shape == (180, 4)
    with pytest.raises(TypeError, match="cannot concatenate object of type"):
        modAL_data.data_vstack([X, data[0]])


def test_the_repairs_are_narrow_reversible_and_announced_once(learner, data, caplog):
    import sklearn.utils

    frames = pandas.DataFrame(data[0])
    assert repair_modal() == []  # importing the adapter did it
    modules = restore_modal()
    checking = "modAL.models.learners" if NEWER else "modAL.models.base"
    stacking = {"modAL.utils", "modAL.utils.data", checking} if DROPPED else set()
    assert set(modules) >= {checking} | stacking  # and what else of modAL has been imported
    try:
        assert restore_modal() == []
        with pytest.raises((TypeError, FutureWarning), match="force_all_finite"):  # refused from 1.8, warned of before
            learner.fit(*data)
        with pytest.raises(AttributeError, match="append") if DROPPED else contextlib.nullcontext():
            modAL_data.data_vstack([frames, frames])
    finally:
        with caplog.at_level(logging.WARNING):
            assert repair_modal() == modules
    assert repair_modal() == []
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 + DROPPED
    assert f"scikit-learn renamed to `ensure_all_finite`: it is translated in {checking} (undo with" in said[0]
    assert all("which pandas dropped" in text and module in text for text in said[1:] for module in stacking)
    assert sklearn.utils.check_X_y is check_X_y
    assert hasattr(pandas.DataFrame, "append") != DROPPED
    learner.fit(*data)


def test_nothing_is_repaired_where_the_old_forms_are_the_only_ones(monkeypatch):
    def old(X, y, *, force_all_finite=True):
        return X, y

    modules = restore_modal()
    try:
        monkeypatch.setattr(modal, "check_X_y", old)
        monkeypatch.setattr(pandas.DataFrame, "append", pandas.DataFrame.add, raising=False)
        assert repair_modal() == []
    finally:
        monkeypatch.undo()
        assert repair_modal() == modules


def test_what_modal_imports_later_is_repaired_and_put_back_too(data, monkeypatch):
    monkeypatch.delitem(sys.modules, "modAL.batch", raising=False)
    batch = importlib.import_module("modAL.batch")  # takes data_vstack from where it was repaired
    assert repair_modal() == []
    frames = pandas.DataFrame(data[0])
    assert len(batch.data_vstack((frames, frames))) == 180
    assert ("modAL.batch" in restore_modal()) == DROPPED
    assert "modAL.batch" in repair_modal() or not DROPPED


@dataclass(frozen=True)
class NeedsFeatures(LeastConfidence):
    needs: ClassVar[frozenset[str]] = frozenset({"features"})


class Recorder(LogisticRegression):
    """Stands in for a proxy: remembers how it was queried, and picks the first rows backwards."""

    def query(self, X, n_instances, scorer=None, random_state=None, return_scores=False):
        self.calls = [*getattr(self, "calls", []), (X, n_instances, scorer, random_state)]
        rows = np.arange(n_instances)[::-1]
        return (rows, np.ones(n_instances)) if return_scores else rows
