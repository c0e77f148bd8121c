"""Places in the code of a user's network, as they are named to its user."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from pathlib import PurePath
from types import CodeType, FrameType, TracebackType

from torch import nn

LONGEST = 80  # of a line that is quoted
_NOT_THEIRS = frozenset(("torch", "prunefuse_al", "contextlib"))


def place_of(kind: type | None, function: str, file: str | None, number: int, line: str) -> str:
    """Return how a line is named to a user: "Net.forward (net.py, line 12: `x = x.view(-1, 320)`)"."""
    owner = f"{kind.__name__}." if kind else ""
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
    return f"{owner}{function} ({PurePath(file or '?').name}, line {number}: `{line}`)"


def place_within(outermost: CodeType) -> str:
    """Return the line of a network's code that is running, or "" where none but torch's is.

    Args:
        outermost: the function of this package that called the network.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        if _theirs(frame):
            return _named(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def place_raised(error: BaseException) -> str:
    """Return the innermost line of a network's code at which an error was raised, or "" where none but torch's is."""
    own = list(_within_ours(error.__traceback__))
    return next((_named(frame, number) for frame, number in reversed(own) if _theirs(frame)), "")


def _within_ours(found: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while found is not None:
        yield found.tb_frame, found.tb_lineno
        found = found.tb_next


def _theirs(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THEIRS


def _named(frame: FrameType, number: int) -> str:
    code = frame.f_code
    owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    kind = type(owner) if isinstance(owner, nn.Module) else None
    line = linecache.getline(code.co_filename, number, frame.f_globals).strip()
    return place_of(kind, code.co_name, code.co_filename, number, line)
