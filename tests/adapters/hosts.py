"""Tests of an adapter run where its host is installed; where the host is demanded, its absence fails."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def need_host(name: str, module: str | None = None) -> Any:
    """Return the imported host; skip the calling test module without it, or fail it if PRUNEFUSE_HOSTS names it.

    Args:
        name: the extra, for example "skorch".
        module: what to import, if it is called otherwise.
    """
    try:
        return importlib.import_module(module or name)
    except ModuleNotFoundError as error:
        if name in os.environ.get("PRUNEFUSE_HOSTS", "").split(","):
            raise RuntimeError(f"PRUNEFUSE_HOSTS asks for {name}, which cannot be imported: {error}") from error
        pytest.skip(f"{name} is not installed", allow_module_level=True)
