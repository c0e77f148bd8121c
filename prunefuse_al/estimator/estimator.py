"""The method as a scikit-learn classifier, so that any active-learning toolkit built on scikit-learn can use it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from torch import Tensor, nn

from .. import checks
from ..costs import CostLedger
from ..data import alone, as_dataset, as_weights
from ..errors import InputError, NotFittedError
from ..fusing import Fusion
from ..network import copied
from ..proxies import ProxyKind, PruningRatio
from ..pruning import GlobalScope
from ..selector import (
    Float64s,
    Options,
    PrunedProxySelector,
    WarmStart,
    call_rng,
    probabilities,
    refuse_alone,
    stored,
)
from ..training import LOGITS, Distillation, ProgressivePruning
from ..types import RngLike, Scorer, Signals, Trainer
from .conversion import read, read_labelled
from .keeping import beside_of, load_estimator
from .starting import ModuleFactory, start
from .targets import encode


class PruneFuseEstimator(ClassifierMixin, BaseEstimator):
    """A classifier that trains and answers with a pruned proxy, and becomes the fused target on request.

    `fit` trains the proxy: that is what an active-learning loop repeats and pays for. `fit_target` fuses and fine-tunes
    the dense network once the labels are in; predictions then come from it until the next `fit`. Every `fit` starts
    from the same weights, those the network had at the first one, and the network given is never changed.

    Args:
        module: a network; or a callable ``(input_shape, n_classes) -> network``; or None, a perceptron sized from a
            table of numbers. With a loss such as ``nn.BCEWithLogitsLoss()`` one output tells two classes.
        pruning_ratio: fraction of channels removed, 0 <= p < 1, or a function of the number of labelled samples, see
            `PrunedProxySelector`.
        classes: all labels there are, in the order of the network's outputs; needed when the first batch does not
            show them all, unless the labels are the numbers of the outputs.
        scorer: name in `SCORERS`, or any `Scorer`.
        trainer: any `Trainer`; None is a short full-precision one for tables, `TorchTrainer()` otherwise.
        importance: see `prune`.
        cross: see `fuse`.
        distillation: a `Distillation`, or None.
        target_trainer: see `PrunedProxySelector`.
        fine_tune_lr_scale: see `PrunedProxySelector`.
        sync_every: see `PrunedProxySelector`.
        sync_importance: see `PrunedProxySelector`.
        recalibrate: see `PrunedProxySelector`.
        recalibration_data: see `PrunedProxySelector`; data itself, not row numbers of `dataset`. Shared by clones.
        proxy: see `PrunedProxySelector`: a kind of proxy, such as ``Probe()``, or another network of as many outputs.
        progressive: see `PrunedProxySelector`.
        warm_start: whether `fit` trains on from the last weights, and how, see `PrunedProxySelector`; `partial_fit`
            always goes on from them as they are.
        dataset: a map-style Dataset (or arrays) that X then indexes: X holds row numbers, [n] or [n 1]. Pictures can so
            be loaded lazily by hosts that only know arrays.
        keep: see `prune`.
        parts: see `prune`.
        scope: see `prune`.
        round_to: see `prune`.
        candidate_fraction: see `PrunedProxySelector`.
        features_dtype: see `PrunedProxySelector`.
        features_path: see `PrunedProxySelector`.
        pretrained: see `PrunedProxySelector`.
        unlabelled: see `PrunedProxySelector`; data itself, not row numbers of `dataset`. Shared by clones.
        repair: see `PrunedProxySelector`.
        random_state: seed of everything.

    Attributes:
        classes_: labels, in the order of the columns of `predict_proba`.
        multilabel_: whether a row may have several labels, or none.
        selector_: the `PrunedProxySelector` that does the work.
        target_: the fused and fine-tuned network, after `fit_target`.
        n_features_in_: columns of a table.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> est = PruneFuseEstimator(random_state=0).fit(X[::3], y[::3])
        >>> est.query(X, n_instances=4).shape
        (4,)
        >>> est.fit_target().score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        module: nn.Module | ModuleFactory | None = None,
        pruning_ratio: PruningRatio = Options.pruning_ratio,
        *,
        classes: Any = None,
        scorer: str | Scorer = Options.scorer,
        trainer: Trainer | None = Options.trainer,
        importance: Any = Options.importance,
        cross: str | float | Fusion = Options.cross,
        distillation: Distillation | None = Options.distillation,
        target_trainer: Trainer | None = Options.target_trainer,
        fine_tune_lr_scale: float | str | None = Options.fine_tune_lr_scale,
        sync_every: int | None = Options.sync_every,
        sync_importance: Any = Options.sync_importance,
        recalibrate: bool = Options.recalibrate,
        recalibration_data: Any = Options.recalibration_data,
        progressive: ProgressivePruning | None = Options.progressive,
        warm_start: WarmStart = Options.warm_start,
        dataset: Any = None,
        keep: Any = Options.keep,
        parts: str = Options.parts,
        scope: str | GlobalScope = Options.scope,
        round_to: int | None = Options.round_to,
        candidate_fraction: float = Options.candidate_fraction,
        features_dtype: str = Options.features_dtype,
        features_path: str | os.PathLike[str] | None = Options.features_path,
        pretrained: bool | str = Options.pretrained,
        unlabelled: Any = Options.unlabelled,
        repair: bool | Mapping[str, Any] = Options.repair,
        random_state: RngLike = Options.random_state,
        proxy: ProxyKind | nn.Module | None = Options.proxy,
    ) -> None:
        self.module = module
        self.pruning_ratio = pruning_ratio
        self.classes = classes
        self.scorer = scorer
        self.trainer = trainer
        self.importance = importance
        self.cross = cross
        self.distillation = distillation
        self.target_trainer = target_trainer
        self.fine_tune_lr_scale = fine_tune_lr_scale
        self.sync_every = sync_every
        self.sync_importance = sync_importance
        self.recalibrate = recalibrate
        self.recalibration_data = recalibration_data
        self.progressive = progressive
        self.warm_start = warm_start
        self.dataset = dataset
        self.keep = keep
        self.parts = parts
        self.scope = scope
        self.round_to = round_to
        self.candidate_fraction = candidate_fraction
        self.features_dtype = features_dtype
        self.features_path = features_path
        self.pretrained = pretrained
        self.unlabelled = unlabelled
        self.repair = repair
        self.random_state = random_state
        self.proxy = proxy

    # Training

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> PruneFuseEstimator:
        """Train the proxy from the same starting weights as ever.

        Args:
            X: array, tensor or nested list [n ...], a sparse matrix [n d] (batches of it become dense), a map-style
                Dataset, or row numbers of `dataset`.
            y: labels [n], numbers or strings; or [n c] of 0 and 1, for labels of which a row may have several or none,
                which are trained and predicted as scikit-learn's `MLPClassifier` does; None: those of the Dataset.
            sample_weight: weights [n].

        Raises:
            InputError: the data or labels cannot be used.
        """
        return self._fit(X, y, sample_weight, self.classes, continued=False)

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None) -> PruneFuseEstimator:
        """Train the proxy on from its present weights, on these rows only; the first call starts it.

        Args:
            X: see `fit`.
            y: see `fit`.
            classes: all labels there are; used by the first call, instead of the constructor's.
            sample_weight: see `fit`.
        """
        given = self.classes if classes is None else classes
        return self._fit(X, y, sample_weight, given, continued=hasattr(self, "selector_"))

    def fit_target(self, X: Any = None, y: Any = None, sample_weight: Any = None) -> PruneFuseEstimator:
        """Fuse, and fine-tune the target; predictions come from it until the next `fit`.

        Args:
            X: see `fit`; None: the data of the last `fit` or `partial_fit` (not kept in pickles).
            y: see `fit`.
            sample_weight: see `fit`.
        """
        with alone():
            selector = self._fitted("fit_target")
            if X is None:
                refuse_alone("fit_target", "X", y=y, sample_weight=sample_weight)
                self.target_ = selector.fit_target()
                return self
            data, labels = read_labelled(self, X, y, "fit_target")
            codes = self._codes(labels, "fit_target")
            self.target_ = selector.fit_target(data, codes, sample_weight)
            return self

    # Answers

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the likeliest label of each row, [n]; of several labels a row, 1 for each that is found, [n c]."""
        with alone():  # the classes are those of the network that was asked
            proba = self.predict_proba(X)
            if self.multilabel_:
                found: np.ndarray[Any, Any] = (proba > 0.5).astype(np.int64)
                return found
            answer: np.ndarray[Any, Any] = self.classes_[proba.argmax(1)]  # [n]
        return answer

    def predict_proba(self, X: Any, return_embeddings: bool = False) -> Any:
        """Return class probabilities, float64 [n c], columns as `classes_`; with embeddings if asked.

        Rows sum to 1; of several labels a row each column is a probability of its own.
        """
        return_embeddings = checks.flag("return_embeddings", return_embeddings)
        needs = LOGITS | {"features"} if return_embeddings else LOGITS
        signals = self._signals(X, needs, "predict_proba")
        proba: Float64s = probabilities(signals)
        return (proba, _array(signals.features)) if return_embeddings else proba

    def embed(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the inputs of the last linear layer, [n d]."""
        return _array(self._signals(X, frozenset({"features"}), "embed").features)

    def query(
        self,
        X_pool: Any,
        n_instances: int = 1,
        *,
        scorer: str | Scorer | None = None,
        candidates: Any = None,
        random_state: RngLike = None,
        return_scores: bool = False,
    ) -> Any:
        """Return the samples to label next, asking the proxy.

        Args:
            X_pool: see `fit`.
            n_instances: how many.
            scorer: used instead of the estimator's own.
            candidates: row numbers or a boolean mask of what may be picked; None: the whole pool.
            random_state: seed of draws and ties for this call; the same call gives the same answer.
            return_scores: return also the scores, float [k], or None where the scorer has none.

        Returns:
            int64 [k], best first, indices into `X_pool`.
        """
        n_instances = checks.whole("n_instances", n_instances, what="a whole number of samples")
        return_scores = checks.flag("return_scores", return_scores)
        with alone():
            selector = self._fitted("query")
            data = read(self, X_pool)
            rng = None if random_state is None else call_rng(random_state, selector.round, len(as_dataset(data)))
            picked = selector.select(data, n_instances, candidates, scorer=scorer, rng=rng)
        return picked.arrays() if return_scores else picked.arrays()[0]

    @property
    def costs_(self) -> CostLedger:
        """What every stage of every fit since the estimator was made has cost."""
        return self._fitted("costs_").costs

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the estimator to one file, from which `load` makes one that answers and picks as this one.

        It is the file of its selector, see `PrunedProxySelector.save`, with the classes and the target beside; so
        `PrunedProxySelector.load` reads it too. Neither the labelled data nor `dataset` nor `unlabelled` is written.

        Raises:
            NotFittedError: it is not fitted yet.
            CheckpointError: the labels are neither numbers nor texts, or a network's state holds what is no tensor.
            OSError: the file cannot be written; what was there is still there.

        Example:
            >>> import os, tempfile
            >>> from sklearn.datasets import load_iris
            >>> X, y = load_iris(return_X_y=True)
            >>> est = PruneFuseEstimator(random_state=0).fit(X[::3], y[::3])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     est.save(os.path.join(folder, "iris"))
            ...     again = PruneFuseEstimator.load(os.path.join(folder, "iris"))
            >>> bool((again.predict(X) == est.predict(X)).all())
            True
        """
        with alone():
            selector = self._fitted("save")
            stored(selector, path, beside_of(self))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        module: nn.Module | ModuleFactory | None = None,
        *,
        dataset: Any = None,
        accept_changes: bool = False,
        **options: Any,
    ) -> PruneFuseEstimator:
        """Return the estimator that `save` wrote; its next `fit` starts from the weights that its first one did.

        Args:
            path: the file.
            module: as the estimator was given; of a network, the weights do not matter. None for the perceptron.
            dataset: as the estimator was given.
            accept_changes: see `PrunedProxySelector.load`.
            **options: parameters that are not in the file (such as a `trainer` that holds functions, or `unlabelled`),
                or to replace.

        Raises:
            CheckpointError: damaged or foreign file, that of a selector, another architecture, or something is missing.
            FileNotFoundError: there is no such file.
            OSError: it may not be read.
            InputError: one of `options` is unknown or out of range.
        """
        accept = checks.flag("accept_changes", accept_changes)
        return load_estimator(cls, path, module, dataset, options, accept_changes=accept)

    # Within

    def _fit(self, X: Any, y: Any, sample_weight: Any, classes: Any, *, continued: bool) -> PruneFuseEstimator:
        with alone(), unchanged_on_error(self):
            call = "partial_fit" if continued else "fit"
            data, labels = read_labelled(self, X, y, call, reset=not continued)
            weights = None if sample_weight is None else as_weights(sample_weight, len(labels)).numpy()
            if not continued:
                start(self, data, labels, weights, classes)
            codes = self._codes(labels, call)
            self.selector_.fit(data, codes, weights, warm_start=True if continued else self.warm_start)
            if hasattr(self, "target_"):
                del self.target_
        return self

    def _codes(self, labels: np.ndarray[Any, Any], call: str) -> Tensor:
        if (labels.ndim == 2) != self.multilabel_:
            kinds = ("several labels a row, [n c]", "one label a row, [n]")
            was, given = kinds if self.multilabel_ else kinds[::-1]
            raise InputError(f"{call}: y is {given}, and the estimator was fitted with {was}; call fit to change that")
        return encode(labels, self.classes_, call)

    def _signals(self, X: Any, needs: frozenset[str], call: str) -> Signals:
        with alone():
            selector = self._fitted(call)
            return selector.signals(read(self, X), needs, model=getattr(self, "target_", None))

    def _fitted(self, call: str) -> PrunedProxySelector:
        if not hasattr(self, "selector_"):
            raise NotFittedError(f"{call}: this PruneFuseEstimator is not fitted yet; call fit(X, y) first")
        selector: PrunedProxySelector = self.selector_
        return selector

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "selector_")

    def __sklearn_clone__(self) -> PruneFuseEstimator:
        """Return an unfitted copy; data among the parameters is shared, as it may be larger than memory."""
        shared = {"dataset", "recalibration_data", "unlabelled"}
        parameters = self.get_params(deep=False)
        return type(self)(**{k: v if k in shared else _cloned(v) for k, v in parameters.items()})


def _cloned(parameter: Any) -> Any:
    return copied(parameter) if isinstance(parameter, nn.Module) else clone(parameter, safe=False)


def _array(values: Tensor | None) -> np.ndarray[Any, Any]:
    assert values is not None  # what was asked for is there
    array: np.ndarray[Any, Any] = values.numpy()
    return array


@contextlib.contextmanager
def unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """Put the attributes back if the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
