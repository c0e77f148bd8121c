"""Reshapes that merge marked dimensions in another order than they were split, as a channel shuffle does."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .atoms import Atoms, varying


def tie_shuffled(atoms: Atoms, plane: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Where marked dimensions are merged in another order than they were split (channel shuffle), keep pace.

    The proxy merges what is left in each, position by position; that is the same only if the same positions are left
    in every line, so they are tied.

    Args:
        atoms: receives the ties.
        plane: marks of a tensor that is reshaped.
        old: shape of the tensor.
        new: shape it is given.

    Returns:
        The plane, of size 1 along dimensions whose positions were tied.
    """
    for dims in _merged(old, new):
        dims = [d for d in dims if d in varying(plane)]
        if len(dims) > 1:
            steps = plane.diff(dim=dims[-1])
            if (steps == 1).float().mean() < 0.5:
                for dim in dims[1:]:
                    plane = atoms.tie_along(plane, dim)
    return plane


def _merged(old: Sequence[int], new: Sequence[int]) -> list[list[int]]:
    """Return the runs of old dimensions that a reshape makes one."""
    runs: list[list[int]] = []
    if 0 in new:
        return runs
    position, size = 0, 1
    run: list[int] = []
    for target in new:
        while size < target and position < len(old):
            size *= old[position]
            run.append(position)
            position += 1
        if size % target == 0:
            size //= target
        if size == 1:
            runs.append(run)
            run = []
    return [r for r in runs if len(r) > 1]
