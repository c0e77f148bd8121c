"""Which rows start at zero in a fused network, because what they write is summed over by no weight of the network.

Queries meet keys over the width of a head, a norm adds up squares: there is no weight in between that could be switched
off for the channels that the proxy has not got. So those channels are silenced where they are written, of queries and
keys on one side, so that the other side goes on learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ..fusing import Silence
from .groups import Structure
from .trace import Summed


def of_products(structure: Structure, kept: np.ndarray, *, tempered: bool = False) -> tuple[Silence, ...]:
    """Return what to silence of one of two computed tensors that are multiplied and summed, as queries with keys.

    Args:
        structure: groups of channels, and the sums that were seen.
        kept: bool [components], which channels stay.
        tempered: code divides by the root of a width that shrinks, for which what stays makes up.
    """
    return _of((summed for summed in structure.trace.atoms.summed if summed.product), structure, kept, tempered)


def of_statistics(structure: Structure, kept: np.ndarray) -> tuple[Silence, ...]:
    """Return what to silence where squares, or plain values, are added up over channels."""
    return _of((summed for summed in structure.trace.atoms.summed if not summed.product), structure, kept, False)


def _of(sums: Iterable[Summed], structure: Structure, kept: np.ndarray, tempered: bool) -> tuple[Silence, ...]:
    found: dict[tuple[str, int, tuple[int, ...]], Silence] = {}
    for summed in sums:
        width = np.unique(structure.components[summed.marks.clamp(min=0).numpy()])
        share = kept[width].mean()
        for name, dim, positions in _written(summed, structure) if share < 1 else ():
            factor = float(share**-0.5) if tempered else 1.0
            found.setdefault(
                (name, dim, tuple(positions)), Silence.along(name, dim, torch.from_numpy(positions), factor)
            )
    return tuple(found.values())


def _written(summed: Summed, structure: Structure) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (tensor, dimension, positions along it) of all that writes what is summed over.

    A weight may write queries, keys and values: the marks tell which positions these are, and its bias, or the scale
    of a normalisation that came after, has them in the same places.
    """
    atoms, components = structure.trace.atoms, structure.components
    marks = np.unique(summed.marks.numpy())
    owners = [atoms.axes[number] for number in atoms.owners(summed.marks)]
    width = components[marks[marks > 0]]
    for number, axis in enumerate(atoms.axes):
        if axis.name not in summed.writers or number in atoms.contracted:
            continue
        own = components[axis.start : axis.start + axis.size]
        alike = (o for o in owners if np.array_equal(components[o.start : o.start + o.size], own))
        owner = axis if axis in owners else next(alike, None)
        if owner is not None:
            positions = marks[(marks >= owner.start) & (marks < owner.start + owner.size)] - owner.start
        else:
            positions = np.flatnonzero(np.isin(own, width))
        if len(positions):
            yield axis.name, axis.dim, positions
