"""Active learning with a pruned proxy network that is fused back into the dense one."""

from ._moved import keep_old_paths as _keep_old_paths
from ._show_versions import show_versions as show_versions
from ._version import __version__ as __version__
from .advisor import advise as advise
from .costs import CostLedger as CostLedger
from .estimator import PruneFuseEstimator as PruneFuseEstimator
from .fusing import ChannelMap as ChannelMap
from .fusing import fuse as fuse
from .pruning import Proxy as Proxy
from .pruning import prune as prune
from .pruning import repair as repair
from .scorers import SCORERS as SCORERS
from .scorers import get_scorer as get_scorer
from .selector import FallingRatio as FallingRatio
from .selector import PrunedProxySelector as PrunedProxySelector
from .selector import selector_preset as selector_preset
from .training import Distillation as Distillation
from .training import EarlyStopping as EarlyStopping
from .training import FunctionTrainer as FunctionTrainer
from .training import ProgressivePruning as ProgressivePruning
from .training import ShrinkPerturb as ShrinkPerturb
from .training import TorchTrainer as TorchTrainer
from .types import Selection as Selection
from .types import Signals as Signals

_keep_old_paths()
