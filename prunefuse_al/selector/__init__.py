"""The whole method behind one class: its options, its steps, its file."""

from .presets import selector_preset as selector_preset
from .ratios import FallingRatio as FallingRatio
from .selector import PrunedProxySelector as PrunedProxySelector

__all__ = ["FallingRatio", "PrunedProxySelector", "selector_preset"]
