"""What the values of a plan may be: one check a field; each says what was found and what is needed.

A name becomes the name of a folder, so it is one that cannot lead elsewhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from data import NAMES
from tables import ROWS

from prunefuse_al.checks import instance, number, one_of, refused, whole

SETUP, RECORDS, TIMINGS = "plan.json", "records.jsonl", "timings.jsonl"
REPORT, DETAILS = "report.md", "details.md"
STATE, LOCK = "state", ".lock"
TAKEN = (SETUP, RECORDS, TIMINGS, STATE, "records", "timings")  # the last two: of an earlier version
DATA = (*NAMES, *ROWS)
MOST = 10**9  # of rows, labels and steps
Check = Callable[[str, Any], Any]


def file_name(name: str, value: Any) -> str:
    """Return `value` if a folder of a plan may be called so on every system."""
    words = "a file name: letters, digits and _ - + = . or spaces, a letter, digit or _ first, up to 100 of them"
    if not isinstance(value, str) or not re.fullmatch(r"\w([\w .+=-]{0,98}[\w+=-])?", value):
        raise refused(name, value, words)
    if len(value.encode()) > 200:
        raise refused(name, value, "a shorter name")
    if value.lower() in TAKEN:
        raise refused(name, value, f"another name: {', '.join(TAKEN)} are taken")
    return value


def text(name: str, value: Any, most: int = 1000) -> str:
    """Return `value` if it is one line of text."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > most:
        raise refused(name, value, f"a line of text, 1 to {most:,} characters")
    return value


def pictures(name: str, value: Any) -> str:
    """Return `value` if it names pictures, a table or texts: those that there are, an .npz file, a folder."""
    text(name, value)
    kind, _, path = value.partition(":")
    if value in DATA or value.endswith(".npz") or (kind == "folder" and path):
        return value
    known = f"one of {', '.join(DATA)}, the path of an .npz file, or folder:PATH"
    raise refused(name, value, known + nearest(value, DATA))


def amount(name: str, value: Any) -> float:
    """Return `value` if it is a number of labels, or a share of the pool."""
    found = number(name, value, above=0, most=MOST)
    if found >= 1 and found != int(found):
        raise refused(name, value, "a whole number of labels, or a share of the pool below 1")
    return found


def several(check: Check, least: int = 1) -> Check:
    """Return a check of a list whose members pass `check`, none of them twice."""

    def checked(name: str, value: Any) -> None:
        instance(name, value, (list, tuple), f"a list{' of one or more' if least else ''}")
        if len(value) < least:
            raise refused(name, value, "one or more")
        for place, member in enumerate(value):
            check(f"{name}[{place}]", member)
            if member in value[:place]:
                raise refused(f"{name}[{place}]", member, "each once; it stands there twice")

    return checked


PLAN: dict[str, Check] = {
    "name": file_name,
    "data": pictures,
    "size": partial(whole, least=0, most=4096),
    "resize": partial(whole, least=0, most=4096),
    "train": partial(whole, least=0, most=MOST),
    "pool": partial(whole, least=0, most=MOST),
    "test": partial(whole, least=0, most=MOST),
    "imbalance": partial(number, least=1, most=1e6),
    "noise": partial(number, least=0, below=1),
    "augment": partial(one_of, choices=("standard", "none")),
    "network": text,
    "ratio": partial(number, least=0, below=1),
    "scorer": text,
    "first": amount,
    "budgets": several(amount),
    "trainer": partial(one_of, choices=("scaled", "adamw", "cifar", "imagenet")),
    "epochs": partial(whole, least=0, most=100_000),
    "batch_size": partial(whole, least=0, most=MOST),
    "lr": partial(number, least=0, most=1e6),
    "fine_tune": partial(number, above=0, most=1e6),
    "precision": partial(one_of, choices=("fp32", "bf16", "fp16", "auto")),
    "tuning": partial(whole, least=0, most=10_000),
    "seeds": several(partial(whole, least=0, most=2**63 - 1)),
    "arms": several(partial(text, most=200)),
    "baseline": partial(text, most=200),
    "references": several(partial(text, most=200), least=0),
    "note": partial(instance, kind=str, what="text"),
}
ARM: dict[str, Check] = {  # where any text will do, or the library says what will, there is none
    "layout": partial(one_of, choices=("last",)),
    "distill": partial(number, least=0, most=1),
    "ratio": partial(number, least=0, below=1),
    "falls_to": partial(number, least=0, below=1),
    "stop": partial(whole, least=0, most=100_000),
    "plateau": partial(whole, least=0, most=100_000),
    "progressive": partial(whole, least=0, most=100_000),
    "epochs": partial(whole, least=0, most=100_000),
    "target_epochs": partial(whole, least=0, most=100_000),
    "rate": partial(number, above=0, most=1e6),
    "imitate": partial(whole, least=0, most=100_000),
    "fine_tune": partial(number, above=0, most=1e6),
    "warm_share": partial(number, above=0, most=1),
    "fraction": partial(number, above=0, most=1),
}


def nearest(asked: str, known: Iterable[str]) -> str:
    """Return words about the known name that is most like what was asked, none if none is."""
    near = difflib.get_close_matches(asked, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""
