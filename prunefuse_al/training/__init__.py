"""Training any torch network: `TorchTrainer`, what it can be given, and loops of your own.

What a loss takes is checked before anything is trained; a network keeps its last good weights whatever happens.
"""

from ..network import fold_batchnorm as fold_batchnorm
from ..network import recalibrate_batchnorm as recalibrate_batchnorm
from .callbacks import Callback as Callback
from .distillation import Distillation as Distillation
from .functions import FunctionTrainer as FunctionTrainer
from .larger_batches import larger_batches as larger_batches
from .plan import TrainingHistory as TrainingHistory
from .progressive import ProgressivePruning as ProgressivePruning
from .recording import Recorder as Recorder
from .recording import Snapshot as Snapshot
from .shrink_perturb import ShrinkPerturb as ShrinkPerturb
from .stopping import EarlyStopping as EarlyStopping
from .trainer import TorchTrainer as TorchTrainer

# What other rooms of the package use of this one.
# isort: split
from .distillation import distillation_loss as distillation_loss
from .known import Known as Known
from .known import Replay as Replay
from .loss_labels import class_numbers as class_numbers
from .loss_labels import looks_independent as looks_independent
from .losses import Objective as Objective
from .masking import MaskLearner as MaskLearner
from .masking import Weighed as Weighed
from .progressive import thin_in_place as thin_in_place
from .reader import INFERRED as INFERRED
from .reader import LOGITS as LOGITS
from .reader import Reader as Reader
from .reader import refuse_unread as refuse_unread
from .recording import RECORDED as RECORDED
from .recording import Tally as Tally
from .schedules import Constant as Constant
from .schedules import Cosine as Cosine
from .schedules import Steps as Steps
from .shrink_perturb import shrink_perturb as shrink_perturb
from .transforms import Compose as Compose
from .transforms import Normalize as Normalize
from .transforms import PerSample as PerSample
from .transforms import RandomCropFlip as RandomCropFlip

__all__ = [
    "Callback",
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
    "larger_batches",
    "recalibrate_batchnorm",
]
