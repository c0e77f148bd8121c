"""Contract checks for scorers of your own, and a guard that global random states are left alone.

from prunefuse_al.testing import check_scorer
check_scorer(MyScorer())
"""

from .contracts import check_scorer as check_scorer
from .contracts import unchanged_global_rng as unchanged_global_rng
from .examples import example_signals as example_signals

__all__ = ["check_scorer", "example_signals", "unchanged_global_rng"]
