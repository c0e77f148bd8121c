"""Training any torch network: the trainer, what it can be given, and what keeps batch norm right."""

from .batchnorm import fold_batchnorm as fold_batchnorm
from .batchnorm import recalibrate_batchnorm as recalibrate_batchnorm
from .distillation import Distillation as Distillation
from .progressive import ProgressivePruning as ProgressivePruning
from .stopping import EarlyStopping as EarlyStopping
from .trainer import TorchTrainer as TorchTrainer
from .trainer import TrainingHistory as TrainingHistory

__all__ = [
    "Distillation",
    "EarlyStopping",
    "ProgressivePruning",
    "TorchTrainer",
    "TrainingHistory",
    "fold_batchnorm",
    "recalibrate_batchnorm",
]
