"""The method as a scikit-learn classifier."""

from .estimator import PruneFuseEstimator as PruneFuseEstimator

# What other rooms of the package use of this one.
# isort: split
from .estimator import unchanged_on_error as unchanged_on_error

__all__ = ["PruneFuseEstimator"]
