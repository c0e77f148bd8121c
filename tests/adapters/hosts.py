"""Tests of an adapter run where its host is installed; where the host is demanded, its absence fails."""

from __future__ import annotations

import importlib
import os
from importlib import metadata
from typing import Any

import pytest
from packaging.version import Version


def need_host(name: str, module: str | None = None, *, at_least: str | None = None) -> Any:
    """Return the imported host; skip the calling test (module) without it, or fail it if PRUNEFUSE_HOSTS names it.

    Args:
        name: the extra, for example "skorch".
        module: what to import, if it is called otherwise.
        at_least: the oldest version that will do; modAL pins a skorch that cannot be imported with today's setuptools.
    """
    wanted = module or name
    try:
        if at_least is not None and Version(metadata.version(wanted)) < Version(at_least):
            raise ModuleNotFoundError(f"{wanted} {metadata.version(wanted)} is older than {at_least}")
        return importlib.import_module(wanted)
    except ModuleNotFoundError as error:
        if name in os.environ.get("PRUNEFUSE_HOSTS", "").split(","):
            raise RuntimeError(f"PRUNEFUSE_HOSTS asks for {name}, which cannot be used: {error}") from error
        pytest.skip(f"{wanted} cannot be used: {error}", allow_module_level=True)
