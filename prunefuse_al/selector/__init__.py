"""The whole method behind one class: its options, its steps, its file."""

from ..proxies import FallingRatio as FallingRatio
from .presets import selector_preset as selector_preset
from .selector import PrunedProxySelector as PrunedProxySelector

# What other rooms of the package use of this one.
# isort: split
from .answers import LABELLED as LABELLED
from .answers import OF_LABELLED as OF_LABELLED
from .answers import Float64s as Float64s
from .answers import check_needs as check_needs
from .answers import probabilities as probabilities
from .answers import select_by_probability as select_by_probability
from .answers import select_known as select_known
from .asker import Asker as Asker
from .candidates import call_rng as call_rng
from .checkpoint import SelectorFile as SelectorFile
from .checkpoint import opened as opened
from .encoding import decode as decode
from .labelled import refuse_alone as refuse_alone
from .options import NAMES as NAMES
from .options import Options as Options
from .options import WarmStart as WarmStart
from .options import check_trainer as check_trainer
from .options import check_warm as check_warm
from .options import entropy_of as entropy_of
from .options import told as told
from .picking import pick as pick
from .restoring import check_names as check_names
from .rounds import prepare as prepare
from .saving import Beside as Beside
from .saving import encodable as encodable
from .selector import restored as restored
from .selector import stored as stored
from .state import State as State
from .state import Trained as Trained
from .state import Uncut as Uncut
from .target import fused_target as fused_target

__all__ = ["FallingRatio", "PrunedProxySelector", "selector_preset"]
