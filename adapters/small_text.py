"""small-text 1.4 (``pip install small-text``): text classifiers thinned for its `PoolBasedActiveLearner`.

    from small_text import PoolBasedActiveLearner
    from transformers import AutoModelForSequenceClassification
    from prunefuse_al import PruneFuseEstimator, TorchTrainer
    from prunefuse_al.adapters.small_text import PruneFuseClassifierFactory, ScorerStrategy

    model = AutoModelForSequenceClassification.from_pretrained("distilbert-base-uncased", num_labels=2)
    factory = PruneFuseClassifierFactory(PruneFuseEstimator(model, 0.5, trainer=TorchTrainer(...)), num_classes=2)
    learner = PoolBasedActiveLearner(factory, ScorerStrategy("margin"), dataset)  # a TransformersDataset
    learner.initialize_data(indices, y)
    indices = learner.query(num_samples=20)
    learner.update(y[indices])
    target = factory.fit_target()

small-text makes a new classifier every round. What lasts, the starting weights, the pruned network, the costs, and what
is labelled, is kept by the factory. small-text's own strategies work with the classifier, those of embeddings too.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunefuse_al.adapters import require_host
from prunefuse_al.data import alone
from prunefuse_al.errors import InputError, NotFittedError
from prunefuse_al.estimator import PruneFuseEstimator
from prunefuse_al.network import from_probabilities
from prunefuse_al.scorers import get_scorer
from prunefuse_al.selector import select_known
from prunefuse_al.types import RngLike, Scorer, Signals

require_host("small_text", extra="small_text")

from small_text.classifiers import AbstractClassifierFactory, Classifier, EmbeddingMixin  # noqa: E402
from small_text.query_strategies import QueryStrategy  # noqa: E402
from small_text.utils.data import check_training_data  # noqa: E402


class PruneFuseClassifierFactory(AbstractClassifierFactory):
    """Makes a classifier for every round, and keeps what lasts from one to the next.

    Args:
        estimator: a `PruneFuseEstimator`, not fitted; its network takes `input_ids` and `attention_mask`, as those of
            Hugging Face do.
        num_classes: how many classes there are, labelled from 0.
        unlabelled: a dataset of small-text that the proxy of a pretrained network is repaired on: the one that the
            learner is given. small-text shows a classifier what is labelled and, not before its first query, the pool;
            so with None the rows of the first training serve, unless `estimator` has `unlabelled` itself.

    Attributes:
        estimator: as it was after the last training.

    Raises:
        InputError: `estimator` is something else, or `unlabelled` is no dataset with texts, or was given twice.
    """

    def __init__(self, estimator: PruneFuseEstimator, num_classes: int, unlabelled: Any = None) -> None:
        if not isinstance(estimator, PruneFuseEstimator):
            raise InputError(f"estimator is a {type(estimator).__name__}; pass a PruneFuseEstimator around the network")
        options: dict[str, Any] = {"classes": range(num_classes)}
        if unlabelled is not None:
            options["unlabelled"] = _texts(unlabelled, estimator)
        self.estimator: PruneFuseEstimator = copy.copy(estimator).set_params(**options)
        self.num_classes = num_classes

    def new(self) -> PruneFuseClassifier:
        """Return a classifier, not trained."""
        return PruneFuseClassifier(self)

    def train(self, inputs: Any, y: np.ndarray, weights: Any) -> PruneFuseEstimator:
        """Return the estimator trained for one more round; those of earlier rounds stay what they were."""
        with alone():
            estimator: PruneFuseEstimator = copy.copy(self.estimator)
            if hasattr(estimator, "selector_"):
                estimator.selector_ = copy.copy(estimator.selector_)
            self.estimator = estimator.fit(inputs, y, weights)
        return estimator

    def fit_target(self) -> nn.Module:
        """Return the network fused and fine-tuned on what the last training saw; its classifier then answers by it.

        Raises:
            NotFittedError: no classifier was trained.
        """
        target: nn.Module = self.estimator.fit_target().target_
        return target


class PruneFuseClassifier(Classifier, EmbeddingMixin):
    """A classifier for one round, made by `PruneFuseClassifierFactory.new`."""

    def __init__(self, factory: PruneFuseClassifierFactory) -> None:
        self.factory, self.num_classes = factory, factory.num_classes
        self.estimator: PruneFuseEstimator | None = None

    def fit(self, train_set: Any, validation_set: Any = None, weights: Any = None) -> PruneFuseClassifier:
        """Train the proxy from its starting weights.

        Args:
            train_set: a dataset of small-text with one label for each text.
            validation_set: not used by a proxy's trainer, so it must be None.
            weights: sample weights [n].

        Raises:
            InputError: several labels for a text, or a validation set.
        """
        if train_set.is_multi_label:
            raise InputError("fit: the dataset is multi-label; a proxy is trained on one label for each text")
        if validation_set is not None:
            raise InputError(
                "fit: a validation set was given (indices_validation=), and a proxy's trainer holds out its own rows: "
                "leave it out, and pass TorchTrainer(early_stopping=EarlyStopping(...)) if training is to stop by it"
            )
        check_training_data(train_set, None, weights=weights)
        self.estimator = self.factory.train(inputs_of(train_set), train_set.y, weights)
        return self

    def predict(self, data_set: Any, return_proba: bool = False) -> Any:
        """Return labels, int64 [n]; with `return_proba` also probabilities [n c]."""
        proba = self.predict_proba(data_set)
        labels = proba.argmax(1)
        return (labels, proba) if return_proba else labels

    def predict_proba(self, data_set: Any) -> np.ndarray:
        """Return class probabilities, float64 [n c]."""
        if not len(data_set):
            return np.empty((0, self.num_classes))
        proba: np.ndarray = self._trained("predict_proba").predict_proba(inputs_of(data_set))
        return proba

    def embed(self, data_set: Any, return_proba: bool = False, pbar: Any = None, **_: Any) -> Any:
        """Return the inputs of the last linear layer, [n d]; with `return_proba` also probabilities [n c]."""
        proba, features = self._trained("embed").predict_proba(inputs_of(data_set), return_embeddings=True)
        return (features, proba) if return_proba else features

    def _trained(self, call: str) -> PruneFuseEstimator:
        if self.estimator is None:
            raise NotFittedError(f"{call}: this classifier is not trained yet; call fit(train_set) first")
        return self.estimator


class ScorerStrategy(QueryStrategy):
    """A scorer as small-text's query strategy.

    With a `PruneFuseClassifier` the proxy looks at the unlabelled texts once and the scorer may read any signal; with
    any other classifier it reads `predict_proba`, and `embed` for features.

    Args:
        scorer: name in `SCORERS` or a scorer.
        rng: breaks ties and draws; None: with a proxy derived from its `random_state` and the round.
    """

    def __init__(self, scorer: str | Scorer = "margin", rng: RngLike = None) -> None:
        self.scorer, self.rng = get_scorer(scorer), rng

    def query(
        self, clf: Any, dataset: Any, indices_unlabeled: Any, indices_labeled: Any, y: Any, n: int = 10
    ) -> np.ndarray:
        """Return the `n` texts to label next, int64 indices into `dataset`, best first."""
        self._validate_query_input(indices_unlabeled, n)
        rows = np.asarray(indices_unlabeled)
        if isinstance(clf, PruneFuseClassifier):
            estimator = clf._trained("query")
            picked: np.ndarray = estimator.query(
                inputs_of(dataset), n, scorer=self.scorer, candidates=rows, random_state=self.rng
            )
            return picked
        signals = _signals(clf, dataset[rows], self.scorer.needs)
        chosen: np.ndarray = rows[select_known(self.scorer, signals, n, self.rng).indices.numpy()]
        return chosen

    def __str__(self) -> str:
        return f"ScorerStrategy({self.scorer!r})"


def inputs_of(data_set: Any) -> Any:
    """Return a dataset of small-text as what a network takes: tokens and masks by name, or the array it holds."""
    if not hasattr(data_set, "data"):  # of scikit-learn's kind: one array
        return data_set.x
    items = data_set.data  # a view makes this list anew each time
    if len(items[0]) == 2:  # token numbers and a label
        return torch.stack([ids.reshape(-1) for ids, _ in items])
    names = ("input_ids", "attention_mask")
    return {name: torch.cat([item[place].reshape(1, -1) for item in items]) for place, name in enumerate(names)}


def _texts(unlabelled: Any, estimator: PruneFuseEstimator) -> Any:
    """Return a dataset of small-text as what a network takes, or raise `InputError` where that is of no use."""
    if estimator.unlabelled is not None:
        raise InputError("unlabelled= was given to the factory and to the estimator; give it to one of the two")
    known = hasattr(unlabelled, "x") and hasattr(unlabelled, "target_labels")  # its datasets share no class
    if not known or not len(unlabelled):
        found = "a dataset of no texts" if known else f"a {type(unlabelled).__name__}"
        raise InputError(
            f"unlabelled is {found}; pass a dataset of small-text, such as the one of the learner, or None"
        )
    return inputs_of(unlabelled)


def _signals(clf: Any, data_set: Any, needs: frozenset[str]) -> Signals:
    features: Tensor | None = None
    if "features" in needs:
        embedded, proba = clf.embed(data_set, return_proba=True)
        features = torch.from_numpy(np.asarray(embedded))
    else:
        proba = clf.predict_proba(data_set)
    p = torch.from_numpy(np.asarray(proba, dtype=np.float64))  # [n c]
    return replace(from_probabilities(torch.arange(len(p)), p), features=features)
