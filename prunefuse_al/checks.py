"""What a single argument must be: each function returns the value as it is used, or says by name what is wrong.

Numbers of NumPy and one-element tensors count as numbers and come back as Python's; a bool is never a number, and what
is not whole is never cut off.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, MissingDependencyError

T = TypeVar("T")


def whole(name: str, value: Any, *, least: int | None = None, most: int | None = None, what: str = "") -> int:
    """Return `value` as an int, or raise `InputError` unless it is a whole number in the range.

    Args:
        name: what the argument is called.
        value: an int, or a whole number of NumPy or torch; 2.0 is none.
        least: smallest allowed.
        most: largest allowed.
        what: says what is needed, in the place of "a whole number from ... to ...".
    """
    needed = what or f"a whole number{_range(least, most)}"
    if _is_bool(value):
        raise refused(name, value, needed)
    try:
        found = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise refused(name, value, needed) from None
    if (least is not None and found < least) or (most is not None and found > most):
        raise refused(name, value, needed)
    return found


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    what: str = "",
) -> float:
    """Return `value` as Python's int or float, or raise `InputError` unless it is a finite number in the range.

    Args:
        name: what the argument is called.
        value: an int or float, or such a number of NumPy or torch.
        least: smallest allowed.
        most: largest allowed.
        above: it must be larger than this.
        below: it must be smaller than this.
        what: says what is needed, in the place of "a finite number ...".
    """
    needed = what or f"a finite number{_bounds(least, most, above, below)}"
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if _is_bool(value) or not isinstance(value, int | float | np.integer | np.floating) or not math.isfinite(value):
        raise refused(name, value, needed)
    found = int(value) if isinstance(value, int | np.integer) else float(value)
    outside = (
        (least is not None and found < least)
        or (most is not None and found > most)
        or (above is not None and found <= above)
        or (below is not None and found >= below)
    )
    if outside:
        raise refused(name, value, needed)
    return found


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool, or raise `InputError` unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise refused(name, value, "True or False")
    return bool(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value`, or raise `InputError` unless it is one of the names in `choices`."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise refused(name, value, f"one of {', '.join(map(repr, known))}")
    return value


def instance(name: str, value: Any, kind: type[T] | tuple[type[T], ...], what: str) -> T:
    """Return `value`, or raise `InputError` unless it is an instance of `kind`; `what` says what is needed."""
    if not isinstance(value, kind):
        raise refused(name, value, what)
    return value


def function(name: str, value: Any, what: str) -> Callable[..., Any]:
    """Return `value`, or raise `InputError` unless it can be called; a class is not one. `what` says what is needed."""
    if not callable(value) or isinstance(value, type):
        raise refused(name, value, what)
    found: Callable[..., Any] = value
    return found


def methods(name: str, value: Any, wanted: Iterable[str], what: str) -> Any:
    """Return `value`, or raise `InputError` unless it is an object, no class, with methods of these names."""
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in wanted):
        raise refused(name, value, what)
    return value


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Tell whether a function can be given an argument by that name: it has such a parameter, or ``**kwargs``.

    What does not say what it takes, as some functions written in C, takes nothing by name.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.kind is p.VAR_KEYWORD or (p.kind in by_name and p.name == argument) for p in parameters)


def path(name: str, value: Any, what: str = "a path, as a str or a pathlib.Path") -> str:
    """Return a path as a str, or raise `InputError` unless it is a str, bytes or an `os.PathLike`, and not empty."""
    found = os.fsdecode(value) if isinstance(value, str | bytes | os.PathLike) else ""
    if not found or "\0" in found:
        raise refused(name, value, what)
    return found


def maybe(check: Callable[..., T], name: str, value: Any, *args: Any, **options: Any) -> T | None:
    """Return None for None, else what `check(name, value, ...)` returns; its complaint says that None will do."""
    if value is None:
        return None
    try:
        return check(name, value, *args, **options)
    except InputError as error:
        raise InputError(f"{error}, or None") from None


def installed(library: str, *, extra: str) -> Any:
    """Return a library that the core does without, or raise `MissingDependencyError` saying how it is installed.

    Args:
        library: what is imported, and only now.
        extra: of this package, that brings it.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library.partition(".")[0]:
            raise
        raise MissingDependencyError(
            f'this needs {error.name}, which is not installed. Run: pip install "prunefuse_al[{extra}]"',
            name=error.name,
        ) from error


