"""modAL (``pip install modAL-python``, versions 0.4.1 and 0.4.2.1): scorers as query strategies, and two repairs.

    from modAL.models import ActiveLearner
    from prunefuse_al import PruneFuseEstimator
    from prunefuse_al.adapters.modal import query_strategy

    learner = ActiveLearner(PruneFuseEstimator(model), query_strategy("margin"), X_training=X, y_training=y)
    rows, samples = learner.query(X_pool, n_instances=20)

modAL's own strategies take the estimator too. Those that compare samples (`modAL.batch`, `modAL.density`) look at what
they are given, which should be ``estimator.embed(X)`` and not pixels; `modAL.dropout` and `DeepActiveLearner` want a
`DeepEstimator`. Importing this module repairs modAL where the installed scikit-learn or pandas needs it: see
`repair_modal`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_X_y
from torch import Tensor, nn

from prunefuse_al.adapters import require_host
from prunefuse_al.errors import InputError
from prunefuse_al.estimator import PruneFuseEstimator
from prunefuse_al.network import forward_for, home_device, logits_of
from prunefuse_al.scorers import get_scorer
from prunefuse_al.selector import select_by_probability
from prunefuse_al.types import Scorer, statement

require_host("modAL", extra="modal")
pandas: Any = importlib.import_module("pandas")  # which modAL imports

_LOG = logging.getLogger(__name__)
_MENDED: dict[Callable[..., Any], Callable[..., Any]] = {}  # what was put into modAL -> what stood there
_REFUSED = {
    "expected_error_reduction": "it trains the network once for every candidate and class before it picks one sample, "
    "which no deep network can afford; 'margin' and 'entropy' look at the same uncertainty in one pass",
}


def query_strategy(scorer: str | Scorer = "margin", *, random_state: int = 0) -> QueryStrategy:
    """Return a scorer as modAL's query strategy, for an `ActiveLearner` or a `Committee`.

    With a `PruneFuseEstimator` (also as the last step of a `Pipeline`) the proxy looks at the pool once and the
    scorer may read any signal. With any other classifier, or a committee's consensus, the scorer sees the logarithm of
    `predict_proba`, so it must need nothing but logits.

    Args:
        scorer: a name in `SCORERS` or a scorer object.
        random_state: seed of what the scorer draws (ties, random picks). The same call gives the same answer, because
            modAL repeats a call in which anything was raised; pools of another size draw other numbers.

    Returns:
        A callable ``(learner, X_pool, n_instances=1)`` that gives what the installed modAL expects:
        ``(rows, scores)`` on 0.4.2.1, ``rows`` alone on 0.4.1; rows are int64 [k] into `X_pool`, best first.

    Raises:
        InputError: unknown scorer, or modAL's expected error reduction.
    """
    if isinstance(scorer, str) and scorer in _REFUSED:
        raise InputError(f"query_strategy({scorer!r}): {_REFUSED[scorer]}")
    return QueryStrategy(get_scorer(scorer), random_state)


@dataclass(frozen=True)
class QueryStrategy:
    """A scorer in modAL's calling convention; made by `query_strategy`."""

    scorer: Scorer
    random_state: int = 0

    def __call__(self, learner: Any, X_pool: Any, n_instances: int = 1) -> Any:
        """Return the `n_instances` rows of `X_pool` to label next, in the form the installed modAL expects."""
        rows, scores = self._select(learner, X_pool, n_instances)
        return (rows, scores) if _wants_scores() else rows

    def _select(self, learner: Any, X_pool: Any, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        estimator, inputs = _last_step(getattr(learner, "estimator", None), X_pool)
        if hasattr(estimator, "query"):
            picked: tuple[np.ndarray, np.ndarray | None] = estimator.query(
                inputs, k, scorer=self.scorer, random_state=self.random_state, return_scores=True
            )
            return picked
        probabilities = np.asarray(learner.predict_proba(X_pool))
        rng = np.random.default_rng([self.random_state, len(probabilities)])
        return select_by_probability(self.scorer, probabilities, k, rng=rng).arrays()


class DeepEstimator(PruneFuseEstimator):
    """A `PruneFuseEstimator` with the names that modAL 0.4.2.1 expects of a deep network.

    For `modAL.models.DeepActiveLearner`, whose `teach` trains on with the new rows alone, and for `modAL.dropout`,
    which takes pools of tensors. Arguments and the rest are those of `PruneFuseEstimator`.
    """

    @property
    def module_(self) -> nn.Module:
        """The network that answers, the proxy or the target, in eval mode."""
        return self._network().eval()

    @property
    def max_epochs(self) -> int:
        """The trainer's epochs."""
        return int(self.trainer.epochs)  # type: ignore[union-attr]

    @max_epochs.setter
    def max_epochs(self, epochs: int) -> None:
        self.trainer = clone(self.trainer).set_params(epochs=epochs)

    @property
    def batch_size(self) -> int:
        """The trainer's batch size."""
        return int(self.trainer.batch_size)  # type: ignore[union-attr]

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self.trainer = clone(self.trainer).set_params(batch_size=batch_size)

    def initialize(self) -> DeepEstimator:
        """Do nothing: the network is made when the first data are seen."""
        return self

    def infer(self, x: Any) -> Tensor:
        """Return the logits [b c] of a batch, with every layer in the mode it is in."""
        network = self._network()
        transform = statement(self.selector_.options.trainer).eval_transform
        forward = forward_for(network, home_device(network) or torch.device("cpu"), transform=transform)
        return logits_of(forward(network, forward.inputs(x)))

    def _network(self) -> nn.Module:
        selector = self._fitted("module_")
        network: nn.Module = getattr(self, "target_", selector.model)
        return network


def repair_modal() -> list[str]:
    """Let modAL's `fit` and `teach` run on today's scikit-learn and pandas; done when this module is imported.

    Two things moved on under modAL, and it did not (its issue 196). scikit-learn 1.6 renamed the argument
    ``force_all_finite`` of `check_X_y` to ``ensure_all_finite``, and 1.8 refuses the old name. pandas 2 dropped
    ``DataFrame.append``, by which `teach` puts new rows below those it knows. The repair replaces the names `check_X_y`
    and `data_vstack` inside modAL's own modules by functions that translate that one argument, and that stack data
    frames by ``pandas.concat``; scikit-learn and pandas themselves are not touched, and nothing is done where what is
    installed needs no repair. Each is announced once through `logging`, as a warning of the logger
    ``prunefuse_al.adapters.modal`` and not as a Python warning, which would stop programs run with ``-W error``.
    `restore_modal` takes both back.

    Returns:
        Names of the modules changed by this call; empty if nothing needed repair.
    """
    importlib.import_module("modAL.models")
    repaired: list[str] = []
    for repair in _REPAIRS:
        places = [module for module in _modules(repair.name) if getattr(module, repair.name) not in _MENDED]
        if places and repair.needed():
            for module in places:
                _put(module, repair.name, _mended(getattr(module, repair.name), repair))
            names = [module.__name__ for module in places]
            undo = "undo with prunefuse_al.adapters.modal.restore_modal()"
            _LOG.warning("%s in %s (%s)", repair.said, ", ".join(names), undo)
            repaired += names
    return list(dict.fromkeys(repaired))


def restore_modal() -> list[str]:
    """Undo `repair_modal`; return the names of the modules that were put back."""
    restored: list[str] = []
    for repair in _REPAIRS:
        for module in _modules(repair.name):
            original = _MENDED.get(getattr(module, repair.name))
            if original is not None:
                _put(module, repair.name, original)
                restored.append(module.__name__)
    return list(dict.fromkeys(restored))


@dataclass(frozen=True)
class _Repair:
    """One function that modAL's modules share, and what stands in its place where a library has moved on.

    Attributes:
        name: of the function, in every module that has it.
        needed: tells whether what is installed asks for the repair.
        mended: makes of the function the one that stands in its place.
        said: what is announced, before the names of the modules.
    """

    name: str
    needed: Callable[[], bool]
    mended: Callable[[Callable[..., Any]], Callable[..., Any]]
    said: str


def _translated(check: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(check)
    def translate(*args: Any, **kwargs: Any) -> Any:
        if "force_all_finite" in kwargs:
            kwargs["ensure_all_finite"] = kwargs.pop("force_all_finite")
        return check(*args, **kwargs)

    return translate


def _concatenated(stack: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stack)
    def concatenate(blocks: Any) -> Any:
        if not isinstance(blocks[0], pandas.DataFrame) or any(issparse(block) for block in blocks):
            return stack(blocks)
        rows = [b.to_frame().T.infer_objects() if isinstance(b, pandas.Series) else b for b in blocks]  # one sample
        return pandas.concat(rows)

    return concatenate


_REPAIRS = (
    _Repair(
        "check_X_y",
        lambda: "ensure_all_finite" in inspect.signature(check_X_y).parameters,
        _translated,
        "modAL passes `force_all_finite`, which scikit-learn renamed to `ensure_all_finite`: it is translated",
    ),
    _Repair(
        "data_vstack",
        lambda: not hasattr(pandas.DataFrame, "append"),
        _concatenated,
        "modAL stacks data frames by `DataFrame.append`, which pandas dropped: `pandas.concat` does it",
    ),
)


def _mended(original: Callable[..., Any], repair: _Repair) -> Callable[..., Any]:
    """Return the one function that stands in the place of another, in whatever module that is."""
    for mended, known in _MENDED.items():
        if known is original:
            return mended
    mended = repair.mended(original)
    _MENDED[mended] = original
    return mended


def _modules(name: str) -> list[ModuleType]:
    """Return those of modAL's modules that have been imported and have a function of this name."""
    modules = [module for path, module in sorted(sys.modules.items()) if path.partition(".")[0] == "modAL"]
    return [module for module in modules if callable(vars(module).get(name))]


def _put(module: ModuleType, name: str, function: Callable[..., Any]) -> None:
    setattr(module, name, function)


def _wants_scores() -> bool:
    """Tell 0.4.2.1 from 0.4.1, which passes a tuple straight through to the caller."""
    return hasattr(importlib.import_module("modAL.models"), "DeepActiveLearner")


def _last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return the classifier at the end of a pipeline and what reaches it; rows stay rows."""
    if isinstance(estimator, Pipeline) and hasattr(estimator[-1], "query"):
        return estimator[-1], estimator[:-1].transform(X)
    return estimator, X


repair_modal()
