"""Which axes of which tensors live or die together, found by watching one pass.

Every position of every parameter and buffer has a number, its atom (`atoms.py`). While the network runs, each tensor
carries marks: which atoms its positions belong to (`marks.py`). What an operation does to marks is its rule, and all
that is known of operations stands in one table (`operations.py`), which the watcher (`tracing.py`) and the replay
(`replay.py`) both read. Users enter operations by `register_rule` (`registered.py`).
"""

from .atoms import FROZEN as FROZEN
from .atoms import Axis as Axis
from .atoms import Summed as Summed
from .calls import OperationCall as OperationCall
from .marks import Marks as Marks
from .registered import Mixes as Mixes
from .registered import Normalises as Normalises
from .registered import Reduces as Reduces
from .registered import RegisteredRule as RegisteredRule
from .registered import register_rule as register_rule
from .replay import KeptStatistics as KeptStatistics
from .tracing import Answer as Answer
from .tracing import Trace as Trace
from .tracing import trace as trace
from .tracing import visible_operations as visible_operations
from .tracing import watched as watched
