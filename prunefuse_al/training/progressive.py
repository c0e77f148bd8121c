"""Pruning while training: when which share of the channels has left, and an optimiser that follows ("dynamic pruning").

The network stays the same object and so do its parameters: their values become smaller in place, so that the optimiser,
the schedule and whoever else holds a reference go on. What the optimiser remembers of the entries that stay is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError
from ..fusing import ChannelMap, TensorMap, put_attributes
from ..network import named_tensors

OnEpoch = Callable[[int, torch.optim.Optimizer], bool]
"""Called with the epoch to come, from 0, and the optimiser; it may thin the network in place. True says that earlier
weights must not be gone back to: the network has just changed its widths, or has not reached its last ones yet."""

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cubic": lambda progress: 1 - (1 - progress) ** 3,
}


@dataclass(frozen=True)
class ProgressivePruning:
    """Let the pruning ratio rise over the first epochs of a proxy's training instead of pruning before it.

    This is the dynamic pruning of PruneFuse (arXiv 2603.26138). Which channels leave is decided by the weights of that
    moment, among those that are left. The last widths are those that `prune` gives at once; which channels they are
    depends on the training, so each round has its own. The early epochs are those of a wider network and cost as much.

    Attributes:
        epochs: epochs after which the full ratio is reached, >= 1; the trainer must have more, to train the last width.
        steps: how often channels leave, 1 <= steps <= epochs, evenly spread; each is a call of `prune`.
        schedule: how the ratio rises: "linear", "cubic" (fast at first: Zhu and Gupta, 2017), or a function from
            progress in (0, 1] to the share of the full ratio, which must not fall and must end at 1.

    Raises:
        InputError: a value out of range, an unknown name, or a function that falls or does not end at 1.

    Example:
        >>> ProgressivePruning(epochs=20, steps=4).ratios(0.5)
        ((5, 0.125), (10, 0.25), (15, 0.375), (20, 0.5))
    """

    epochs: int = 20
    steps: int = 5
    schedule: str | Callable[[float], float] = "linear"

    def __post_init__(self) -> None:
        what = "the number of epochs over which the ratio rises, from 1"
        checks.settle(self, epochs=checks.whole("epochs", self.epochs, least=1, what=what))
        what = f"1 to {self.epochs}, one for each of the epochs at most"
        checks.settle(self, steps=checks.whole("steps", self.steps, least=1, most=self.epochs, what=what))
        checks.named("schedule", self.schedule, SHAPES, "progress in (0, 1] -> share of the full ratio")
        shares = [0.0, *self._shares()]
        if abs(shares[-1] - 1) > 1e-9 or any(b < a for a, b in itertools.pairwise(shares)):
            raise InputError(
                f"schedule={self.schedule!r} gives the shares {[round(s, 4) for s in shares[1:]]}; they must lie in "
                "0..1, never fall, and end at 1"
            )

    def ratios(self, pruning_ratio: float) -> tuple[tuple[int, float], ...]:
        """Return (epoch, from 0, before which channels leave; ratio from then on); the last ratio exactly as given."""
        starts = [round(step * self.epochs / self.steps) for step in range(1, self.steps + 1)]
        ratios = [pruning_ratio * share for share in self._shares()[:-1]] + [pruning_ratio]
        return tuple(zip(starts, ratios, strict=True))

    def _shares(self) -> list[float]:
        shape = self.schedule if callable(self.schedule) else SHAPES[self.schedule]
        steps = range(1, self.steps + 1)
        return [float(checks.number(f"schedule({step / self.steps:.3g})", shape(step / self.steps))) for step in steps]


def thin_in_place(
    model: nn.Module, optimizer: torch.optim.Optimizer, inner: ChannelMap, attributes: Mapping[str, Any]
) -> None:
    """Cut entries out of a network and of what its optimiser remembers; nothing is changed if that cannot be done.

    Args:
        model: the network; its parameters stay the same objects, gradients of what is cut are dropped.
        optimizer: of `model`. Per-parameter tensors of a parameter's shape, or with 1 in place of some dimensions
            (row and column statistics), are cut as the parameter is; scalars stay.
        inner: what stays of the present entries.
        attributes: "module:attribute" -> width that changes with them.

    Raises:
        InputError: the optimiser remembers something else (a history of all parameters, as LBFGS does).
    """
    tensors = named_tensors(model)
    values = inner.extract({name: tensor.detach() for name, tensor in tensors.items()})
    names = {id(tensor): name for name, tensor in tensors.items()}
    memories = [
        (memory, _thinned_memory(type(optimizer).__name__, memory, inner.tensors[names[id(parameter)]]))
        for parameter, memory in optimizer.state.items()
        if id(parameter) in names
    ]
    for name, tensor in tensors.items():
        if tensor.shape != values[name].shape:  # of tied names the first cuts, the others find it done
            _replace(tensor, values[name])
    for memory, thinned in memories:
        memory.update(thinned)
    put_attributes(model, attributes)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def _replace(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor another value of another shape; a graph that is still held must not expect the old gradient."""
    value = _laid_out_like(tensor, value)
    tensor.grad = None
    if tensor.requires_grad:  # torch forgets where gradients of the old shape were to go only if the type changes
        tensor.data = tensor.data.to(torch.float16 if tensor.dtype == torch.float32 else torch.float32)
    tensor.data = value


def _laid_out_like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return a value with channels last where a tensor has them so: what steps both takes them to lie alike."""
    last = torch.channels_last
    if tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last):
        return value.contiguous(memory_format=last)
    return value


def _thinned_memory(optimizer: str, memory: Mapping[str, Any], kept: TensorMap) -> dict[str, Tensor]:
    """Return the part of one parameter's optimiser state that changes."""
    thinned = {}
    for name, value in memory.items():
        if isinstance(value, Tensor) and value.numel() > 1:
            own = _own_map(value, kept)
            if own is None:
                raise InputError(_unknown_memory(optimizer, f"{name!r} of shape {list(value.shape)}", kept))
            for dim, index in own.thinned(value.device):
                value = value.index_select(dim, index)
            thinned[name] = _laid_out_like(memory[name], value)
        elif isinstance(value, list | tuple | dict) and value:
            raise InputError(_unknown_memory(optimizer, f"{name!r}, a {type(value).__name__}", kept))
    return thinned


def _own_map(value: Tensor, kept: TensorMap) -> TensorMap | None:
    """Return which entries of a tensor beside a parameter stay, or None if it is not laid out like the parameter."""
    if value.ndim != len(kept.shape) or any(n not in (1, m) for n, m in zip(value.shape, kept.shape, strict=True)):
        return None
    dims = zip(value.shape, kept.shape, kept.kept, strict=True)
    return TensorMap(tuple(value.shape), tuple(index if n == m else None for n, m, index in dims))


def _unknown_memory(optimizer: str, what: str, kept: TensorMap) -> str:
    return (
        f"{optimizer} remembers {what}, for a parameter of shape {list(kept.shape)}: that cannot be cut down with the "
        "parameter; train with SGD, Adam or another optimiser that remembers values entry by entry, or leave out "
        "progressive="
    )
