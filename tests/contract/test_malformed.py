"""Every argument of every public call, given what it may not be: refused by name, with a remedy, nothing changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from malformed import (
    EXEMPT,
    EXEMPT_ARGUMENTS,
    EXEMPT_METHODS,
    LINES,
    NETWORKS,
    ROWS,
    SELECTORS,
    TABLE,
    classifier,
    ledger,
    parameters,
    public_calls,
)

from prunefuse_al.errors import PruneFuseError

REMEDY = re.compile(
    r"\b(pass|give|takes?|ask|call|choose|set|expected|use|name|leave|known|needed|must|wrap|encode|look at)\b|did you",
    re.I,
)


def state() -> tuple[list[torch.Tensor], Any]:
    """Return what no failed call may change; global random states are watched over by the guard of all tests."""
    weights = [tensor.clone() for network in NETWORKS for tensor in network.state_dict().values()]
    modes = [module.training for network in NETWORKS for module in network.modules()]
    rounds = [(each.round, each.costs.rows(), each._state) for each in SELECTORS]
    return weights, (modes, rounds, vars(classifier).copy(), len(ledger))


def complaint(name: str, argument: str, value: Any, words: str) -> str | None:
    """Return what is wrong with how a call refuses a value, or None."""
    line = LINES[name]
    try:
        line.call(argument, value)
    except PruneFuseError as error:
        text = str(error)
    except Exception as error:
        return f"{type(error).__name__} was raised: {error}"
    else:
        return "it was taken"
    if not re.search(line.called.get(argument, re.escape(argument)), text):
        return f"{argument} is not named: {text}"
    if words not in text:
        return f"{words!r} is not said: {text}"
    return None if REMEDY.search(text) else f"what to do is not said: {text}"


@pytest.mark.parametrize(
    ("name", "argument", "values"), ROWS, ids=[f"{name}, {argument}" for name, argument, _ in ROWS]
)
def test_it_is_refused_by_name_with_a_remedy_and_nothing_changes(
    name: str, argument: str, values: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights, others = state()
    found = {f"{argument}={bad.shown}": complaint(name, argument, bad.value, bad.shown) for bad in values}
    assert not {given: said for given, said in found.items() if said}
    after, rest = state()
    assert all(map(torch.equal, weights, after))
    assert rest == others
    assert not list(tmp_path.iterdir())


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(ROWS) >= 300
    assert sum(len(values) for *_, values in ROWS) >= 2000
    assert len(LINES) == len(TABLE), "two lines have one name"


def test_every_argument_of_every_public_call_is_in_the_table() -> None:
    """A new option or call enters it, or says why not."""
    entered: dict[Any, set[str]] = {}
    for line in TABLE:
        entered.setdefault(getattr(line.function, "__func__", line.function), set()).update(line.bad)
    missing = [
        f"{name}({argument}=)"
        for name, function in public_calls()
        if not {name, name.partition(".")[0]} & EXEMPT.keys() and name.partition(".")[2] not in EXEMPT_METHODS
        for argument in parameters(function)
        if argument not in entered.get(function, set()) and (name, argument) not in EXEMPT_ARGUMENTS
    ]
    assert not missing, f"give each a kind in tests/contract/malformed.py, or a reason: {missing}"


def test_what_is_exempt_is_there() -> None:
    calls = dict(public_calls())
    assert not EXEMPT.keys() - calls.keys()
    assert not EXEMPT_METHODS.keys() - {name.partition(".")[2] for name in calls}
    assert not [where for where in EXEMPT_ARGUMENTS if where[1] not in parameters(calls[where[0]])]
