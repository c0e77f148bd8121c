"""Reaching other people's code, installed or cloned; scorer_peers.py says what there is and how to get it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunefuse_al.types import Signals

REPOSITORIES = {
    "DeepCore": "PatrickZH",
    "selection-via-proxy": "stanford-futuredata",
    "deep-active-learning": "ej0cl6",
    "Coverage-centric-coreset-selection": "haizhongzheng",
    "d2pruning": "adymaharana",
    "VeSSAL": "asaran",
    "AL-foundation-models": "sanketx",
}
PACKAGES = {"modAL": "modAL-python skorch", "skactiveml": "scikit-activeml", "small_text": "small-text==1.4.1"}
ALL = 10**9
Call = Callable[[], Any]


class AbsentError(Exception):
    """Says how to get what is not there."""


@dataclass(frozen=True)
class Peer:
    """Someone else's implementation.

    Attributes:
        prepare: (signals, k) -> a function without arguments that picks and returns rows of the candidates.
        note: why it may pick others than we do.
        most: candidates at most, where it needs a matrix of all pairs or a loop over them.
    """

    prepare: Callable[[Signals, int], Call]
    note: str = ""
    most: int = ALL


def package(module: str) -> Any:
    """Return an installed module."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AbsentError(f"not installed: pip install {PACKAGES[module.split('.')[0]]} ({error})") from error


def clone(folder: str) -> Path:
    """Return the folder of a clone."""
    path = Path(os.environ.get("PEERS_ROOT", "peers")) / folder
    if not path.is_dir():
        url = f"https://github.com/{REPOSITORIES[folder]}/{folder}"
        raise AbsentError(f"no {path}: git clone {url} in the folder that --peers-root names")
    return path


def cloned(folder: str, module: str) -> Any:
    """Return a module of a clone."""
    sys.path.insert(0, str(clone(folder)))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AbsentError(f"{folder} cannot be imported: {error}") from error


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what others print off this process's output, and their progress bars too."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
