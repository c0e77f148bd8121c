"""Discrete choices: the largest of several values, the nearest code, an order.

Two networks may answer the same on a few rows by luck where what they choose from differs. So that is compared too.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ..costs import operation_flops
from .places import place_within

OF_ALL = frozenset(
    ("argmax", "argmin", "argsort", "sort", "topk", "kthvalue", "max", "min", "searchsorted", "bucketize")
)
OF_EACH = frozenset(("round", "sign", "floor", "ceil", "trunc", "heaviside"))


@dataclass(frozen=True)
class Choice:
    """One of several values chosen: by what operation, where in the network's code, and of which values."""

    name: str
    place: str
    values: Tensor

    def __str__(self) -> str:
        return f"{self.name} at {self.place}" if self.place else self.name


class Chosen(TorchDispatchMode):
    """While active, keeps what choices are made from, and counts operations as the tracer does.

    Args:
        outermost: the function that calls the network.
    """

    def __init__(self, outermost: CodeType) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outermost = outermost
        self.flops = 0
        self.values: list[Choice] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.flops += operation_flops(func, args, kwargs or {}, out)
        name = _chooses(func, out)
        if name and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self.values.append(Choice(name, place_within(self.outermost), args[0].detach().clone()))
        return out


def _chooses(func: OpOverload, out: Any) -> str:
    """Return the name of an operation that chooses, "" of any other: the largest value alone is no choice."""
    name = str(func._schema.name).removeprefix("aten::").rstrip("_")
    if name in OF_EACH or (name in OF_ALL and (name not in ("max", "min") or isinstance(out, tuple))):
        return name
    return ""


def differing(found: Chosen, expected: Chosen, tolerance: float) -> str:
    """Return the first choice that is made from other values in one of two networks, or "".

    Of tensors that are wider in one of them, as channels are that choose each for itself, the answers tell enough.
    """
    if [choice.name for choice in found.values] != [choice.name for choice in expected.values]:
        return str(next(iter((*expected.values, *found.values))))
    for own, other in zip(found.values, expected.values, strict=True):
        if own.values.shape == other.values.shape and not _near(own.values, other.values, tolerance):
            return str(other)
    return ""


def _near(own: Tensor, other: Tensor, tolerance: float) -> bool:
    finite = other.isfinite()
    if not torch.equal(finite, own.isfinite()):
        return False
    own, other = own[finite].double(), other[finite].double()
    if not other.numel():
        return True
    spread = float(other.max() - other.min()) or float(other.abs().max()) or 1.0
    return float((own - other).abs().max()) <= tolerance * spread
