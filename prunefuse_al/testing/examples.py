"""Random signals to try scorers on, ordinary and degenerate, and what can be done to every field of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..types import Signals

_C, _D, _T, _M = 5, 6, 3, 9
_DYNAMICS = ("adapruner", "aum", "correct", "el2n", "forgetting", "grand", "moso")
FIELDS = frozenset(field.name for field in fields(Signals)) - {"indices", "outputs"}
_NETWORK = (
    "logits",
    "mc_logits",
    "features",
    "labelled_features",
    "labelled_logits",
    "head",
)  # what comes in half precision
BY_PASS = "mc_logits"  # its rows are its second dimension, [t n c]
SHARED = ("labelled_features", "labelled_logits", "labelled_labels", "head")  # have rows of their own
INTEGERS = frozenset({"labels", "labelled_labels"})


def example_signals(
    needs: frozenset[str],
    *,
    n: int = 40,
    dtype: torch.dtype = torch.float32,
    classes: int = _C,
    outputs: str | None = None,
) -> Signals:
    """Return random signals with exactly the fields in `needs`, for `n` candidates with scattered indices.

    `outputs` is what the logits are said to be: "softmax" or "sigmoid", see `Signals`; the numbers are the same.

    Raises:
        InputError: there is no such field, or a number is not whole or out of range.
    """
    what = f"a set of names among {sorted(FIELDS)}"
    if not isinstance(needs, Set) or not needs <= FIELDS:
        raise checks.refused("needs", needs, what)
    n, classes = checks.whole("n", n, least=0), checks.whole("classes", classes, least=1)
    checks.instance("dtype", dtype, torch.dtype, "a torch.dtype, such as torch.float32")
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    made: dict[str, Any] = {
        "logits": 3 * normal(n, classes),
        "features": normal(n, _D),
        "mc_logits": 3 * normal(_T, n, classes),
        "labels": torch.randint(classes, (n,), generator=rng),
        "dynamics": {name: normal(n) for name in _DYNAMICS},
        "labelled_features": normal(_M, _D),
        "labelled_logits": 3 * normal(_M, classes),
        "labelled_labels": torch.randint(2, (_M, classes), generator=rng),
        "head": normal(classes, _D + 1),
    }
    indices = torch.randperm(10 * n, generator=rng)[:n]
    return Signals(indices, **{name: made[name] for name in needs}, outputs=outputs)


def degenerate_signals(needs: frozenset[str], n: int, *, outputs: str | None = None) -> dict[str, Signals]:
    """Return signals at the edges of what is allowed, by what is special about them."""
    plain = example_signals(needs, n=n, outputs=outputs)

    def with_rows(rows: Tensor) -> Signals:
        return replace(take_rows(plain, rows), indices=plain.indices)

    return {
        "all rows equal": with_rows(torch.zeros(n, dtype=torch.int64)),
        "every row twice": with_rows(torch.arange(n) // 2),
        "all zeros, one class": map_fields(plain, lambda _, values: torch.zeros_like(values)),
        "half precision": map_fields(plain, lambda name, values: values.half() if name in _NETWORK else values),
        "logits of +-1e4": map_fields(plain, lambda name, v: 1e4 * v.sign() if name.endswith("logits") else v),
        "two classes": example_signals(needs, n=n, classes=2, outputs=outputs),
        "1,000 classes": example_signals(needs, n=n, classes=1000, outputs=outputs),
    }


def map_fields(signals: Signals, function: Callable[[str, Tensor], Tensor]) -> Signals:
    """Return signals with `function(field, tensor)` for every tensor but the indices."""
    changed: dict[str, Any] = {}
    for name in present(signals):
        value = getattr(signals, name)
        if isinstance(value, Mapping):
            changed[name] = {key: function(name, tensor) for key, tensor in value.items()}
        else:
            changed[name] = function(name, value)
    return replace(signals, **changed)


def take_rows(signals: Signals, rows: Tensor) -> Signals:
    """Return the candidates at positions `rows`, int64 [m], in that order."""

    def take(name: str, values: Tensor) -> Tensor:
        if name in SHARED:
            return values
        return values[:, rows] if name == BY_PASS else values[rows]

    return replace(map_fields(signals, take), indices=signals.indices[rows])


def poisoned(signals: Signals, names: frozenset[str], row: int | None, bad: float) -> Signals:
    """Return a copy with `bad` in one sample's row (None: everywhere) of some fields; integers become zeros."""

    def poison(name: str, values: Tensor) -> Tensor:
        if name not in names:
            return values
        if not values.is_floating_point():
            return torch.zeros_like(values)
        values = values.clone()
        by_sample = values.transpose(0, 1) if name == BY_PASS else values
        by_sample[slice(None) if row is None else row] = bad
        return values

    return map_fields(signals, poison)


def present(signals: Signals) -> frozenset[str]:
    """Return the names of the fields that are there, but the indices."""
    return frozenset(name for name in FIELDS if getattr(signals, name) is not None)


def tensors_of(signals: Signals) -> dict[str, Tensor]:
    """Return every tensor in `signals`, the indices too, by a name to be shown."""
    found = {name: getattr(signals, name) for name in (*sorted(present(signals)), "indices")}
    found.update({f"dynamics[{name!r}]": tensor for name, tensor in found.pop("dynamics", {}).items()})
    return found
