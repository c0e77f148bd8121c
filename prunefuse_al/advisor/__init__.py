"""Which proxy to take for a network, data and plan, at which pruning ratio, and whether the plan pays: see `advise`."""

from .advice import Advice as Advice
from .advising import advise as advise
from .considered import FewerEpochs as FewerEpochs
from .loop_costs import LoopPlan as LoopPlan
from .rows import AdviceRow as AdviceRow
from .rows import Prediction as Prediction
from .rows import Target as Target
