"""Putting a network where it is trained and back, remembering its last good weights, and lending it to accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..network import held_still, laid_out, lent


@contextmanager
def in_training(model: nn.Module, device: torch.device, *, channels_last: bool) -> Iterator[None]:
    """Have a network on `device`, in the wanted layout, for the block; then put device, layout and modes back.

    Frozen batch norms are in eval mode meanwhile, whatever mode the network is put in. Gradients are dropped at the
    end: they belong to a training that is over.
    """
    with lent(model, device), held_still(model):
        try:
            with laid_out(model, channels_last=channels_last):
                yield
        finally:
            model.zero_grad(set_to_none=True)


@contextmanager
def repeatable(deterministic: bool) -> Iterator[None]:
    """Have cuDNN choose deterministic kernels without timing them, for the block."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    try:
        if deterministic:
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class Weights:
    """A copy of all parameters and buffers of a network, kept beside it on its device."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.kept = [tensor.detach().clone() for tensor in self._tensors()]
        # A mask of -inf is a buffer like any other: only what is finite now must stay so.
        self.watched = [bool(tensor.isfinite().all()) for tensor in self.kept]

    def keep(self) -> None:
        """Copy the network's present values."""
        for kept, tensor in zip(self.kept, self._tensors(), strict=True):
            kept.copy_(tensor.detach())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copied values back into the network."""
        for kept, tensor in zip(self.kept, self._tensors(), strict=True):
            tensor.copy_(kept)

    def unchanged(self) -> bool:
        """Return whether the network still has the copied values."""
        pairs = zip(self.kept, self._tensors(), strict=True)
        return all(torch.equal(kept.nan_to_num(), tensor.detach().nan_to_num()) for kept, tensor in pairs)

    def finite(self) -> bool:
        """Return whether all that was finite at first still is."""
        # A sum is finite only if all its terms are; one number a tensor, one wait for the device.
        watched = zip(self._tensors(), self.watched, strict=True)
        sums = [t.detach().sum(dtype=torch.float32) for t, watch in watched if watch and t.is_floating_point()]
        return not sums or bool(torch.stack([s.to(sums[0].device) for s in sums]).isfinite().all())

    def _tensors(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]


@contextmanager
def prepared(accelerator: Any, model: nn.Module, net: nn.Module, optimizer: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Yield network and optimiser as an accelerator wants them; undo what it did to the network after."""
    if accelerator is None:
        yield net, optimizer
        return
    lists = [getattr(accelerator, name, []) for name in ("_models", "_optimizers")]
    lengths, own_forward = [len(held) for held in lists], "forward" in vars(model)
    try:
        yield accelerator.prepare(net, optimizer)
    finally:
        accelerator.unwrap_model(net, keep_fp32_wrapper=False)
        for held, length in zip(lists, lengths, strict=True):
            del held[length:]  # or every round's network would stay in memory
        if not own_forward:
            vars(model).pop("forward", None)
            vars(model).pop("_original_forward", None)
