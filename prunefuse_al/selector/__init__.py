"""The whole method behind one class: its options, its steps, its file."""

from .ratios import FallingRatio as FallingRatio
from .selector import PrunedProxySelector as PrunedProxySelector

__all__ = ["FallingRatio", "PrunedProxySelector"]
