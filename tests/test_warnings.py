"""A warning points at the line of the user's that led to it, however deep in the library it is raised."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from prunefuse_al.errors import CostWarning, warn

OURS = {"__name__": "prunefuse_al.selector.steps"}


def deep(levels: int, **names: Any) -> Callable[[], None]:
    """Return a function that warns from `levels` calls inside the library."""
    module = {**OURS, "warn": warn, "CostWarning": CostWarning, **names}
    exec("def call0(): warn('dear', CostWarning)", module)
    for level in range(levels):
        exec(f"def call{level + 1}(): call{level}()", module)
    found: Callable[[], None] = module[f"call{levels}"]
    return found


def pointed_at(call: Callable[[], Any]) -> tuple[str, int]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    assert (warning.category, str(warning.message)) == (CostWarning, "dear")
    return warning.filename, warning.lineno


@pytest.mark.parametrize("levels", [0, 1, 7])
def test_the_users_line_is_found_from_any_depth(levels: int) -> None:
    call = deep(levels)

    def mine() -> int:
        call()
        return inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]

    line: list[int] = []
    assert pointed_at(lambda: line.append(mine())) == (__file__, line[0])


def test_what_is_installed_between_is_passed_over() -> None:
    """A warning raised while torch calls the library back is about the user's call of torch or of the library."""
    module = torch.nn.ReLU()
    call = deep(1)
    module.register_forward_hook(lambda *_: call())
    assert pointed_at(lambda: module(torch.zeros(1)))[0] == __file__
    ours = {**OURS, "contextlib": contextlib, "warn": warn, "CostWarning": CostWarning}
    exec("@contextlib.contextmanager\ndef managed():\n    yield\n    warn('dear', CostWarning)", ours)
    exec("def call():\n    with managed(): pass", ours)
    assert pointed_at(ours["call"])[0] == __file__


def test_each_line_is_told_once_and_an_error_is_raised_where_warnings_are_errors() -> None:
    call = deep(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            call()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CostWarning, match="dear"):
            call()