def array(name: str, value: Any, what: str, *, floats: bool = False) -> Tensor:
    """Return numbers as a tensor, or raise `InputError` unless they are an array, a tensor or a list of numbers.

    Args:
        name: what the argument is called.
        value: over its own memory where that may be written to, else copied. Numbers that torch has no type for become
            the next larger one.
        what: says what is needed.
        floats: whole numbers and flags become floats that hold them exactly (up to 2**53).
    """
    found = value if isinstance(value, Tensor) else _tensor(name, value, what)
    unusual = found.layout != torch.strided or found.is_nested or found.is_quantized or found.is_meta
    if unusual or found.is_complex():
        raise refused(name, value, what)
    found = found.detach() if found.requires_grad else found
    if not floats or found.is_floating_point():
        return found
    return found.to(torch.float32 if found.dtype.itemsize < 4 else torch.float64)


def whole_numbers(name: str, value: Any, what: str) -> Tensor:
    """Return whole numbers as an int64 tensor, or raise `InputError` unless they are ints: no floats, no flags."""
    found = array(name, value, what)
    if found.numel() and (found.is_floating_point() or found.dtype == torch.bool):
        raise refused(name, value, what)
    return found.to(torch.int64)  # an empty list is of no kind yet


def settle(instance: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass while it is made: options as they are used, not as they were written."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def named(name: str, value: Any, names: Iterable[str], signature: str) -> Any:
    """Return `value`, or raise `InputError` unless it is one of the names, or a function of that signature."""
    known = list(names)
    if isinstance(value, type) or not (callable(value) or (isinstance(value, str) and value in known)):
        raise refused(name, value, f"one of {', '.join(known)}, or a function {signature}")
    return value


def refused(name: str, value: Any, needed: str) -> InputError:
    """Return the error that `name` was given `value` where `needed` is needed."""
    kind = f" (the class {value.__name__}, not an instance)" if isinstance(value, type) else ""
    return InputError(f"{name}={shown(value)}{kind}; pass {needed}")


def shown(value: Any) -> str:
    """Return a value as one short line: what it evaluates from, or of many numbers their kind and shape."""
    if isinstance(value, Tensor | np.ndarray) and (value.ndim > 1 or len(value.reshape(-1)) > 8):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"<{str(value.dtype).removeprefix('torch.')} {kind} {list(value.shape)}>"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _tensor(name: str, value: Any, what: str) -> Tensor:
    """Return a tensor of what NumPy takes for numbers; a ragged list, words and objects are refused."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        raise refused(name, value, what) from None
    if found.dtype.kind not in "biuf" or isinstance(value, np.ma.MaskedArray) or not hasattr(value, "__len__"):
        raise refused(name, value, what)
    if found.dtype.kind == "u" and found.dtype.itemsize == 8 and found.size and found.max() > np.iinfo(np.int64).max:
        raise refused(name, value, what)
    if found.dtype.kind == "u" and found.dtype.itemsize > 1:
        found = found.astype(np.int64)
    elif found.dtype.kind == "f" and found.dtype.itemsize > 8:
        found = found.astype(np.float64)
    found = np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("="))
    return torch.from_numpy(np.require(found, requirements="W"))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, Tensor | np.ndarray) and "bool" in str(value.dtype))


def _range(least: int | None, most: int | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most:,}"
    if least is not None:
        return f" from {least}"
    return "" if most is None else f" up to {most:,}"


def _bounds(least: float | None, most: float | None, above: float | None, below: float | None) -> str:
    parts = [
        f"{sign} {bound:g}"
        for sign, bound in ((">=", least), (">", above), ("<=", most), ("<", below))
        if bound is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""
