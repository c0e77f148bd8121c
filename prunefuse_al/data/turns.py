"""Taking turns: what seeds global random states, switches settings of torch or moves on a selector is done by one
thread at a time.

Torch draws dropout from one generator for the whole process: two trainings at once could not both be repeated, and a
thread that puts the old state back would undo what another one has seeded. So there is one turn for all, and calls of
several threads come one after the other; work that is to run side by side belongs into processes.

One turn cannot lock up as two could: whatever is called within it, in the same thread, is part of it. Only code that
waits, within a turn, for another thread that asks for one (a transform that hands a query to a pool of threads) waits
for ever. Threads that draw global random numbers by themselves draw seeded ones while a turn lasts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Have every other thread that asks for a turn wait until the block is over; blocks may be nested."""
    with _turn:
        yield


def _renew() -> None:
    """Let a forked process take turns of its own: the thread that had one when it was forked is not in it."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=_renew)
