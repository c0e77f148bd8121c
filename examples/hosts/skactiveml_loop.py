"""scikit-activeml: a pool-based loop before and after. Real pictures: scikit-learn's digits.

    pip install "prunefuse_al[skactiveml]" && python examples/hosts/skactiveml_loop.py

"Before" is the same network, whole; what differs stands in `after`, line by line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skactiveml.pool import UncertaintySampling
from skactiveml.utils import MISSING_LABEL, unlabeled_indices
from sklearn.datasets import load_digits
from torch import nn

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.skactiveml import PruneFuseClassifier, PruneFuseQuery

X, TRUE = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
POOL, TEST = slice(0, 1200), slice(1200, 1797)
TRAINER = TorchTrainer(15, 16, optimizer=lambda p: torch.optim.Adam(p, 0.01), progress=False)


def network() -> nn.Module:
    """Return two convolutions and a linear layer, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )


def loop(clf: PruneFuseClassifier, query: Callable[[np.ndarray, Any], np.ndarray]) -> PruneFuseClassifier:
    """Label 60 pictures, then three times 40 that `query` asks for."""
    y = np.full(1200, MISSING_LABEL)
    y[:60] = TRUE[:60]
    for _ in range(3):
        clf.fit(X[POOL], y)
        picked = query(y, clf)
        y[picked] = TRUE[picked]
    return clf.fit(X[POOL], y)


def classifier(pruning_ratio: float) -> PruneFuseClassifier:
    """Return the classifier of the loop."""
    estimator = PruneFuseEstimator(network(), pruning_ratio, trainer=TRAINER, random_state=0)
    return PruneFuseClassifier(estimator, classes=range(10), random_state=0)


def before() -> float:
    """Return the test accuracy of scikit-activeml's strategy with the whole network."""
    qs = UncertaintySampling("margin_sampling", random_state=0)
    clf = loop(classifier(0), lambda y, clf: qs.query(X[POOL], y, clf, fit_clf=False, batch_size=40))
    return float(clf.score(X[TEST], TRUE[TEST]))


def after() -> float:
    """Return the test accuracy of the target fused from the pruned proxy that chose."""
    qs = PruneFuseQuery("margin", random_state=0)  # changed

    def query(y: np.ndarray, clf: PruneFuseClassifier) -> np.ndarray:
        picked: np.ndarray = qs.query(X[POOL], y, clf, batch_size=40)  # changed
        candidates = unlabeled_indices(y)  # the core, asked directly, agrees
        expected = clf.estimator_.selector_.select(X[POOL], 40, candidates, scorer="margin").indices
        assert sorted(picked) == sorted(expected.tolist())
        return picked

    clf = loop(classifier(0.5), query).fit_target()  # changed
    print(f"choosing took {clf.estimator_.costs_.ratio():.2f} of the dense network's multiply-accumulates")
    return float(clf.score(X[TEST], TRUE[TEST]))


if __name__ == "__main__":
    print(f"test accuracy on 180 labels, before {before():.3f}, after {after():.3f}")
