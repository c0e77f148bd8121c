"""Another processor, played: products of matrices and convolutions whose last bits depend on the shapes.

Libraries of linear algebra cut matrices into blocks by their size, and the rows that are left over go through other
code, so the same row in batches of 100 and of 200 differs in its last bit on some processors. With
``PRUNEFUSE_ROUNDING=by_shape`` every test runs on such a one: the same operation on the same shapes gives the same
bits, anything else does not. What fails then compares floats more finely than they are defined (law 11).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 16  # rows that go through the fast path at once
_kept: list[torch.library.Library] = []


def round_by_shape() -> None:
    """Replace torch's products and convolutions on CPUs, for as long as this process lives."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("addmm", _addmm, "CPU", allow_override=True)
    library.impl("mm", _mm, "CPU", allow_override=True)
    library.impl("convolution", _convolution, "CPU", allow_override=True)
    _kept.append(library)  # what it replaced comes back when it goes


def _mm(left: Tensor, right: Tensor) -> Tensor:
    return _nudged(torch.bmm(left[None], right[None])[0], left.shape[1])


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return torch.add(_mm(left, right) * alpha, bias, alpha=beta)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    settings = (stride, padding, dilation, transposed, output_padding, groups)
    out = torch.ops.aten._convolution.default(x, weight, bias, *settings, False, False, True, True)
    return _nudged(out, weight.shape[1])


def _nudged(out: Tensor, inner: int) -> Tensor:
    """Move the last bit of each entry by -1, 0 or 1, as the shapes and the place in its block say."""
    if out.dtype not in (torch.float32, torch.float64) or not out.numel():
        return out  # shorter formats are summed in these, and their last bit is seldom another
    flat = out.reshape(len(out), -1)
    rows, columns = torch.arange(len(flat)), torch.arange(flat.shape[1])
    left_over = torch.where(rows < len(flat) // BLOCK * BLOCK, 0, 1 + rows % BLOCK)
    steps = (7 * left_over[:, None] + 13 * columns + 31 * len(flat) + 17 * inner) % 3 - 1
    return (flat * (1 + steps.to(out.dtype) * torch.finfo(out.dtype).eps)).reshape(out.shape)
