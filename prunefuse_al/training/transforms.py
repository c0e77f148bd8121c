"""Transforms of whole batches of pictures, in plain torch, that draw for each picture apart.

`torchvision.transforms.v2` works on batches too but makes one draw for the whole batch; `per_sample` mends that at the
price of a Python loop. Random numbers come from torch's global generator, which training seeds and puts back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..errors import InputError


@dataclass(frozen=True)
class Compose:
    """Applies transforms one after the other."""

    steps: tuple[Callable[[Any], Any], ...]

    def __post_init__(self) -> None:
        what = "functions of a batch, in the order in which they are applied"
        steps = checks.instance("steps", self.steps, Sequence, what)
        checks.settle(self, steps=tuple(checks.function("steps", step, what) for step in steps))

    def __call__(self, x: Any) -> Any:
        """Return the batch after all steps."""
        for step in self.steps:
            x = step(x)
        return x


@dataclass(frozen=True)
class Normalize:
    """Scales uint8 0..255 to 0..1, then subtracts `mean` and divides by `std`, one value for each channel.

    Floating pictures are taken to be in 0..1 already.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        what = "one finite number for each channel"
        mean, std = (checks.array(name, getattr(self, name), what, floats=True) for name in ("mean", "std"))
        for name, values in (("mean", mean), ("std", std)):
            if values.ndim != 1 or values.shape != mean.shape or not bool(values.isfinite().all()):
                raise checks.refused(name, getattr(self, name), what)
        if not bool((std > 0).all()):
            raise checks.refused("std", self.std, f"{what}, above 0")
        checks.settle(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def __call__(self, x: Tensor) -> Tensor:
        """Return floats [n c h w] for pictures [n c h w]."""
        if x.ndim != 4 or x.shape[1] != len(self.mean):
            raise InputError(f"Normalize has {len(self.mean)} channels and got {list(x.shape)}; it takes [n, c, h, w]")
        x = x / 255 if x.dtype == torch.uint8 else x
        shape = (1, -1, 1, 1)
        return (x - x.new_tensor(self.mean).view(shape)) / x.new_tensor(self.std).view(shape)


@dataclass(frozen=True)
class RandomCropFlip:
    """Shifts each picture by up to `padding` pixels, zeros moving in, and mirrors it with probability `flip`.

    The usual augmentation of CIFAR (crop 32, padding 4). Pad before normalising or after: zero means black or mean.
    """

    padding: int = 4
    flip: float = 0.5

    def __post_init__(self) -> None:
        flip = checks.number("flip", self.flip, least=0, most=1, what="a probability, 0 to 1")
        checks.settle(self, padding=checks.whole("padding", self.padding, least=0), flip=flip)

    def __call__(self, x: Tensor) -> Tensor:
        """Return pictures [n c h w] of the same shape and dtype."""
        n, _, h, w = x.shape
        shifts = torch.randint(2 * self.padding + 1, (2, n, 1), device=x.device)
        rows = torch.arange(h, device=x.device) + shifts[0]  # [n h]
        columns = torch.arange(w, device=x.device).expand(n, w)
        mirrored = torch.rand(n, 1, device=x.device) < self.flip
        columns = torch.where(mirrored, columns.flip(1), columns) + shifts[1]  # [n w]
        padded = F.pad(x, [self.padding] * 4)
        each = torch.arange(n, device=x.device).view(n, 1, 1)
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class PerSample:
    """Applies a transform to each picture apart, so that each has its own random draw; see `per_sample`."""

    transform: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        checks.function("transform", self.transform, "a function of one picture")

    def __call__(self, x: Tensor) -> Tensor:
        """Return the stack of the transformed rows of x."""
        return torch.stack([self.transform(row) for row in x])


def per_sample(transform: Callable[[Tensor], Tensor]) -> PerSample:
    """Return a transform of batches that applies `transform` to each row, with a draw of its own."""
    return PerSample(transform)
