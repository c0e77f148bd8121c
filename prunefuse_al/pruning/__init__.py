"""Cut a small dense proxy out of any torch network.

`prune` tells the story: the network is watched while it runs (`trace/`), what lives or dies together becomes groups of
channels (`groups.py`), each channel is scored (`importance.py`), so many of each group stay (`widths.py`), the thin
module is built (`build.py`), and no proxy leaves before it has shown to be a sub-network (`gate.py`); where it has not,
less is thinned (`search.py`). `register_rule` teaches an operation that the tracer does not understand.
"""

from .activation import Activation as Activation
from .build import rebuild as rebuild
from .channel_gates import Gates as Gates
from .proxy import Proxy as Proxy
from .proxy import prune as prune
from .repaired import repair as repair
from .repairing import Imitation as Imitation
from .repairing import RepairReport as RepairReport
from .report import LayerWidth as LayerWidth
from .report import PruningReport as PruningReport
from .sensitivity import Hessian as Hessian
from .sensitivity import Taylor as Taylor
from .trace import Marks as Marks
from .trace import Mixes as Mixes
from .trace import Normalises as Normalises
from .trace import OperationCall as OperationCall
from .trace import Reduces as Reduces
from .trace import RegisteredRule as RegisteredRule
from .trace import register_rule as register_rule
from .widths import GlobalScope as GlobalScope

# What other rooms of the package use of this one.
# isort: split
from .groups import check_keep as check_keep
from .groups import check_parts as check_parts
from .importance import WITH_DATA as WITH_DATA
from .importance import check_importance as check_importance
from .widths import check_ratio as check_ratio
from .widths import check_round_to as check_round_to
from .widths import check_scope as check_scope

__all__ = [
    "Activation", "Gates", "GlobalScope", "Hessian", "Imitation", "LayerWidth", "Marks", "Mixes", "Normalises",
    "OperationCall", "Proxy", "PruningReport", "Reduces", "RegisteredRule", "RepairReport", "Taylor", "prune",
    "rebuild", "register_rule", "repair",
]  # fmt: skip
