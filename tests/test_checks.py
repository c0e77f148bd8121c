"""Single arguments: what counts as a number, and what is said of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from prunefuse_al import checks
from prunefuse_al.errors import InputError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_any_make_are_ints(value: Any) -> None:
    found = checks.whole("n", value, least=1, most=3)
    assert (type(found), found) == (int, 3)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_numbers_of_any_make_are_floats(value: Any) -> None:
    found = checks.number("p", value, least=0, below=1)
    assert (type(found), found) == (float, 0.5)


NAN = float("nan")
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "bool for whole": (lambda: checks.whole("k", True), "k=True; pass a whole number"),
    "bool of NumPy": (lambda: checks.whole("k", np.True_), "pass a whole number"),
    "bool of torch": (lambda: checks.whole("k", torch.tensor(True)), "pass a whole number"),
    "cut off": (lambda: checks.whole("k", 2.0), "k=2.0; pass a whole number"),
    "word": (lambda: checks.whole("k", "2", least=1), "k='2'; pass a whole number from 1"),
    "several": (lambda: checks.whole("k", np.array([1, 2])), "pass a whole number"),
    "too small": (lambda: checks.whole("k", 0, least=1, most=9), "k=0; pass a whole number from 1 to 9"),
    "too large": (lambda: checks.whole("k", 10, most=9), "up to 9"),
    "bool for number": (lambda: checks.number("p", False), "p=False; pass a finite number"),
    "not a number": (lambda: checks.number("p", NAN, least=0), "p=nan; pass a finite number >= 0"),
    "infinite": (lambda: checks.number("p", float("inf")), "p=inf"),
    "complex": (lambda: checks.number("p", 1j), "p=1j"),
    "edge": (lambda: checks.number("p", 1, least=0, below=1), "p=1; pass a finite number >= 0 and < 1"),
    "other edge": (lambda: checks.number("p", 0, above=0), "p=0; pass a finite number > 0"),
    "no flag": (lambda: checks.flag("on", 1), "on=1; pass True or False"),
    "unknown name": (lambda: checks.one_of("kind", "c", ("a", "b")), "kind='c'; pass one of 'a', 'b'"),
    "a list for a name": (lambda: checks.one_of("kind", ["a"], ("a", "b")), "pass one of"),
    "class": (lambda: checks.instance("x", int, int, "an int"), "the class int, not an instance); pass an int"),
    "uncallable": (lambda: checks.function("f", 3, "a function"), "f=3; pass a function"),
    "long": (lambda: checks.whole("k", "a" * 999), "aaa...; pass"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_by_name(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=re.escape(message)):
        call()


def _positional(recorder: Any, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "taken"),
    [
        (lambda recorder: None, True),
        (lambda model, *, recorder=None: None, True),
        (lambda model, **kwargs: None, True),
        (lambda model, *args: None, False),
        (_positional, False),
        (lambda model: None, False),
        (type, False),  # written in C, and does not say what it takes
    ],
)
def test_what_a_function_can_be_given_by_name(function: Any, taken: bool) -> None:
    assert checks.takes(function, "recorder") is taken
