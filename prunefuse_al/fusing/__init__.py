"""Where a proxy sits in the dense network, and the ways back into it."""

from .captured import attribute as attribute
from .captured import captured_numbers as captured_numbers
from .channel_map import ChannelMap as ChannelMap
from .channel_map import Silence as Silence
from .channel_map import Stream as Stream
from .channel_map import TensorMap as TensorMap
from .channel_map import as_sequence as as_sequence
from .channel_map import put_attributes as put_attributes
from .delta import delta as delta
from .fusion import Copy as Copy
from .fusion import Delta as Delta
from .fusion import Fusible as Fusible
from .fusion import Fusion as Fusion
from .fusion import Preserve as Preserve
from .fusion import fuse as fuse
from .fusion import fusion_of as fusion_of
from .preserving import EPSILONS as EPSILONS
from .preserving import copy_channels as copy_channels
from .preserving import epsilons as epsilons
from .preserving import in_the_way as in_the_way
from .preserving import put_back as put_back
from .preserving import set_epsilons as set_epsilons
from .preserving import silence as silence
