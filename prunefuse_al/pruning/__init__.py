"""Structured pruning of any torch network: which axes live or die together, which stay, and the thin module."""

from .build import rebuild as rebuild
from .proxy import Proxy as Proxy
from .proxy import prune as prune
from .repaired import repair as repair
from .repairing import Imitation as Imitation
from .repairing import RepairReport as RepairReport
from .report import LayerWidth as LayerWidth
from .report import PruningReport as PruningReport
from .sensitivity import Hessian as Hessian
from .sensitivity import Taylor as Taylor
from .widths import GlobalScope as GlobalScope

# What other rooms of the package use of this one.
# isort: split
from .groups import check_keep as check_keep
from .importance import WITH_DATA as WITH_DATA
from .importance import check_importance as check_importance
from .widths import check_ratio as check_ratio
from .widths import check_round_to as check_round_to
from .widths import check_scope as check_scope

__all__ = [
    "GlobalScope",
    "Hessian",
    "Imitation",
    "LayerWidth",
    "Proxy",
    "PruningReport",
    "RepairReport",
    "Taylor",
    "prune",
    "rebuild",
    "repair",
]
