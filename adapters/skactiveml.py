"""scikit-activeml (``pip install scikit-activeml``, 1.x): the method as one of its classifiers and query strategies.

    from skactiveml.utils import MISSING_LABEL
    from prunefuse_al import PruneFuseEstimator
    from prunefuse_al.adapters.skactiveml import PruneFuseClassifier, PruneFuseQuery

    clf = PruneFuseClassifier(PruneFuseEstimator(model, 0.5), classes=range(10))
    qs = PruneFuseQuery("margin")
    rows = qs.query(X, y, clf.fit(X, y), batch_size=20)   # y holds MISSING_LABEL where there is none yet
    clf.fit(X, y).fit_target()                            # predictions now come from the fused target

The classifier works with scikit-activeml's own strategies as well; pass them ``fit_clf=False``, or they train a copy of
the network inside every query.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from prunefuse_al.adapters import require_host
from prunefuse_al.errors import NotFittedError
from prunefuse_al.estimator import PruneFuseEstimator
from prunefuse_al.scorers import get_scorer
from prunefuse_al.selector import select_by_probability
from prunefuse_al.types import PointScorer, RngLike, Scorer

require_host("skactiveml", extra="skactiveml")

from skactiveml.base import SingleAnnotatorPoolQueryStrategy, SkactivemlClassifier  # noqa: E402
from skactiveml.utils import (  # noqa: E402
    MISSING_LABEL,
    check_equal_missing_label,
    check_n_features,
    check_type,
    is_labeled,
    unlabeled_indices,
)

_ANY_RANK = {"allow_nd": True, "ensure_min_samples": 0, "ensure_min_features": 0}


class PruneFuseClassifier(SkactivemlClassifier):
    """A `PruneFuseEstimator` as scikit-activeml's classifier: `y` may hold missing labels, errors are not swallowed.

    While fewer than two classes are known, or nothing is labelled, all classes are equally likely.

    Args:
        estimator: the `PruneFuseEstimator`; not changed. None: ``PruneFuseEstimator()``, for tables.
        classes: all labels there are; None: those in `y`.
        missing_label: what stands in `y` for a label that is not there.
        cost_matrix: costs of confusing classes, [c c], ordered as `classes`; what `predict` minimises.
        random_state: seed of ties in `predict`, and of the estimator where it has none of its own.

    Attributes:
        classes_: labels in the order of the columns of `predict_proba`.
        estimator_: the fitted `PruneFuseEstimator`; absent while there is nothing to learn.
    """

    random_state_: np.random.RandomState

    def __init__(
        self,
        estimator: PruneFuseEstimator | None = None,
        classes: Any = None,
        missing_label: Any = MISSING_LABEL,
        cost_matrix: Any = None,
        random_state: RngLike = None,
    ) -> None:
        super().__init__(classes, missing_label, cost_matrix, random_state)
        self.estimator = estimator

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PruneFuseClassifier:
        """Train the proxy on the rows of X [n ...] whose label in y [n] is not missing."""
        if not isinstance(self.estimator, PruneFuseEstimator | None):
            raise TypeError(f"estimator={self.estimator!r} must be a PruneFuseEstimator, or None")
        X, codes, weights = self._validate_data(X, y, sample_weight, check_X_dict=dict(_ANY_RANK))
        self.random_state_ = _own(self.random_state, self.random_state_)
        labelled = is_labeled(codes, missing_label=-1) if len(codes) else np.zeros(0, dtype=bool)
        if len(self.classes_) < 2 or not labelled.any():
            self.__dict__.pop("estimator_", None)
            return self
        weights = None if weights is None else weights[labelled]
        self._estimator(X).fit(X[labelled], codes[labelled].astype(np.int64), weights)
        return self

    def fit_target(self) -> PruneFuseClassifier:
        """Fuse, and fine-tune the target on the rows of the last `fit`; predictions come from it until the next one."""
        self._learned("fit_target").fit_target()
        return self

    def predict_proba(self, X: Any, return_embeddings: bool = False) -> Any:
        """Return class probabilities, float64 [n c]; with ``return_embeddings=True`` also embeddings [n d]."""
        check_is_fitted(self, "classes_")
        X = check_array(X, allow_nd=True)
        check_n_features(self, X, reset=False)
        if return_embeddings:
            return self._learned("predict_proba(return_embeddings=True)").predict_proba(X, return_embeddings=True)
        if not hasattr(self, "estimator_"):
            return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))
        return self.estimator_.predict_proba(X)

    def _estimator(self, X: Any) -> PruneFuseEstimator:
        """Return `estimator_` with the present options; what was pruned for the same options is used again.

        The proxy of a pretrained network is repaired on all rows of X, labelled or not.
        """
        given = PruneFuseEstimator() if self.estimator is None else self.estimator
        options = {**given.get_params(deep=False), "classes": range(len(self.classes_))}
        if given.random_state is None:
            options["random_state"] = self.random_state
        if given.unlabelled is None:
            options["unlabelled"] = X if given.dataset is None else given.dataset
        if not hasattr(self, "estimator_"):
            self.estimator_ = PruneFuseEstimator()
        self.estimator_.set_params(**options)
        return self.estimator_

    def _learned(self, call: str) -> PruneFuseEstimator:
        check_is_fitted(self, "classes_")
        if not hasattr(self, "estimator_"):
            raise NotFittedError(
                f"{call}: no network has been trained, because fewer than two classes are known or no row is labelled; "
                "label some rows, by chance for example, and call fit(X, y)"
            )
        return self.estimator_


class PruneFuseQuery(SingleAnnotatorPoolQueryStrategy):
    """A scorer as scikit-activeml's query strategy.

    With a `PruneFuseClassifier` the proxy looks at the candidates once and the scorer may read any signal. With any
    other classifier the scorer sees the logarithm of `predict_proba`, so it must need nothing but logits.

    Args:
        scorer: name in `SCORERS`, or any `Scorer`.
        missing_label: what stands in `y` for a label that is not there.
        random_state: seed of draws and ties; the same query gives the same answer.
    """

    random_state_: np.random.RandomState

    def __init__(
        self,
        scorer: str | Scorer = "margin",
        missing_label: Any = MISSING_LABEL,
        random_state: RngLike = None,
    ) -> None:
        super().__init__(missing_label=missing_label, random_state=random_state)
        self.scorer = scorer

    def query(
        self,
        X: Any,
        y: Any,
        clf: SkactivemlClassifier,
        fit_clf: bool = False,
        sample_weight: Any = None,
        candidates: Any = None,
        batch_size: int = 1,
        return_utilities: bool = False,
    ) -> Any:
        """Return the samples to label next.

        Args:
            X: all samples, labelled or not, [n ...].
            y: their labels [n], missing where there is none.
            clf: the classifier; fitted, unless `fit_clf`.
            fit_clf: train a copy of `clf` first. scikit-activeml's own strategies do so unless told otherwise; here
                the classifier of the loop, which is fitted anyway, is asked.
            sample_weight: weights [n] for `fit_clf`.
            candidates: None: every unlabelled row; row numbers of X; or samples [m ...].
            batch_size: how many.
            return_utilities: return also the utilities.

        Returns:
            int64 [k], best first: rows of X, or of `candidates` where those are samples. With `return_utilities` also
            float [k n]: line i holds what the i-th pick was made from, NaN for what was no candidate or is picked
            already. A scorer of whole batches has no such numbers: 1 stands at the pick and 0 at the others.
        """
        X, y, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True
        )
        self.random_state_ = _own(self.random_state, self.random_state_)
        check_type(clf, "clf", SkactivemlClassifier)
        check_equal_missing_label(clf.missing_label, self.missing_label_)
        check_type(fit_clf, "fit_clf", bool)
        if fit_clf:
            clf = clone(clf).fit(X, y) if sample_weight is None else clone(clf).fit(X, y, sample_weight)
        pool, rows = X, candidates
        if candidates is None:
            rows = unlabeled_indices(y, self.missing_label_)
        elif candidates.ndim > 1:
            pool, rows = candidates, np.arange(len(candidates))
        scorer = get_scorer(self.scorer)
        of_each = return_utilities and isinstance(scorer, PointScorer)  # the scores of the others are wanted as well
        ranking, scores = self._ask(clf, pool, rows, len(rows) if of_each else batch_size, scorer)
        picked = ranking[:batch_size]
        if not return_utilities:
            return picked
        utilities = np.full((batch_size, len(pool)), np.nan)
        utilities[:, rows] = 0
        if of_each:
            utilities[:, ranking] = scores
        else:
            utilities[np.arange(batch_size), picked] = 1
        for place, row in enumerate(picked):
            utilities[place + 1 :, row] = np.nan
        return picked, utilities

    def _ask(self, clf: Any, pool: Any, rows: Any, k: int, scorer: Scorer) -> tuple[Any, Any]:
        """Return the best k of `rows` of `pool`, and their scores."""
        rng = np.random.default_rng(self.random_state_.randint(2**31))
        if hasattr(clf, "estimator_") and isinstance(clf, PruneFuseClassifier):
            options = {"scorer": scorer, "candidates": rows, "random_state": rng, "return_scores": True}
            indices, scores = clf.estimator_.query(pool, k, **options)
            return indices, scores
        return select_by_probability(scorer, clf.predict_proba(pool[rows]), k, indices=rows, rng=rng).arrays()


def _own(random_state: RngLike, checked: np.random.RandomState) -> np.random.RandomState:
    """Return a generator of our own where scikit-activeml takes NumPy's global one, which is left alone here."""
    return np.random.RandomState() if random_state is None else checked
