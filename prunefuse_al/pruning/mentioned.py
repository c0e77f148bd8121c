"""Which names the code of a network mentions while it runs: an attribute of another name is read by none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from .unreached import Reached

_NOT_THEIRS = tuple(os.path.dirname(file) + os.sep for file in (torch.__file__, __file__))


class Mentioned(Reached):
    """Notes as well which functions ran."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._ran: dict[int, tuple[CodeType, bool]] = {}  # by identity: to compare code takes long

    def _entered(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        seen = self._ran.get(id(code))
        if seen is None:
            seen = self._ran[id(code)] = code, code in self._methods
        return self._went_on if seen[1] else None

    def names(self) -> frozenset[str] | None:
        """Return all names in what ran but torch's own, and in the methods that it names; None where none was seen.

        A method that only runs in train mode is named by one that always does.
        """
        if not self._on:
            return None
        found: set[str] = set()
        new = [code for code, _ in self._ran.values() if not code.co_filename.startswith(_NOT_THEIRS)]
        left = dict(self._methods)
        while new:
            for code in new:
                found.update(_names(code))
                left.pop(code, None)
            new = [code for code, (_, method) in left.items() if method.__name__ in found]
        return frozenset(found)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names of attributes and globals in a function, and the texts, of which one may name an attribute."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant
