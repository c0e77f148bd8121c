"""Every exception and warning of the library; messages state the call, the fact with numbers, and the remedy."""

import os
import sys
import warnings

from sklearn.exceptions import NotFittedError as _SklearnNotFittedError

_HERE = os.path.dirname(__file__) + os.sep


class PruneFuseError(Exception):
    """Base of every error raised on purpose by this library."""


class InputError(PruneFuseError, ValueError):
    """Data, labels or an option cannot be used as given."""


class UnsupportedModelError(PruneFuseError, TypeError):
    """The network is of a kind that cannot be pruned or trained (TorchScript, quantised, lazy, ...)."""


class PruningError(PruneFuseError, ValueError):
    """The network cannot be pruned as asked."""


class FusionError(PruneFuseError, ValueError):
    """A proxy does not fit the dense network it is to be fused into."""


class NonFiniteError(PruneFuseError, ValueError):
    """NaN or infinity in inputs, logits, scores or the loss."""


class BudgetError(PruneFuseError, ValueError):
    """`k` is not between 1 and the number of candidates."""


class CheckpointError(PruneFuseError, ValueError):
    """A saved file is damaged, foreign, or does not belong to the model it is loaded into."""


class NotFittedError(PruneFuseError, _SklearnNotFittedError):
    """Something was asked of a selector or estimator before `fit` (also scikit-learn's `NotFittedError`)."""


class MissingDependencyError(PruneFuseError, ModuleNotFoundError):
    """An optional library that this call needs is not installed; the message has the command that installs it."""


class MissingHostError(MissingDependencyError):
    """An adapter's host toolkit is not installed."""


class NoEffectWarning(UserWarning):
    """A request changed nothing, with the reason (for example: nothing could be pruned)."""


class CostWarning(UserWarning):
    """What was asked for costs more than what it is meant to save."""


class FallbackWarning(UserWarning):
    """A faster or finer way was not available and a stated other one was taken."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the caller outside this library, however deep inside it the warning arises."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
