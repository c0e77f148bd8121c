"""What can stand in for the dense network: `Pruned`, `Probe`, `Another`, `Dense`, one file each."""

from .another import Another as Another
from .dense import Dense as Dense
from .probe import Probe as Probe
from .protocol import AnyProxy as AnyProxy
from .protocol import Kind as Kind
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
from .cutting import Pruning as Pruning
from .feature_store import IN_MEMORY as IN_MEMORY
from .protocol import completed as completed
from .ratios import PruningRatio as PruningRatio
from .reestimating import batchnorms as batchnorms
from .reestimating import recalibrate as recalibrate

__all__ = [
    "Another",
    "AnyProxy",
    "Dense",
    "FallingRatio",
    "Kind",
    "Prepared",
    "Probe",
    "ProxyKind",
    "Pruned",
    "Task",
    "Training",
]
