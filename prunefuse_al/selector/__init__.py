"""The whole method behind one class: its options, its steps, its file."""

from .selector import PrunedProxySelector as PrunedProxySelector

__all__ = ["PrunedProxySelector"]
