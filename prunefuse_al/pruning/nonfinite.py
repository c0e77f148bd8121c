"""Where in a network's code the first value that is no number arises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..network import Arguments, copied
from .places import place_within
from .trace import visible_operations


def first_not_finite(model: nn.Module, arguments: Arguments) -> str:
    """Return "operation at line" of the first NaN that a network makes, else of the first infinity, "" of neither."""
    seen, (args, kwargs) = _Seen(), arguments
    network = copied(model).eval()
    with visible_operations(network), torch.no_grad(), seen:
        network(*args, **kwargs)
    return seen.nan or seen.infinity


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nan = self.infinity = ""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.nan and _any(torch.isnan, out) and not _any(torch.isnan, (args, kwargs)):
            self.nan = _place(func)
        if not self.infinity and _any(torch.isinf, out) and not _any(torch.isinf, (args, kwargs)):
            self.infinity = _place(func)
        return out


def _place(func: OpOverload) -> str:
    place = place_within(first_not_finite.__code__)
    return f"{str(func._schema.name).removeprefix('aten::')}{f' at {place}' if place else ''}"


def _any(test: Any, things: object) -> bool:
    leaves: Iterable[Any] = tree_leaves(things)
    return any(isinstance(t, Tensor) and t.is_floating_point() and bool(test(t).any()) for t in leaves)
