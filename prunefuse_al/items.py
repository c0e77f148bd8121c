"""What one item of a dataset is, and how items become a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from .arrays import leaves
from .errors import InputError

Collate = Callable[[list[Any]], Any]
LABEL_KEYS = ("labels", "label")  # what Hugging Face datasets and models call them


def split_item(item: Any) -> tuple[Any, Any, Any]:
    """Return (x, y, w) of an item.

    A tuple or list of two or three is (x, y[, w]); a dict with an entry "labels" or "label" is x without that entry,
    and y; anything else is x alone.
    """
    if isinstance(item, tuple | list) and len(item) in (2, 3):
        return item[0], item[1], item[2] if len(item) == 3 else None
    if isinstance(item, Mapping):
        for key in LABEL_KEYS:
            if key in item:
                return {name: value for name, value in item.items() if name != key}, item[key], None
    return item, None, None


def collate_items(items: Sequence[Any], collate: Collate | None = None) -> tuple[Any, Any, Any]:
    """Return (x, y, w) of a batch, y or w None where the items have none.

    Args:
        items: of a dataset.
        collate: makes a batch of the list of inputs, for example by padding texts to one length; None stacks them.

    Raises:
        InputError: the items cannot be stacked, or the batch holds something that is not a tensor.
    """
    x, y, w = zip(*map(split_item, items), strict=True)
    try:
        batch = default_collate([_with_tensors(one) for one in x]) if collate is None else collate(list(x))
        labels, weights = (None if part[0] is None else default_collate(list(part)) for part in (y, w))
    except (TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"items of the dataset cannot be stacked into a batch ({error}): every item must be x, (x, y) or (x, y, w) "
            "with x a tensor or array of one shape (pictures: convert and resize them in the dataset; texts of several "
            "lengths: pad them in TorchTrainer(collate=...)) and y a number"
        ) from error
    foreign = [type(leaf).__name__ for leaf in leaves(batch) if not isinstance(leaf, Tensor)]
    if foreign:
        raise InputError(
            f"a batch of inputs holds {foreign[0]} where a network takes tensors ({_names(batch)}): leave out of the "
            "dataset's items what the network does not read"
        )
    return batch, labels, weights


def _with_tensors(x: Any) -> Any:
    """Return an input with its lists of numbers as tensors; a tokenizer gives lists."""
    if isinstance(x, Mapping):
        return {name: torch.as_tensor(value) if _numbers(value) else value for name, value in x.items()}
    return torch.as_tensor(x) if _numbers(x) else x


def _numbers(x: Any) -> bool:
    return isinstance(x, list) and bool(x) and isinstance(x[0], int | float)


def _names(batch: Any) -> str:
    if not isinstance(batch, Mapping):
        return type(batch).__name__
    return ", ".join(name for name, value in batch.items() if not isinstance(value, Tensor))
