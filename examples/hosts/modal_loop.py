"""modAL: its loop with a skorch net, and with a pruned proxy. Real pictures: scikit-learn's digits.

    pip install "prunefuse_al[modal]" "skorch>=1.4" && python examples/hosts/modal_loop.py

pip may say that modAL pins skorch 0.9, which today's setuptools cannot import: "before" needs a newer one. Lines that
differ are marked.
"""

from __future__ import annotations

import numpy as np
import torch
from modAL.models import ActiveLearner
from modAL.uncertainty import margin_sampling
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.modal import query_strategy

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
POOL, TEST = np.arange(60, 1200), np.arange(1200, 1797)


def network() -> nn.Module:
    """Return two convolutions and a linear layer, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )


def adam(parameters: object) -> torch.optim.Optimizer:
    """Return the optimizer of "after"."""
    return torch.optim.Adam(parameters, 0.01)  # type: ignore[arg-type]


def before() -> float:
    """Return the test accuracy of modAL's loop with the whole network in skorch."""
    classifier = NeuralNetClassifier(
        network, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=0.01, max_epochs=15, batch_size=16,
        train_split=None, verbose=0,
    )  # fmt: skip
    learner = ActiveLearner(classifier, margin_sampling, X_training=X[:60], y_training=Y[:60])
    pool = POOL
    for _ in range(3):
        rows, samples = learner.query(X[pool], n_instances=40)
        learner.teach(samples, Y[pool[rows]])
        pool = np.delete(pool, rows)
    return float(learner.score(X[TEST], Y[TEST]))


def after() -> float:
    """Return the test accuracy of the target fused from the pruned proxy that chose."""
    trainer = TorchTrainer(15, 16, optimizer=adam, progress=False)  # changed
    classifier = PruneFuseEstimator(network(), 0.5, trainer=trainer, random_state=0)  # changed
    learner = ActiveLearner(classifier, query_strategy("margin"), X_training=X[:60], y_training=Y[:60])  # changed
    pool = POOL
    for _ in range(3):
        rows, samples = learner.query(X[pool], n_instances=40)
        expected = classifier.selector_.select(X[pool], 40, scorer="margin").indices  # the core, asked directly, agrees
        assert sorted(rows) == sorted(expected.tolist())
        learner.teach(samples, Y[pool[rows]])
        pool = np.delete(pool, rows)
    learner.estimator.fit_target()  # changed
    print(f"choosing took {classifier.costs_.ratio():.2f} of the dense network's multiply-accumulates")
    return float(learner.score(X[TEST], Y[TEST]))


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"test accuracy on 180 labels, before {before():.3f}, after {after():.3f}")
