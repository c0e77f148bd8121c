"""Which axes of which tensors live or die together, found by watching one pass."""

from .atoms import FROZEN as FROZEN
from .atoms import Axis as Axis
from .replay import KeptStatistics as KeptStatistics
from .rules import STATISTICS as STATISTICS
from .tracing import Trace as Trace
from .tracing import trace as trace
from .tracing import visible_operations as visible_operations
