"""How much memory a process took: its own peak, and only from a given moment on.

`resource.getrusage` knows neither: a child begins with the peak of the process that started it, and what was imported
before hides what comes after.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Have `peak` start again from what is resident now, where the system can do that (Linux)."""
    with contextlib.suppress(OSError):
        RESET.write_text("5")


def peak() -> float:
    """Return the highest resident memory of this process since it began, or since `reset_peak`, in MB."""
    if STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
