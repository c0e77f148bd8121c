"""In which kinds of numbers a network takes what it is given: whole numbers and bools as they are, where it can."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError

Kinds = tuple[torch.dtype, ...]
WHOLE = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_WIDER = {torch.uint8: (torch.uint8, torch.int64), torch.int8: (torch.int64,), torch.int16: (torch.int64,)}
"""As what narrow whole numbers may reach a network that takes whole ones: layers look up by int64."""
_MOST = 16
"""Ways that are tried one by one; of more, only the first and the last."""


def ways(given: Sequence[Tensor], floating: torch.dtype) -> list[Kinds]:
    """Return in which kinds a network may be given a batch, in the order in which they are to be tried.

    Floating numbers have the kind of the network's weights. Whole numbers stay whole, or become floating; as few of
    several inputs as possible do, the first ones before the others. A bool stays a bool next to other inputs, for it
    may be a mask, which means something else as a number; alone it is data, and may become floating.

    Args:
        given: the tensors of a batch.
        floating: kind of the network's weights.
    """
    options = [_options(leaf, floating, alone=len(given) == 1) for leaf in given]
    ranks = sorted(itertools.product(*(range(len(option)) for option in options)), reverse=True)
    ranks.sort(key=sum)
    tried = ranks if len(ranks) <= _MOST else [ranks[0], ranks[-1]]
    return [tuple(option[i] for option, i in zip(options, rank, strict=True)) for rank in tried]


def _options(leaf: Tensor, floating: torch.dtype, *, alone: bool) -> Kinds:
    if leaf.is_floating_point():
        return (floating,)
    if leaf.dtype in WHOLE:
        return (*_WIDER.get(leaf.dtype, (leaf.dtype,)), floating)
    return (leaf.dtype, floating) if leaf.dtype == torch.bool and alone else (leaf.dtype,)


def as_floating(leaf: Tensor, kind: torch.dtype) -> Tensor:
    """Return whole numbers as floating ones of the same values.

    Raises:
        InputError: `kind` has not all of the numbers.
    """
    cast = leaf.to(kind)
    if leaf.dtype == torch.bool or not leaf.numel():
        return cast
    exact = 2 / torch.finfo(kind).eps  # up to here a kind has every whole number
    low, high = (int(bound) for bound in leaf.aminmax())
    if -exact <= low and high <= exact:
        return cast
    back = cast.double()
    same = (back < 2.0**63) & back.isfinite() & (back.to(torch.int64) == leaf)
    if not bool(same.all()):
        whole, name = str(leaf.dtype).removeprefix("torch."), str(kind).removeprefix("torch.")
        raise InputError(
            f"the network takes {name}, which would round whole numbers of a batch {whole} {list(leaf.shape)}, as it "
            f"does many beyond {exact:,.0f}; the first is {int(leaf[~same][0])}: scale them, convert them yourself "
            f"where that does no harm (X.astype('{name}')), or have the network in double precision (model.double())"
        )
    return cast
