"""What is shown of long work: a bar, from some seconds on, where stderr is a terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

SHOWN_AFTER = 5  # seconds


def bar(words: str, unit: str, *, total: int | None = None, shown: bool) -> tqdm[Any]:
    """Return a bar that appears when the work takes over `SHOWN_AFTER` seconds, and leaves nothing behind.

    Args:
        words: what is done.
        unit: what is counted.
        total: how many; None: nobody knows.
        shown: False shows nothing, as where stderr is no terminal.
    """
    silent = None if shown else True  # None asks tqdm to look for a terminal
    return tqdm(desc=words, total=total, unit=f" {unit}", delay=SHOWN_AFTER, disable=silent, leave=False)
