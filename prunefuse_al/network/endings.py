"""What a network ends in, and which of its outputs is made from which: told by autograd's graph of one pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import InputError

_SHAPING = frozenset(
    {
        *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute", "Expand"),
        *("Select", "Slice", "Split", "Chunk", "Clone", "Alias", "ToCopy", "Clamp", "ClampMin", "ClampMax"),
    }
)
"""What may follow the last function without making other numbers of it, but for their ends."""
_SQUASHING = {"Softmax": "softmax", "Sigmoid": "sigmoid"}


def squashed_by(outputs: Tensor) -> str | None:
    """Return "softmax" or "sigmoid" where a network ends in one, of outputs that autograd followed; else None."""
    node = outputs.grad_fn
    while node is not None and _name(node) in _SHAPING:
        node = node.next_functions[0][0]
    return None if node is None else _SQUASHING.get(_name(node))


def check_first(output: Any, first: Tensor, fits: Callable[[Tensor], bool], most_classes: int | None) -> None:
    """Raise `InputError` where a network returned several tensors, none called logits, and the first may be no logits.

    It is none where another that fits the labels is made from it. Where neither is made from the other, the narrower
    one that fits is as likely, unless the first is as wide as there are classes.

    Args:
        output: what the network returned, with autograd's graph.
        first: what is taken for the logits, [n ...].
        fits: tells whether outputs go with the labels.
        most_classes: how many classes are labelled, where that is known.
    """
    named = hasattr(output, "logits") or (isinstance(output, Mapping) and "logits" in output)
    leaves = () if named else tree_leaves(dict(output) if isinstance(output, Mapping) else output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not tensors or tensors[0] is not first:  # something inside has a name
        return
    width = first.shape[1] if first.ndim > 1 else 1
    for other in tensors[1:]:
        if other.ndim == 0 or len(other) != len(first) or other.shape == first.shape or not fits(other):
            continue
        if _made_from(first, other):
            continue
        if _made_from(other, first) or (other.requires_grad and not first.requires_grad):
            raise _out_of_order(tensors, other, "is made from the first")
        if other.numel() < first.numel() and width != most_classes:
            raise _out_of_order(tensors, other, "is as likely")


def _out_of_order(tensors: list[Tensor], other: Tensor, why: str) -> InputError:
    shapes = ", ".join(str(["rows", *tensor.shape[1:]]).replace("'", "") for tensor in tensors)
    return InputError(
        f"the network returns {len(tensors)} tensors, ({shapes}), and none is called logits: the first is taken for "
        f"them, but the {_nth(tensors, other)}, which goes with the labels, {why}. Return the logits first, or as a "
        "dict {'logits': ..., ...}"
    )


def _nth(tensors: list[Tensor], one: Tensor) -> str:
    place = next(number for number, tensor in enumerate(tensors) if tensor is one)
    return ("first", "second", "third", "fourth")[place] if place < 4 else f"one in place {place + 1}"


def _made_from(late: Tensor, early: Tensor) -> bool:
    """Tell whether `late` was computed from `early`."""
    if early.grad_fn is None or late.grad_fn is None:
        return False
    seen, left = {late.grad_fn}, [late.grad_fn]
    while left:
        for node, _ in left.pop().next_functions:
            if node is early.grad_fn:
                return True
            if node is not None and node not in seen:
                seen.add(node)
                left.append(node)
    return False


def _name(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", node.name())
