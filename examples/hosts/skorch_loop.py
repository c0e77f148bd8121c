"""skorch: a training script that picks its own labels, before and after. Real pictures: scikit-learn's digits.

    pip install "prunefuse_al[skorch]" && python examples/hosts/skorch_loop.py

What differs stands between "before" and "after"; module, criterion, optimizer, callbacks and the loop stay.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring, LRScheduler
from torch import Tensor, nn

from prunefuse_al import Signals, get_scorer
from prunefuse_al.adapters.skorch import PruneFuseNet

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
POOL, TEST = np.arange(1200), np.arange(1200, 1797)
SETTINGS = {
    "criterion": nn.CrossEntropyLoss,
    "optimizer": torch.optim.Adam,
    "lr": 0.01,
    "max_epochs": 15,
    "batch_size": 16,
    "train_split": None,
    "callbacks": [LRScheduler("CosineAnnealingLR", T_max=15), EpochScoring("accuracy", on_train=True)],
    "verbose": 0,
}


class Network(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, [n 10]."""
        logits: Tensor = self.layers(x)
        return logits


def before() -> float:
    """Return the test accuracy of the loop with skorch's own net."""
    net = NeuralNetClassifier(Network, **SETTINGS)
    labelled = POOL[:60]
    for _ in range(3):
        net.fit(X[labelled], y[labelled])
        unlabelled = np.setdiff1d(POOL, labelled)
        uncertain = np.argsort(net.predict_proba(X[unlabelled]).max(1))[:40]
        labelled = np.append(labelled, unlabelled[uncertain])
    net.fit(X[labelled], y[labelled])
    return float(net.score(X[TEST], y[TEST]))


def after() -> float:
    """Return the test accuracy of the same loop with the pruned proxy, and of the target fused from it."""
    net = PruneFuseNet(Network, scorer="least_confidence", random_state=0, **SETTINGS)  # changed
    labelled = POOL[:60]
    for _ in range(3):
        net.fit(X[labelled], y[labelled])
        unlabelled = np.setdiff1d(POOL, labelled)
        uncertain = net.query(X[unlabelled], k=40)  # changed
        assert_the_core_agrees(net, X[unlabelled], uncertain)
        labelled = np.append(labelled, unlabelled[uncertain])
    net.fit(X[labelled], y[labelled]).fit_target()  # changed
    print(f"choosing took {net.costs_.ratio():.2f} of the dense network's multiply-accumulates")
    return float(net.score(X[TEST], y[TEST]))


def assert_the_core_agrees(net: PruneFuseNet, pool: np.ndarray, picked: np.ndarray) -> None:
    """Pick with the core alone, from what the proxy says."""
    signals = Signals(torch.arange(len(pool)), logits=net.forward(pool))
    expected = get_scorer("least_confidence").select(signals, len(picked)).indices
    assert sorted(picked) == sorted(expected.tolist())


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"test accuracy on 180 labels, before {before():.3f}, after {after():.3f}")
