"""Dropout as a choice of one thinned network: within a pass, every sample of every batch gets the same masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ALPHA = -1.7580993408473766  # what alpha dropout puts in place of a dropped value: SELU at minus infinity
_KINDS: dict[Callable[..., Any], tuple[bool, bool]] = {  # (whole channels, alpha)
    F.dropout: (False, False),
    F.dropout1d: (True, False),
    F.dropout2d: (True, False),
    F.dropout3d: (True, False),
    F.alpha_dropout: (False, True),
    F.feature_alpha_dropout: (True, True),
    torch.dropout: (False, False),
    torch.feature_dropout: (True, False),
    torch.alpha_dropout: (False, True),
    torch.feature_alpha_dropout: (True, True),
}


class ThinnedPass(TorchFunctionMode):
    """While active, every call of a dropout function is on, with a mask given by the seed, the pass and the call.

    A mask has one row for all samples, so what it is does not depend on how data is batched.

    Args:
        batch: rows of the batch that goes through; other leading sizes that are multiples of it are taken as several
            rows for each sample.
        seed: two passes with the same seed and number are the same network.
        number: which pass.
    """

    def __init__(self, batch: int, seed: int, number: int) -> None:
        super().__init__()
        self.batch, self.seed, self.number, self.calls = batch, seed, number, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace calls of dropout, pass on all others."""
        kwargs = kwargs or {}
        if func not in _KINDS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        self.calls += 1
        return self._dropped(x, p, *_KINDS[func])

    def _dropped(self, x: Tensor, p: float, channels: bool, alpha: bool) -> Tensor:
        if p <= 0:
            return x
        if x.ndim > 1 and x.shape[0] != self.batch == x.shape[1]:  # sequences first, samples second
            return self._dropped(x.transpose(0, 1), p, channels, alpha).transpose(0, 1)
        shape, grouped = self._grouped(x)
        mask_shape = [1, *grouped.shape[1:]]
        if channels:  # all but the sample and the channel, which is the first dimension of a sample
            first = len(mask_shape) - len(shape) + 2
            mask_shape[first:] = [1] * (len(mask_shape) - first)
        seed = np.random.SeedSequence([self.seed, self.number, self.calls]).generate_state(1)[0]
        draws = torch.rand(mask_shape, generator=torch.Generator().manual_seed(int(seed)))
        kept = (draws >= p).to(x.device)
        if not alpha:
            return (grouped * (kept.to(x.dtype) / (1 - p) if p < 1 else 0)).reshape(shape)
        scale = 1 / math.sqrt((1 - p) * (1 + p * _ALPHA**2)) if p < 1 else 0.0
        return (torch.where(kept, grouped, _ALPHA) * scale - _ALPHA * p * scale).reshape(shape)

    def _grouped(self, x: Tensor) -> tuple[torch.Size, Tensor]:
        """Return the shape of `x`, and it with the samples as its first dimension."""
        if x.ndim and x.shape[0] != self.batch and x.shape[0] % self.batch == 0:
            return x.shape, x.reshape(self.batch, -1, *x.shape[1:])
        return x.shape, x


@contextmanager
def layers_on(layers: list[nn.Module]) -> Iterator[None]:
    """Have dropout layers in train mode for the block, for those that draw by themselves; then in eval mode."""
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """Return the dropout layers of a network."""
    return [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]


def hidden_dropout(model: nn.Module) -> list[str]:
    """Return the layers that apply dropout within one call, where it cannot be switched on by itself."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention | nn.RNNBase)]
    return [f"'{name}' ({type(m).__name__})" for name, m in found if m.dropout]
