"""Pools that lie in parts, on other machines: scored where they lie, and picked from as if they were in one place.

What an engine has to do stands in `Pool`; `prunefuse_al.adapters.ray_data` and `prunefuse_al.adapters.spark` do it.
"""

from .asking import Saved as Saved
from .asking import Table as Table
from .choosing import Picks as Picks
from .choosing import Pool as Pool
from .choosing import select_over as select_over
from .in_process import Parts as Parts

# What adapters use of this room.
# isort: split
from .answered import Answers as Answers
from .answered import joined as joined
from .asking import Asking as Asking
from .asking import Batch as Batch
from .asking import Input as Input
from .asking import Worker as Worker
from .choosing import AT_ONCE as AT_ONCE
from .choosing import SHARDS as SHARDS
from .choosing import Held as Held
from .choosing import scoring as scoring
from .ids import Ids as Ids
from .ids import as_ids as as_ids
from .ids import shard_of as shard_of
from .ids import together as together
from .materialised import IdentifiedRows as IdentifiedRows
from .materialised import materialised as materialised

__all__ = ["Parts", "Picks", "Pool", "Saved", "Table", "select_over"]
