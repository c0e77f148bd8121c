"""A scorer of your own, held to the contract, beside a built-in one on real digits: `python examples/own_scorer.py`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.datasets import load_digits

from prunefuse_al import PruneFuseEstimator, Signals
from prunefuse_al.scorers import Entropy
from prunefuse_al.testing.contracts import check_scorer


@dataclass(frozen=True)
class Tempered:
    """Entropy of softened predictions: a network trained on few labels is surer than it should be."""

    temperature: float = 3.0
    needs: ClassVar = frozenset({"logits"})

    def score(self, signals):  # of each sample by itself, so a pool of any size is scored in parts
        return Entropy().score(Signals(signals.indices, signals.logits / self.temperature))

    def select(self, signals, k, *, rng=None):
        return Entropy().select(Signals(signals.indices, signals.logits / self.temperature), k, rng=rng)


X, y = load_digits(return_X_y=True)
print(f"the contract holds: {len(check_scorer(Tempered()))} checks")
for scorer in (Tempered(), "entropy", "random"):
    labelled = np.arange(50)
    estimator = PruneFuseEstimator(scorer=scorer, classes=range(10), random_state=0)
    for _ in range(3):
        rest = np.setdiff1d(np.arange(1200), labelled)
        labelled = np.append(labelled, rest[estimator.fit(X[labelled], y[labelled]).query(X[rest], 30)])
    print(
        f"{scorer}: {estimator.fit(X[labelled], y[labelled]).score(X[1200:], y[1200:]):.3f} with {len(labelled)} labels"
    )
