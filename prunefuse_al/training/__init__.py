"""Training any torch network: the trainer, what it can be given, and what keeps batch norm right."""

from .batchnorm import fold_batchnorm as fold_batchnorm
from .batchnorm import recalibrate_batchnorm as recalibrate_batchnorm
from .distillation import Distillation as Distillation
from .functions import FunctionTrainer as FunctionTrainer
from .progressive import ProgressivePruning as ProgressivePruning
from .recording import Recorder as Recorder
from .recording import Snapshot as Snapshot
from .stopping import EarlyStopping as EarlyStopping
from .trainer import TorchTrainer as TorchTrainer
from .trainer import TrainingHistory as TrainingHistory
from .warm import ShrinkPerturb as ShrinkPerturb

__all__ = [
    "Distillation",
    "EarlyStopping",
    "FunctionTrainer",
    "ProgressivePruning",
    "Recorder",
    "ShrinkPerturb",
    "Snapshot",
    "TorchTrainer",
    "TrainingHistory",
    "fold_batchnorm",
    "recalibrate_batchnorm",
]
