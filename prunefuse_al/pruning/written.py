"""Widths that a network's code has written in it: where they stand, and what to read instead."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator

from torch import nn

from .groups import Group
from .places import place_of


def written_widths(model: nn.Module, groups: Iterable[Group]) -> str:
    """Return where code of the network names a number that is the width of one of these groups, and the remedy, or "".

    Looked for are numbers, names of the file's own and attributes of what is no module: those cannot follow a width.
    """
    layers: dict[int, str] = {}
    for group in groups:
        for axis, _ in group.axes:
            layers.setdefault(axis.size, axis.name.rpartition(".")[0])
    for path, module in model.named_modules():
        for width, place in _numbers(module):
            if width in layers and width > 2:  # small ones stand everywhere
                instead = _read_from(model, layers[width], width, path)
                return f"; {width} is written in {place}: if it is this width, read it from {instead}"
    return ""


def _numbers(module: nn.Module) -> Iterator[tuple[int, str]]:
    """Yield the numbers in the methods of a user's own module, and where each stands."""
    kind = type(module)
    if kind.__module__.partition(".")[0] == "torch":
        return
    try:
        lines, start = inspect.getsourcelines(kind)
        file = inspect.getsourcefile(kind)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    except (OSError, TypeError, SyntaxError):  # its source is not at hand
        return
    methods = (node for node in ast.iter_child_nodes(tree) if isinstance(node, ast.FunctionDef))
    for method in methods:
        for node in ast.walk(method) if method.name != "__init__" else ():
            value = _value(node, module)
            if type(value) is int and isinstance(node, ast.expr):
                line = lines[node.lineno - 1].strip()
                yield value, place_of(kind, method.name, file, start + node.lineno - 1, line)


def _value(node: ast.AST, module: nn.Module) -> object:
    """Return what an expression of a method stands for: a number, a name of its file, or an attribute of no module."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return module if node.id == "self" else vars(sys.modules[type(module).__module__]).get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _owner(node.value, module)
    return None if isinstance(owner, nn.Module) else getattr(owner, node.attr, None)


def _owner(node: ast.AST, module: nn.Module) -> object:
    """Return the object that an attribute is read from, which may be a module."""
    if isinstance(node, ast.Attribute):
        return getattr(_owner(node.value, module), node.attr, None)
    return _value(node, module) if isinstance(node, ast.Name) else None


def _read_from(model: nn.Module, layer: str, width: int, path: str) -> str:
    """Return an expression that gives the width of a layer in a method of the module at `path`."""
    names = [name for name, value in vars(model.get_submodule(layer)).items() if value == width and name[0] != "_"]
    prefix = f"{path}." if path else ""
    if not names or not layer.startswith(prefix) or layer == path:
        return "the shape of a tensor"
    return f"the layer, self.{layer.removeprefix(prefix)}.{names[0]}, or from the shape of a tensor"
