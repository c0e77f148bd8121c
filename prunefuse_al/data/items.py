"""What one item of a dataset is, and how items become a batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from ..checks import number
from ..errors import InputError
from .arrays import as_labels, check_tensor, leaves, map_leaves, native, unmasked

Collate = Callable[[list[Any]], Any]
Parts = tuple[Any, Any, Any]  # x, y and w of an item or of a batch
_PAIR = (tuple, list)
LABEL_KEYS = ("labels", "label")  # what Hugging Face datasets and models call them


def split_item(item: Any) -> Parts:
    """Return (x, y, w) of an item.

    A tuple or list of two or three is (x, y[, w]); a dict with an entry "labels" or "label" is x without that entry,
    and y; anything else is x alone.

    Raises:
        InputError: a third entry that is no sample weight, that is a floating-point number >= 0.
    """
    if isinstance(item, _PAIR) and len(item) in (2, 3):
        return item[0], item[1], _weight(item[2]) if len(item) == 3 else None
    if isinstance(item, Mapping):
        for key in LABEL_KEYS:
            if key in item:
                return {name: value for name, value in item.items() if name != key}, item[key], None
    return item, None, None


def _weight(w: Any) -> float | None:
    """Return the third entry of an item as a sample weight; whole numbers are row numbers, labels or masks."""
    if w is None:
        return None
    value = w.item() if isinstance(w, Tensor | np.ndarray) and math.prod(w.shape) == 1 else w
    if not isinstance(value, float | np.floating):
        raise InputError(
            f"the third entry of an item is its sample weight, and it is {describe_entry(w)}: let the dataset's items "
            "be (x, y), or (x, y, weight) with a floating-point number, 1.0 and not 1; several inputs go together as a "
            "tuple or dict, ((ids, mask), label)"
        )
    return number("the sample weight of an item", value, least=0)


def describe_entry(value: Any) -> str:
    """Return in a few words what an entry of an item is."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '...'}"


@dataclass(frozen=True)
class Columns:
    """Which entries of dict items a network takes.

    Attributes:
        named: parameters of its `forward`.
        needed: those of them without a default.
        others: whether it takes further ones, ``**kwargs``.
    """

    named: frozenset[str]
    needed: frozenset[str]
    others: bool

    def of(self, x: Any) -> Any:
        """Return an input without the entries that the network does not take.

        What does not hold what the network needs is left whole: a `collate` will make that of the rest. Where the
        network takes further entries, only what cannot become a tensor is left out.
        """
        if not isinstance(x, Mapping) or not self.named & x.keys() or not self.needed <= x.keys():
            return x
        return {name: value for name, value in x.items() if name in self.named or (self.others and is_number(value))}


def columns_of(network: nn.Module) -> Columns:
    """Return which entries of dict items `network` takes, by the signature of its `forward`."""
    parameters = inspect.signature(network.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Columns(
        frozenset(p.name for p in named),
        frozenset(p.name for p in named if p.default is p.empty),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def collate_parts(parts: Iterable[Parts], collate: Collate | None = None, *, labelled: bool = True) -> Parts:
    """Return (x, y, w) of a batch, y or w None where the items have none.

    Args:
        parts: (x, y, w) of each item.
        collate: makes a batch of the list of inputs, for example by padding texts to one length; None stacks them.
        labelled: whether labels and weights are read; else both are None, whatever the items have.

    Returns:
        x, tensors; y int64 [b], or soft targets as float [b ...]; w float64 [b].

    Raises:
        InputError: the items cannot be put together, the batch holds something that is not a tensor of plain numbers,
            or labels cannot be used.
    """
    x, y, w = zip(*parts, strict=True)
    try:
        batch = _stacked(x) if collate is None else collate(list(x))
    except InputError:
        raise
    except (TypeError, RuntimeError, ValueError, LookupError) as error:
        raise InputError(
            f"items of the dataset cannot be stacked into a batch ({error}): every item must be x, (x, y) or (x, y, w) "
            "with x a tensor or array of one shape (pictures: convert and resize them in the dataset; texts of several "
            "lengths: pad them in TorchTrainer(collate=...)) and y a number"
        ) from error
    batch = usable(batch)
    if not labelled:
        return batch, None, None
    labels, weights = raw_labels(y), _given(w, "sample weight")
    labels = None if labels is None else as_labels(labels, len(y))
    return batch, labels, None if weights is None else torch.tensor(weights, dtype=torch.float64)


def usable(batch: Any) -> Any:
    """Return the inputs of a batch in types that torch computes with, or raise `InputError` unless they are tensors."""
    foreign = [type(leaf).__name__ for leaf in leaves(batch) if not isinstance(leaf, Tensor)]
    if foreign:
        raise InputError(
            f"a batch of inputs holds {foreign[0]} where a network takes tensors ({_names(batch)}): leave out of the "
            "dataset's items what the network does not read"
        )
    return map_leaves(batch, lambda leaf: native(check_tensor(leaf, "a batch of inputs")))


def raw_labels(values: Sequence[Any]) -> Any:
    """Return the labels of items as one tensor, or as a list where they are strings; None where all are None."""
    given = _given(values, "label")
    try:
        return None if given is None else default_collate([_signed(value) for value in given])
    except (TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the labels of items cannot be put together ({error}); the first is {describe_entry(values[0])}: a label "
            "is a number, or soft targets of one shape"
        ) from error


def _given(values: Sequence[Any], what: str) -> list[Any] | None:
    """Return the values as a list, None where all are None."""
    missing = sum(value is None for value in values)
    if 0 < missing < len(values):
        raise InputError(
            f"{missing:,} of {len(values):,} items have no {what} (None) and the others have one: take those that "
            "have, for example torch.utils.data.Subset(dataset, rows)"
        )
    return None if missing else list(values)


def _stacked(inputs: Sequence[Any]) -> Any:
    names = [sorted(map(str, x)) for x in inputs if not isinstance(x, Tensor) and isinstance(x, Mapping)]
    if other := next((found for found in names if found != names[0]), None):  # stacking goes by the first item
        raise InputError(f"items of the dataset have different entries, {names[0]} and {other}: all need the same")
    return default_collate([_with_tensors(x) for x in inputs])


def _with_tensors(x: Any) -> Any:
    """Return an input with its lists of numbers as tensors, as exact as they are; a tokenizer gives lists."""
    if isinstance(x, Tensor):  # the usual one, kept cheap: this is done for each item
        return x
    if isinstance(x, Mapping):
        return {name: _with_tensors(value) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(_with_tensors(value) for value in x)
    return torch.as_tensor(np.asarray(x)) if _is_list(x) else _signed(unmasked(x))


def _signed(x: Any) -> Any:
    return int(x) if isinstance(x, np.unsignedinteger) else x  # torch stacks no numbers of uint64


def _is_list(x: Any) -> bool:
    """Tell whether something is a list of numbers, perhaps of several dimensions."""
    return isinstance(x, list) and bool(x) and (isinstance(x[0], int | float) or _is_list(x[0]))


def is_number(x: Any) -> bool:
    """Tell whether an entry of an item is made of numbers, so that it could be an input of a network."""
    return isinstance(x, Tensor | np.ndarray | np.generic | int | float) or _is_list(x)


def _names(batch: Any) -> str:
    if not isinstance(batch, Mapping):
        return type(batch).__name__
    return ", ".join(name for name, value in batch.items() if not isinstance(value, Tensor))
