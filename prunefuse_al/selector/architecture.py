"""What a network is besides its tensors: the classes of its modules, what they were told, what their code names.

Networks with the same names and shapes of tensors may compute different things: another activation, another stride.
Compared are the class of every module; what its constructor was told, as far as that is plain and the module keeps it
(widths, strides, slopes, heads, rates of dropout; functions by name); and, of classes that no library brings, the names
that `forward` and what it calls within the same file refer to. Numbers written into code are not seen.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from ..fusing import EPSILONS

_LIKE_ANY = EPSILONS | {"inplace", "device", "dtype"}  # what state says, or what changes nothing that is computed
_LONGEST = 64  # of a list that is compared
_INSTALLED = {"site-packages", "dist-packages"}

Architecture = dict[str, Any]
"""``{"modules": {path: [class, {argument: text}]}, "code": {class: [names]}}``: what JSON can hold."""


def architecture(model: nn.Module) -> Architecture:
    """Return what is compared of a network."""
    code: dict[str, set[str]] = {}
    modules = {}
    for path, module in model.named_modules():
        kind = type(module)
        modules[path] = [kind.__name__, _settings(module)]
        if not _of_a_library(kind):
            code.setdefault(kind.__name__, set()).update(_names(kind))
    return {"modules": modules, "code": {name: sorted(names) for name, names in code.items()}}


def difference(file: Architecture, model: nn.Module, what: str) -> str:
    """Return the first thing in which a network, called `what`, differs from the one described; "" for none.

    Raises:
        ValueError: that is no description of a network.
    """
    _check(file)
    own = architecture(model)
    found = next(_in_modules(file["modules"], own["modules"]), "") or next(_in_code(file["code"], own["code"]), "")
    return found and f"the {what} is not the one that was saved: {found}"


def _in_modules(file: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    for path, (kind, settings) in file.items():
        name = repr(path) if path else "the network"
        if path not in own:
            yield f"{name} ({kind}) is not in the network"
            continue
        own_kind, own_settings = own[path]
        if kind != own_kind:
            yield f"{name} is a {kind} in the file, a {own_kind} in the network"
        for key in settings.keys() & own_settings.keys():
            if settings[key] != own_settings[key]:
                yield f"{name} ({kind}) has {key}={settings[key]} in the file, {own_settings[key]} in the network"
    for path in own.keys() - file.keys():
        yield f"{path!r} ({own[path][0]}) is not in the file"


def _in_code(file: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    for kind in sorted(file.keys() & own.keys()):
        gone, new = sorted({*file[kind]} - {*own[kind]}), sorted({*own[kind]} - {*file[kind]})
        if gone or new:
            yield (
                f"the code of {kind} named {', '.join(gone[:5]) or 'nothing else'} where it now names "
                f"{', '.join(new[:5]) or 'nothing'}"
            )


def _settings(module: nn.Module) -> dict[str, str]:
    """Return the arguments of its constructor that a module keeps under their names, as text."""
    arguments = {
        name
        for kind in type(module).__mro__
        if isinstance(made := vars(kind).get("__init__"), FunctionType)
        for name in made.__code__.co_varnames[: made.__code__.co_argcount + made.__code__.co_kwonlyargcount]
    }
    kept = {name: value for name, value in vars(module).items() if name in arguments - _LIKE_ANY}
    return {name: text for name, value in kept.items() if (text := _text(value)) is not None}


def _text(value: Any) -> str | None:
    """Return what a plain value or a function looks like; None for anything else."""
    if isinstance(value, bool | int | float | str | type(None)):
        return repr(value)[:200]
    if isinstance(value, tuple | list) and len(value) <= _LONGEST:
        parts = [_text(item) for item in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    if inspect.isroutine(value) or isinstance(value, type):
        return value.__name__
    return None


def _of_a_library(kind: type) -> bool:
    """Tell whether a class comes with something installed, which keeps its own promises about versions."""
    module = sys.modules.get(kind.__module__)
    path = str(getattr(module, "__file__", None) or "").replace("\\", "/")
    return kind.__module__.partition(".")[0] == "torch" or bool(_INSTALLED & {*path.split("/")})


def _names(kind: type) -> set[str]:
    """Return the names in the code of `forward` and of the functions of the same class or file that it calls."""
    seen: set[str] = set()
    pending: list[Callable[..., Any]] = [getattr(kind, "forward")]  # noqa: B009 (of any class)
    while pending:
        function = inspect.unwrap(pending.pop())
        if not isinstance(function, FunctionType):
            continue
        new = set(_of_code(function.__code__)) - seen
        seen |= new
        called = [getattr(kind, name, None) or function.__globals__.get(name) for name in sorted(new)]
        pending += [f for f in called if isinstance(f, FunctionType) and f.__module__ == function.__module__]
    return seen


def _of_code(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _of_code(part)


def _check(file: Any) -> None:
    """Raise `ValueError` unless a value from a file describes a network."""
    known = isinstance(file, dict) and isinstance(file.get("modules"), dict) and isinstance(file.get("code"), dict)
    if known:
        known = all(_describes(entry) for entry in file["modules"].values())
        known = known and all(_names_all(names) for names in file["code"].values())
    if not known:
        raise ValueError("it does not say what the network is")


def _describes(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], dict):
        return False
    return _names_all([entry[0], *entry[1].values()])


def _names_all(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
