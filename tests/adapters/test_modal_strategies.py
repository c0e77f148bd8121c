"""modAL's own strategies with our estimator, on the version that is installed; test_modal_versions.py runs both."""

# ruff: noqa: E402
from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import seeded
from hosts import need_host
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn

modAL_models = need_host("modal", "modAL.models")
from modAL.batch import ranked_batch, uncertainty_batch_sampling
from modAL.density import information_density
from modAL.disagreement import consensus_entropy_sampling, max_disagreement_sampling, vote_entropy_sampling
from modAL.models import ActiveLearner, Committee
from modAL.uncertainty import classifier_uncertainty

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.modal import DeepEstimator, query_strategy
from prunefuse_al.errors import InputError, NotFittedError

NEWER = hasattr(modAL_models, "DeepActiveLearner")
deep_only = pytest.mark.skipif(not NEWER, reason="modAL 0.4.1 has no DeepActiveLearner and no modAL.dropout")

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:400]
Y = Y[:400]
FEW, POOL = slice(0, 80), slice(80, 200)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 24), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(24, 10),
    )  # fmt: skip


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def estimator(seed=0, kind=PruneFuseEstimator, epochs=30):
    trainer = TorchTrainer(epochs, 16, optimizer=adam, device="cpu", progress=False)
    return kind(seeded(network), 0.5, trainer=trainer, random_state=seed)


@pytest.fixture(scope="module")
def fitted():
    return estimator(kind=DeepEstimator).fit(X[FEW], Y[FEW])


@pytest.fixture
def learner(fitted):
    """A learner that holds its data without another training: modAL keeps the estimator by reference."""
    active = ActiveLearner(fitted)
    active.X_training, active.y_training = X[FEW], Y[FEW]
    return active


def rows_of(answer):
    return np.asarray(answer[0] if NEWER else answer)


@pytest.mark.parametrize("k", [1, 5])
def test_ranked_batch(learner, k):
    learner.query_strategy = uncertainty_batch_sampling
    rows, samples = learner.query(X[POOL], n_instances=k)
    assert len(set(np.asarray(rows).tolist())) == k
    np.testing.assert_array_equal(samples, X[POOL][rows])


def test_ranked_batch_may_compare_what_the_proxy_sees(learner, fitted):
    """In the place of pixels; the first pick maximises modAL's own sum of distance and uncertainty, done by hand."""
    known, pool = fitted.embed(X[FEW]), fitted.embed(X[POOL])
    uncertainty = classifier_uncertainty(learner, X[POOL])
    seen = SimpleNamespace(on_transformed=False, X_training=known)
    rows = rows_of(ranked_batch(seen, pool, uncertainty, n_instances=4, metric="euclidean", n_jobs=None))
    nearest = np.linalg.norm(pool[:, None] - known[None], axis=2).min(1)
    share = len(pool) / (len(pool) + len(known))
    by_hand = share * (1 - 1 / (1 + nearest)) + (1 - share) * uncertainty
    assert rows[0] == by_hand.argmax()
    assert len(set(rows.tolist())) == 4


def test_density_of_what_the_proxy_sees(fitted):
    density = information_density(fitted.embed(X[POOL]))
    assert density.shape == (120,)
    assert 0 < density.min() < density.max() < 1


@pytest.mark.parametrize("strategy", [vote_entropy_sampling, consensus_entropy_sampling, max_disagreement_sampling])
def test_a_committee_disagrees(strategy, committee):
    committee.query_strategy = strategy
    rows, samples = committee.query(X[POOL], n_instances=6)
    assert len(set(rows.tolist())) == 6
    np.testing.assert_array_equal(samples, X[POOL][rows])
    if strategy is consensus_entropy_sampling:
        p = np.mean([member.estimator.predict_proba(X[POOL]) for member in committee], axis=0)
        assert set(rows) == set(np.argsort((p * np.log(p)).sum(1))[:6])


@pytest.fixture(scope="module")
def committee():
    members = [ActiveLearner(estimator(seed), X_training=X[FEW], y_training=Y[FEW]) for seed in (0, 1)]
    return Committee(members)


def test_expected_error_reduction_says_why_not():
    with pytest.raises(InputError, match=r"trains the network once for every candidate and class.*'margin'"):
        query_strategy("expected_error_reduction")


@deep_only
@pytest.mark.parametrize("warm_start", [True, False])
def test_a_deep_active_learner(warm_start):
    active = modAL_models.DeepActiveLearner(estimator(kind=DeepEstimator), query_strategy("entropy"))
    active.num_epochs = 40
    active.batch_size = 8
    assert (active.num_epochs, active.batch_size, active.estimator.trainer.epochs) == (40, 8, 40)
    with pytest.raises(NotFittedError):
        active.query(X[POOL])
    active.fit(X[FEW], Y[FEW])
    rows, samples = active.query(X[POOL], n_instances=20)
    np.testing.assert_array_equal(rows, active.estimator.query(X[POOL], 20, scorer="entropy", random_state=0))
    active.teach(samples, Y[POOL][rows], warm_start=warm_start)
    by_hand = clone(active.estimator).fit(X[FEW], Y[FEW])
    (by_hand.partial_fit if warm_start else by_hand.fit)(samples, Y[POOL][rows])
    np.testing.assert_array_equal(active.predict_proba(X[POOL]), by_hand.predict_proba(X[POOL]))
    assert active.estimator.fit_target(X[FEW], Y[FEW]).module_[0].out_channels == 8


@deep_only
@pytest.mark.parametrize("name", ["bald", "mean_st", "max_entropy", "max_variationRatios"])
@pytest.mark.touches_global_rng  # modAL's passes draw their masks from torch's global generator
def test_dropout_strategies(learner, fitted, name):
    need_host("modal", "skorch", at_least="1.4")  # which modAL.dropout imports
    dropout = need_host("modal", "modAL.dropout")
    learner.query_strategy = partial(getattr(dropout, f"mc_dropout_{name}"), num_cycles=8)
    torch.manual_seed(0)
    rows, _ = learner.query(torch.from_numpy(X[POOL]), n_instances=6)
    assert len(set(rows.tolist())) == 6
    assert not any(module.training for module in fitted.module_.modules())
    predictions = dropout.get_predictions(learner, torch.from_numpy(X[POOL]), num_predictions=2)
    assert predictions[0].shape == (120, 10)
    assert not np.array_equal(*predictions)


def test_inference_is_what_the_estimator_predicts(fitted):
    fitted.module_.eval()
    with torch.no_grad():
        p = fitted.infer(torch.from_numpy(X[POOL])).softmax(1)
    np.testing.assert_allclose(p, fitted.predict_proba(X[POOL]), atol=1e-5)
    assert type(clone(fitted)) is DeepEstimator
    own = estimator(kind=DeepEstimator)
    trainer = own.trainer
    own.max_epochs = 3
    assert (trainer.epochs, own.trainer.epochs) == (30, 3)
    with pytest.raises(NotFittedError, match="fit"):
        _ = own.module_
