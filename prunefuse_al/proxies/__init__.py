"""What can stand in for the dense network while labels are chosen: `Pruned`, `Another`, `Dense`, one file each."""

from .another import Another as Another
from .dense import Dense as Dense
from .protocol import AnyProxy as AnyProxy
from .protocol import Prepared as Prepared
from .protocol import ProxyKind as ProxyKind
from .protocol import Task as Task
from .protocol import Training as Training
from .pruned import Pruned as Pruned
from .ratios import FallingRatio as FallingRatio

# What other rooms of the package use of this one.
# isort: split
from .another import NO_PLACE as NO_PLACE
from .another import OtherNetwork as OtherNetwork
from .another import from_a_copy as from_a_copy
from .cutting import Pruning as Pruning
from .ratios import PruningRatio as PruningRatio
from .reestimating import batchnorms as batchnorms
from .reestimating import recalibrate as recalibrate

__all__ = ["Another", "AnyProxy", "Dense", "FallingRatio", "Prepared", "ProxyKind", "Pruned", "Task", "Training"]
