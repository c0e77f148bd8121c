"""Outer products projected to fewer numbers, without ever building what they are projected by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sketch:
    """Projects a outer h, [c d] numbers, to `width`: number r is (u_r . a) (v_r . h) / sqrt(width), u and v normal.

    In the mean over draws, products of what it makes are those of the outer products themselves.

    Attributes:
        first: the u, [c width].
        second: the v over the root of `width`, [d width].
    """

    first: Tensor
    second: Tensor

    @classmethod
    def drawn(cls, c: int, d: int, width: int, generator: np.random.Generator, device: torch.device) -> Sketch:
        first, second = (torch.from_numpy(generator.standard_normal((rows, width))).to(device) for rows in (c, d))
        return cls(first, second / math.sqrt(width))

    def of(self, a: Tensor, h: Tensor) -> Tensor:
        """Return the rows of a [b c] outer those of h [b d], projected, [b width]."""
        return (a @ self.first) * (h @ self.second)

    def matrix(self) -> Tensor:
        """Return what outer products, flattened, are multiplied by, [c*d width]."""
        return (self.first[:, None] * self.second[None]).flatten(0, 1)
