"""Attributes of modules by name; of one that is a function, "shortcut.planes" is the number it captured as `planes`.

A function made inside another one keeps what it read there: `lambda x: pad(x, planes // 4)` has its own `planes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CellType, FunctionType
from typing import Any

from torch import nn

from ..errors import FusionError


def captured_numbers(value: object) -> Mapping[str, int]:
    """Return the whole numbers that a function captured, by name; none of anything else."""
    if not isinstance(value, FunctionType) or value.__closure__ is None:
        return {}
    found = zip(value.__code__.co_freevars, map(_content, value.__closure__), strict=True)
    return {name: content for name, content in found if type(content) is int}


def attribute(module: nn.Module, name: str) -> Any:
    """Return an attribute, or a number that one captured."""
    own, _, inner = name.partition(".")
    value = getattr(module, own)
    return captured_numbers(value)[inner] if inner else value


def put_attribute(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute; for a captured number, to another function, as the same one may be shared by other networks.

    Raises:
        FusionError: no function that is an attribute captured such a number.
    """
    own, _, inner = name.partition(".")
    if inner and inner not in captured_numbers(getattr(module, own, None)):
        raise FusionError(
            f"{name!r} is no number that a function captured in {type(module).__name__}; pass the architecture the map "
            "was made for"
        )
    if inner:
        value = _recaptured(getattr(module, own), inner, value)
    setattr(module, own, value)


def _recaptured(function: FunctionType, name: str, value: int) -> FunctionType:
    names = function.__code__.co_freevars
    cells = tuple(
        CellType(value) if own == name else cell for own, cell in zip(names, function.__closure__ or (), strict=True)
    )
    found = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    found.__kwdefaults__ = function.__kwdefaults__
    found.__dict__.update(function.__dict__)
    return found


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it was never filled
        return None
