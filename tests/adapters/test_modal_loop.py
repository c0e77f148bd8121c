"""modAL's own learners around a PruneFuseEstimator, from the first labels to the fused target."""

# ruff: noqa: E402
from __future__ import annotations

import numpy as np
import pytest
import torch
from hosts import need_host
from sklearn.datasets import load_digits
from torch import nn

need_host("modal", "modAL.models")
from modAL.models import ActiveLearner, Committee
from modAL.uncertainty import uncertainty_sampling

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.modal import query_strategy
from prunefuse_al.proxies import Probe

OURS = query_strategy("entropy")


def network():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.005)


def estimator(seed=0):
    trainer = TorchTrainer(60, 16, optimizer=adam, device="cpu", progress=False)
    return PruneFuseEstimator(lambda shape, classes: network(), 0.5, trainer=trainer, random_state=seed)


@pytest.fixture(scope="module")
def digits():
    images, y = load_digits(return_X_y=True)
    return images.reshape(-1, 1, 8, 8).astype(np.float32) / 16, y


def learner(digits, strategy=OURS, seed=0):
    X, y = digits
    return ActiveLearner(estimator(seed), strategy, X_training=X[:100], y_training=y[:100])


@pytest.mark.parametrize("strategy", [uncertainty_sampling, OURS], ids=["modal", "ours"])
def test_a_probe_reads_each_picture_once(digits, strategy):
    X, y = digits
    probe = estimator().set_params(proxy=Probe())
    active, pool = ActiveLearner(probe, strategy, X_training=X[:100], y_training=y[:100]), np.arange(100, 500)
    for _ in range(2):
        rows, samples = active.query(X[pool], n_instances=50)
        active.teach(samples, y[pool[rows]])
        pool = np.delete(pool, rows)
    computed = [row.samples for row in active.estimator.costs_.rows() if row.stage == "features"]
    assert sum(computed) == (500 if strategy is OURS else 200)  # what modAL asks for by predict_proba is not kept
    assert active.estimator.fit_target().target_[-1].in_features == 32


def scored(est):
    return sum(row.samples for row in est.costs_.rows() if row.stage == "score")


@pytest.mark.parametrize("strategy", [uncertainty_sampling, OURS], ids=["modal", "ours"])
@pytest.mark.parametrize("only_new", [False, True])
def test_the_whole_loop(digits, strategy, only_new):
    X, y = digits
    active = learner(digits, strategy)
    pool = np.arange(100, 500)
    for _ in range(2):
        rows, samples = active.query(X[pool], n_instances=50)
        np.testing.assert_array_equal(samples, X[pool[rows]])
        assert len(set(rows.tolist())) == 50
        active.teach(samples, y[pool[rows]], only_new=only_new)
        assert active.score(samples, y[pool[rows]]) > 0.6
        pool = np.delete(pool, rows)
    before = active.score(X[500:], y[500:])
    assert before > (0.1 if only_new else 0.5)  # 50 uncertain rows alone do not even hold every digit
    target = active.estimator.fit_target().target_
    with torch.device("meta"):
        dense = network()
    assert [p.shape for p in target.parameters()] == [p.shape for p in dense.parameters()]
    assert active.score(X[500:], y[500:]) > before - 0.1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_query_is_one_pass_of_the_proxy_over_the_pool_and_the_cores_own_answer(digits, k):
    X, _ = digits
    active = learner(digits)
    pool = X[100:300]
    rows, _ = active.query(pool, n_instances=k)
    assert scored(active.estimator) == len(pool)
    assert (rows.dtype, rows.shape) == (np.int64, (k,))
    np.testing.assert_array_equal(rows, active.estimator.query(pool, k, scorer="entropy", random_state=0))
    np.testing.assert_array_equal(rows, active.query(pool, n_instances=k)[0])


def test_the_estimators_own_errors_come_through(digits):
    X, _ = digits
    with pytest.raises(ValueError, match="k=11 but there are 10 candidates"):
        learner(digits).query(X[:10], n_instances=11)
    with pytest.raises(ValueError, match="fit"):
        ActiveLearner(estimator(), OURS).query(X[:10])


def test_a_committee_of_proxies(digits):
    X, y = digits
    committee = Committee([learner(digits, seed=seed) for seed in (0, 1)], OURS)
    rows, _ = committee.query(X[100:200], n_instances=10)
    assert len(set(rows.tolist())) == 10
    committee.teach(X[100:200][rows], y[100:200][rows])
    assert committee.score(X[500:], y[500:]) > 0.3
    for member in committee:
        member.estimator.fit_target()


def test_string_labels_and_row_numbers_as_inputs(digits):
    X, y = digits
    names = np.array([f"digit {label}" for label in y])
    est = estimator().set_params(dataset=X)
    active = ActiveLearner(est, OURS, X_training=np.arange(100)[:, None], y_training=names[:100])
    rows, samples = active.query(np.arange(100, 300)[:, None], n_instances=20)
    np.testing.assert_array_equal(samples[:, 0], rows + 100)
    active.teach(samples, names[samples[:, 0]])
    assert active.score(np.arange(500, 800)[:, None], names[500:800]) > 0.3


@pytest.mark.parametrize("name", ["forgetting", "moderate", "ccs", "d2"])
def test_scorers_of_labels_and_of_training_by_name(digits, name):
    """The estimator was not told of the scorer, so its proxy is trained once more to see how it got there."""
    X, y = digits
    short = TorchTrainer(4, 16, optimizer=adam, device="cpu", progress=False)
    proxy = PruneFuseEstimator(lambda shape, classes: network(), 0.5, trainer=short, random_state=0)
    active = ActiveLearner(proxy, query_strategy(name), X_training=X[:100], y_training=y[:100])
    pool = np.arange(100, 200)
    for _ in range(2):
        rows, samples = active.query(X[pool], n_instances=20)
        assert len(set(rows.tolist())) == 20
        active.teach(samples, y[pool[rows]])
        pool = np.delete(pool, rows)
    trained = [(r.stage, r.round) for r in active.estimator.costs_.rows() if r.stage.endswith("train_proxy")]
    again = [] if name == "moderate" else [("retrain_proxy", 1)]
    assert trained == [("train_proxy", 1), *again, ("train_proxy", 2), ("train_proxy", 3)]
