"""SubSelNet (Jain et al., 2023, arXiv 2409.12255): subsets for a network that was never trained on the data.

`family` and `graphs` say which networks there are, `encoder` and `approximator` guess what one of them would say of
each sample once trained, `subsets` keeps samples by that, and `coresets` does all of it for an arm of the protocol.
"""

from .coresets import GUESSING as GUESSING
from .coresets import PRETRAINING as PRETRAINING
from .coresets import RECIPE as RECIPE
from .coresets import WAYS as WAYS
from .coresets import CoreSet as CoreSet
from .coresets import Task as Task
from .coresets import core_set as core_set
from .coresets import total_macs as total_macs
from .family import PREFIX as PREFIX
from .family import parse_architecture as parse_architecture
