"""The whole method behind one class: its options, its steps, its file."""

from .presets import selector_preset as selector_preset
from .ratios import FallingRatio as FallingRatio
from .selector import PrunedProxySelector as PrunedProxySelector

# What other rooms of the package use of this one.
# isort: split
from .options import Options as Options
from .options import State as State
from .options import WarmStart as WarmStart
from .options import check_trainer as check_trainer
from .options import check_warm as check_warm
from .options import entropy_of as entropy_of
from .picking import pick as pick
from .ratios import PruningRatio as PruningRatio
from .scoring import LOGITS as LOGITS
from .scoring import Float64s as Float64s
from .scoring import call_rng as call_rng
from .scoring import probabilities as probabilities
from .scoring import refuse_alone as refuse_alone
from .scoring import select_by_probability as select_by_probability
from .scoring import select_known as select_known
from .steps import prepare as prepare
from .target import fused_target as fused_target

__all__ = ["FallingRatio", "PrunedProxySelector", "selector_preset"]
