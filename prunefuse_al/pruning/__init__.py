"""Structured pruning of any torch network: which axes live or die together, which stay, and the thin module."""

from .build import rebuild as rebuild
from .proxy import Proxy as Proxy
from .proxy import prune as prune
from .report import LayerWidth as LayerWidth
from .report import PruningReport as PruningReport

__all__ = ["LayerWidth", "Proxy", "PruningReport", "prune", "rebuild"]
