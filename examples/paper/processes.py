"""Processes that work side by side and end with the one that started them, however it ends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence


def run_side_by_side(command: Sequence[str], count: int, environment: Mapping[str, str]) -> None:
    """Run a command, which calls `end_with_parent`, in several processes; one that fails ends all.

    Raises:
        SystemExit: one failed.
    """
    # Nothing is ever written into their standard input: the system closes it when this process is gone.
    running = [subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() not in (None, 0) for process in running):
                break
            time.sleep(0.5)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.communicate()
    if any(process.returncode for process in running):
        raise SystemExit("a process failed, see above; what is done is kept, run the same command to go on")


def end_with_parent() -> None:
    """Have this process end, in the middle of whatever it does, when its standard input does."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
