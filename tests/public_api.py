"""What of the library is public: names, and how they are called. `python -m tests.public_api` prints it as JSON."""

from __future__ import annotations

import importlib
import inspect
import json
from functools import cache
from typing import Any

PACKAGES = ("", "scorers", "training", "selector", "pruning", "estimator", "advisor", "pooled")
MODULES = ("errors", "types", "testing", "costs", "plots")  # of these, what they define themselves


@cache
def described() -> dict[str, list[str]]:
    """Return "module:name" or "module:Class.name" -> its parameters, empty for what is not called."""
    found = {}
    for name in (*PACKAGES, *MODULES):
        module = importlib.import_module("prunefuse_al" + (f".{name}" if name else ""))
        for public in getattr(module, "__all__", vars(module)):
            value = getattr(module, public)
            if public.startswith("_") or inspect.ismodule(value) or not _ours(value, module.__name__, name in MODULES):
                continue
            found[f"{name}:{public}"] = _parameters(value)
            for method, member in inspect.getmembers(value) if inspect.isclass(value) else ():
                owner = next((c for c in value.__mro__ if method in vars(c)), object)
                if not method.startswith("_") and owner.__module__.startswith("prunefuse_al"):
                    found[f"{name}:{public}.{method}"] = _parameters(member)
    return dict(sorted(found.items()))


def _ours(value: Any, module: str, defined_there: bool) -> bool:
    owner = getattr(value, "__module__", None)
    if not isinstance(owner, str):
        return not defined_there
    return owner.startswith(module if defined_there else "prunefuse_al")


def _parameters(value: Any) -> list[str]:
    if not callable(value):
        return []
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        f"{'*' * (p.kind is p.VAR_POSITIONAL) + '**' * (p.kind is p.VAR_KEYWORD)}{p.name}"
        f"{'!' * (p.kind is p.KEYWORD_ONLY)}{_default(p.default)}"
        for p in parameters
        if p.name not in ("self", "cls")
    ]


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    return f"={value.__name__ if inspect.isroutine(value) else repr(value)}"


if __name__ == "__main__":
    print(json.dumps(described(), indent=0))
