"""Losses in which every row would meet every other, because outputs [n 1] and labels [n] are broadcast to [n n]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import InputError

_OF_CLASSES = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)  # take [n c] and [n] without broadcasting


class RowsApart(TorchFunctionMode):
    """While active, refuses calls in which outputs [n 1] and labels [n] become [n n], or the reverse.

    Outputs are told from labels by their gradient; so a loss may compare outputs with outputs, or labels with labels.

    Args:
        loss: what the loss is called.
        n: rows of the batch.

    Raises:
        InputError: there is such a call.
    """

    def __init__(self, loss: str, n: int) -> None:
        super().__init__()
        self.loss, self.n = loss, n

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the call, and look at the shapes."""
        meet = self._meeting(args, kwargs or {}) if self.n > 1 else None
        if meet and getattr(func, "__module__", "") == F.__name__ and func not in _OF_CLASSES:
            raise self._refusal(*meet)  # losses of torch broadcast within
        result = func(*args, **(kwargs or {}))
        if meet and any(leaf.shape[-2:] == (self.n, self.n) for leaf in _tensors(result)):
            raise self._refusal(*meet)
        return result

    def _meeting(self, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Return the shapes of outputs and labels in a call, where broadcasting would pair all of them."""
        given = {(leaf.requires_grad, tuple(leaf.shape)) for leaf in _tensors((args, dict(kwargs)))}
        column, flat = (self.n, 1), (self.n,)
        pairs = ((column, flat), (flat, column))
        return next((pair for pair in pairs if (True, pair[0]) in given and (False, pair[1]) in given), None)

    def _refusal(self, outputs: Any, labels: Any) -> InputError:
        return InputError(
            f"the loss {self.loss} pairs every row with every other: outputs {list(outputs)} meet labels "
            f"{list(labels)} and torch broadcasts them to {[self.n] * 2}; pass y in the shape of the outputs, or "
            "reshape one of them in the loss"
        )


def _tensors(given: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
