"""Structured pruning of any torch network: which axes live or die together, which stay, and the thin module."""

from .build import rebuild as rebuild
from .proxy import Proxy as Proxy
from .proxy import prune as prune
from .report import LayerWidth as LayerWidth
from .report import PruningReport as PruningReport
from .sensitivity import Hessian as Hessian
from .sensitivity import Taylor as Taylor
from .widths import GlobalScope as GlobalScope

__all__ = ["GlobalScope", "Hessian", "LayerWidth", "Proxy", "PruningReport", "Taylor", "prune", "rebuild"]
