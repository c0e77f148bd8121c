"""Every exception and warning of the library; messages state the call, the fact with numbers, and the remedy."""

from __future__ import annotations

import os
import sys
import sysconfig
import warnings
from types import FrameType

from sklearn.exceptions import NotFittedError as _SklearnNotFittedError

_PACKAGE = __name__.partition(".")[0]
_INSTALLED = tuple(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "purelib", "platlib"))


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
    """Warn, and point at the line of the user's that led here, through however many calls of the library.

    That is the innermost one that is neither of this package nor of what is installed beside it (a host, torch, the
    standard library); where there is none, the innermost that is not of this package.
    """
    frame = _users(sys._getframe(1))
    module = frame.f_globals.get("__name__", "<unknown>")
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)


def _users(frame: FrameType) -> FrameType:
    """Return the frame that `warn` points at, going out from `frame`."""
    outside: FrameType | None = None
    here: FrameType | None = frame
    while here is not None:
        if here.f_globals.get("__name__", "").partition(".")[0] != _PACKAGE:
            if not here.f_code.co_filename.startswith((*_INSTALLED, "<frozen ")):
                return here
            outside = outside or here
        here = here.f_back
    return outside or frame
