"""What a single argument must be: each function returns the value as it is used, or says by name what is wrong.

Numbers of NumPy and one-element tensors count as numbers and come back as Python's; a bool is never a number, and what
is not whole is never cut off.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from .errors import InputError

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
    """Return `value` as a float, or raise `InputError` unless it is a finite number in the range.

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
    found = float(value)
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


def refused(name: str, value: Any, needed: str) -> InputError:
    """Return the error that `name` was given `value` where `needed` is needed."""
    text = repr(value)
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    kind = f" (the class {value.__name__}, not an instance)" if isinstance(value, type) else ""
    return InputError(f"{name}={shown}{kind}; pass {needed}")


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
