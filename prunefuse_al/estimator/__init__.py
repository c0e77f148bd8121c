"""The method as a scikit-learn classifier."""

from .estimator import PruneFuseEstimator as PruneFuseEstimator

__all__ = ["PruneFuseEstimator"]
