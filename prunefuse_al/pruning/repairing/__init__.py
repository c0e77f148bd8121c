"""Giving a proxy back, without labels, what the dense network knew: scouting, remembering, mending."""

from .imitating import Imitation as Imitation
from .imitating import Read as Read
from .imitating import Shown as Shown
from .imitating import imitate as imitate
from .imitating import last_layer as last_layer
from .imitating import of_other_shapes as of_other_shapes
from .mending import mend as mend
from .outcome import RepairReport as RepairReport
from .products import Event as Event
from .products import Product as Product
from .products import Watcher as Watcher
from .products import plain_operations as plain_operations
from .remembering import Remembered as Remembered
from .remembering import computable as computable
from .remembering import remember as remember
from .scouting import ROWS as ROWS
from .scouting import Plan as Plan
from .scouting import live_bytes as live_bytes
from .scouting import scout as scout
