"""Example inputs in the form a network is called with, at any batch size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .. import checks
from ..errors import InputError
from .forward import logits_of

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def check_example(example_inputs: Any) -> None:
    """Raise `InputError` unless there is a tensor with a row or more among what a network is called with."""
    tensors = [leaf for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor)]
    if not tensors or tensors[0].ndim == 0 or tensors[0].shape[0] == 0:
        found = [list(t.shape) for t in tensors] or f"{checks.shown(example_inputs)}, a {type(example_inputs).__name__}"
        raise InputError(
            f"example_inputs={found}: pass a batch of inputs as a tensor, a tuple of tensors (positional) or a dict of "
            "tensors (by name), with at least one row, as the network is called"
        )


def as_arguments(example_inputs: Any, model: nn.Module) -> Arguments:
    """Return positional and keyword arguments from a tensor, a tuple or list (positional) or a dict (by name).

    Tensors are moved to the network's device.

    Raises:
        InputError: there is no tensor with a batch dimension among them, or a value is not finite.
    """
    check_example(example_inputs)
    device = next((t.device for t in model.parameters()), torch.device("cpu"))
    moved = tree_map(lambda leaf: leaf.detach().to(device) if isinstance(leaf, Tensor) else leaf, example_inputs)
    if isinstance(moved, dict):
        return (), dict(moved)
    return (tuple(moved), {}) if isinstance(moved, tuple | list) else ((moved,), {})


def with_rows(arguments: Arguments, rows: int) -> Arguments:
    """Return the arguments with `rows` rows in every tensor that has the batch dimension, repeated as needed."""
    tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    batch = tensors[0].shape[0]

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != batch:
            return leaf
        return leaf[torch.arange(rows, device=leaf.device) % batch]

    args, kwargs = tree_map(resize, arguments)
    return args, kwargs


def perturbed(arguments: Arguments, generator: torch.Generator) -> Arguments:
    """Return the arguments in double precision with noise on floating tensors, so that no two rows are alike."""

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.device.type == "mps":  # has no double precision
            leaf = leaf.cpu()
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        spread = float(leaf.double().std()) if leaf.numel() > 1 else 0.0
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.device)
        return leaf.double() + noise * (0.3 * spread if 0 < spread < float("inf") else 1.0)

    args, kwargs = tree_map(change, arguments)
    return args, kwargs


def named_answers(output: Any) -> dict[str, Tensor]:
    """Return the tensors that a network answers with, by the place at which each stands: "logits", "1", "states.0".

    A Hugging Face output that names its logits answers with its logits and losses: hidden states and caches that come
    along are as wide as the network. Of any other output every tensor counts; dataclasses are opened as dicts are. One
    tensor alone has the name "".
    """
    hugging_face = isinstance(output, Mapping) and hasattr(output, "to_tuple")
    if hugging_face and any("logits" in str(name) for name in output):
        output = {name: value for name, value in output.items() if "logits" in str(name) or "loss" in str(name)}
    return {".".join(place): leaf for place, leaf in _placed(output)}


def _placed(output: Any) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield every tensor of a structure, and the keys that lead to it."""
    parts: Iterable[tuple[object, Any]]
    if isinstance(output, Tensor):
        yield (), output
        return
    if isinstance(output, Mapping):
        parts = output.items()
    elif is_dataclass(output):
        parts = ((part.name, getattr(output, part.name)) for part in fields(output))
    elif isinstance(output, tuple | list):
        parts = enumerate(output)
    else:  # what else torch knows how to open
        leaves = tree_leaves(output)
        parts = () if len(leaves) == 1 and leaves[0] is output else enumerate(leaves)
    for key, part in parts:
        for place, leaf in _placed(part):
            yield (str(key), *place), leaf


def answers(output: Any) -> list[Tensor]:
    """Return the tensors that a network answers with, see `named_answers`."""
    return list(named_answers(output).values())


def beside_logits(output: Any) -> frozenset[str]:
    """Return the names of those answers that stand beside the logits, such as an embedding.

    They are floating tensors of another shape; those of the same shape answer the same question.
    """
    named = named_answers(output)
    try:
        logits = logits_of(output)
    except InputError:  # of a kind that training refuses
        return frozenset()
    return frozenset(name for name, leaf in named.items() if leaf.is_floating_point() and leaf.shape != logits.shape)


def first_output(output: Any, without: Collection[str] = ()) -> Tensor:
    """Return every floating tensor a network answered with, flattened to [rows, all values] and joined.

    Args:
        output: what the network returned.
        without: names of answers that are left out, see `named_answers`.
    """
    leaves = [leaf for name, leaf in named_answers(output).items() if leaf.is_floating_point() and name not in without]
    return torch.cat([leaf.reshape(leaf.shape[0] if leaf.ndim else 1, -1) for leaf in leaves], dim=-1)


def output_shapes(output: Any) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors a network answered with."""
    return [tuple(leaf.shape) for leaf in answers(output)]
