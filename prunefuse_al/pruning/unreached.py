"""What of a network a pass does not reach: parameters that nothing reads, branches of its code that are not taken."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from inspect import getsourcelines
from types import CodeType, FrameType, FunctionType
from typing import Any

from torch import Tensor, nn

from .places import place_of
from .trace import Trace


def never_used(model: nn.Module, trace: Trace) -> dict[str, frozenset[int]]:
    """Return each module, or single parameter, of which no operation read anything, and the sizes within it."""
    names = {name: p for name, p in model.named_parameters(remove_duplicate=False)}
    unread = {name for name in names if trace.atoms.registered[name] not in trace.read}
    found: dict[str, frozenset[int]] = {}
    for path, _ in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        within = {name for name in names if name.startswith(prefix)}
        if path and within and within <= unread:
            found[path] = _sizes(names[name] for name in within)
            unread -= within
    return found | {name: _sizes([names[name]]) for name in names if name in unread}


def _sizes(tensors: Iterable[Tensor]) -> frozenset[int]:
    return frozenset(size for tensor in tensors for size in tensor.shape if size > 1)


class Reached:
    """While active, notes which lines of the methods of a network's own classes this thread runs.

    Where another trace of Python is on, such as a debugger's, that goes on and nothing is noted.

    Args:
        model: the network; classes of torch's own are left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self._methods: dict[CodeType, tuple[type, FunctionType]] = {}
        for kind in {base: None for module in model.modules() for base in type(module).__mro__}:
            if kind.__module__.partition(".")[0] not in ("torch", "builtins"):
                for method in vars(kind).values():
                    if isinstance(method, FunctionType) and method.__name__ != "__init__":
                        self._methods[method.__code__] = kind, method
        self._lines: dict[CodeType, set[int]] = defaultdict(set)
        self._on = False

    def __enter__(self) -> Reached:
        self._on = bool(self._methods) and sys.gettrace() is None
        if self._on:
            sys.settrace(self._entered)
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            sys.settrace(None)

    def _entered(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._went_on if frame.f_code in self._methods else None

    def _went_on(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self._lines[frame.f_code].add(frame.f_lineno)
        return self._went_on

    def not_taken(self) -> tuple[str, ...]:
        """Return "Net.forward (file, line n: `...`)" of the first line of each branch that was not taken.

        Those that only raise an error are left out, and what lies within another.
        """
        found = []
        for code, lines in self._lines.items():
            kind, method = self._methods[code]
            try:
                text, start = getsourcelines(method)
                tree = ast.parse(textwrap.dedent("".join(text))).body[0]
            except (OSError, TypeError, SyntaxError):  # its source is not at hand
                continue
            for first in _branches(tree, {line - start + 1 for line in lines}):
                line = text[first - 1].strip()
                found.append(place_of(kind, method.__name__, code.co_filename, start + first - 1, line))
        return tuple(found)


def _branches(node: ast.AST, reached: set[int]) -> Iterator[int]:
    """Yield the first line of every branch within a node that was not reached, though its condition was."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and child.test.lineno in reached:
            for body in (child.body, child.orelse):
                if body and not _lines(body) & reached and not all(isinstance(n, ast.Raise) for n in body):
                    yield body[0].lineno
        yield from _branches(child, reached)


def _lines(body: list[ast.stmt]) -> set[int]:
    return {line for statement in body for line in range(statement.lineno, (statement.end_lineno or 0) + 1)}
