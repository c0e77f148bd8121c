"""What every stage costs: seconds by the clock, samples, multiply-accumulates; kept in a ledger, printed as a table."""

from .ledger import CostLedger as CostLedger
from .ledger import CostRow as CostRow

# What other rooms of the package use of this one.
# isort: split
from .columns import MAX_ROWS as MAX_ROWS
from .columns import from_columns as from_columns
from .columns import to_columns as to_columns
from .counting import Call as Call
from .counting import PassCounter as PassCounter
from .counting import batch_rows as batch_rows
from .counting import macs as macs
from .counting import operation_flops as operation_flops
from .counting import parameter_count as parameter_count
from .ledger import Stage as Stage
from .ledger import now as now
from .tables import aligned as aligned
from .tables import si as si

__all__ = ["CostLedger", "CostRow"]
