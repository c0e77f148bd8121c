"""How much a channel matters: scores per position of each parameter, added up over everything the channel owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, NonFiniteError
from .atoms import Atoms

Importance = str | Callable[[str, Tensor, int], Tensor]
MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"l2": torch.square, "l1": torch.abs}


def check_importance(importance: Importance) -> None:
    """Raise `InputError` unless `importance` is a known name or a callable."""
    known = sorted([*MEASURES, "random"])
    if not callable(importance) and importance not in known:
        raise InputError(
            f"importance={importance!r} is not known; pass one of {known} or a callable(name, tensor, dim)"
        )


def component_scores(
    importance: Importance,
    tensors: Mapping[str, Tensor],
    atoms: Atoms,
    components: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Score each component of atoms (a channel with everything it owns).

    Args:
        importance: "l2" (sum of squares, as in the paper), "l1", "random", or a callable that returns float [size] for
            (name, tensor, dim), one score for each position of that dimension.
        tensors: parameters by name; buffers do not count.
        atoms: the atoms of the network.
        components: component of each atom.
        rng: used by "random".

    Returns:
        float64 [number of components], higher is more important. With a named measure each axis is divided by its
        mean first, so that large tensors do not drown small ones.
    """
    count = int(components.max()) + 1
    if importance == "random":
        return rng.random(count)
    total = np.zeros(count)
    for axis in atoms.axes:
        if axis.name in tensors:
            values = _axis_scores(importance, axis.name, tensors[axis.name].detach(), axis.dim)
            owners = components[axis.start : axis.start + axis.size]
            total += np.bincount(owners, weights=values, minlength=count)
    return total


def _axis_scores(importance: Importance, name: str, tensor: Tensor, dim: int) -> np.ndarray:
    if callable(importance):
        values = torch.as_tensor(importance(name, tensor, dim)).double().cpu().numpy()
        if values.shape != (tensor.shape[dim],):
            raise InputError(
                f"importance({name!r}, tensor {list(tensor.shape)}, dim {dim}) returned shape {list(values.shape)}; "
                f"it must be [{tensor.shape[dim]}]"
            )
    else:
        entries = MEASURES[importance](tensor.double())
        values = (
            entries.sum([d for d in range(tensor.ndim) if d != dim]).cpu().numpy()
            if tensor.ndim > 1
            else entries.cpu().numpy()
        )
        mean = values.mean()
        values = values / mean if mean > 0 else values
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise NonFiniteError(
            f"importance of {name!r} along dimension {dim} is NaN or infinite at {len(bad)} of {len(values)} positions "
            f"(first {bad[:5].tolist()}); repair the weights before pruning"
        )
    return values
