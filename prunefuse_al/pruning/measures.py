"""Measures of how much a channel matters, over everything it owns: rows of one layer, columns of the next, a scale.

A measure returns one score per component of atoms, higher is more important. Measures that mean the same in every layer
(`bn_scale`, `lamp`) return them as they are; of the others each group of channels is divided by its mean, so that a
global scope can compare groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FallbackWarning, InputError, NonFiniteError, warn
from .groups import Group, Structure
from .trace import FROZEN, Axis

BLOCK = 2**15  # entries that fit into a core's own cache in double precision


@dataclass(frozen=True, eq=False)
class Subject:
    """What a measure looks at: the network, its channels, and a generator for what is drawn."""

    model: nn.Module
    found: Structure
    rng: np.random.Generator

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Parameters by name, shared ones once; buffers do not count."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @cached_property
    def count(self) -> int:
        """Number of components."""
        return int(self.found.components.max()) + 1

    def owners(self, axis: Axis) -> np.ndarray:
        """Return the component of each position of an axis."""
        return self.found.components[axis.start : axis.start + axis.size]


def l2(subject: Subject) -> np.ndarray:
    """Squared L2 norm of everything a channel owns, as in PruneFuse; each dimension of a tensor divided by its mean."""
    return mean_one(subject, added(subject, _summed(torch.square)))


def l1(subject: Subject) -> np.ndarray:
    """L1 norm of everything a channel owns (Li et al. 2017, arXiv 1608.08710), each dimension divided by its mean."""
    return mean_one(subject, added(subject, _summed(torch.abs)))


def random(subject: Subject) -> np.ndarray:
    """Uniform draws: the control that says what choosing channels is worth."""
    return subject.rng.random(subject.count)


def lamp(subject: Subject) -> np.ndarray:
    """LAMP (Lee et al. 2021, arXiv 2010.07611) of whole channels.

    A channel's squared norm over the sum of squared norms of all channels of its group that are no smaller. The best of
    each group has 1, so a global scope cannot empty a layer.
    """
    norms, scores = l2(subject), np.zeros(subject.count)
    for group in subject.found.groups:
        order = group.channels[np.argsort(-norms[group.channels], kind="stable")]  # best first, of equal ones the first
        scores[order] = norms[order] / np.maximum(np.cumsum(norms[order]), np.finfo(float).tiny)
    return scores


def fpgm(subject: Subject) -> np.ndarray:
    """Distance from the geometric median (He et al. 2019, arXiv 1811.00250).

    The sum of a channel's distances to the other channels of its group; those nearest the median are what others can
    replace. The distance is over everything the two own, each dimension of a tensor divided by its mean squared norm.
    """
    scores, parameters = np.zeros(subject.count), subject.parameters
    for group in subject.found.groups:
        gram = torch.zeros(len(group.channels), len(group.channels), dtype=torch.float64)  # [n n]
        for axis, _ in group.axes:
            if axis.name in parameters:
                rows = _double(parameters[axis.name]).movedim(axis.dim, 0).reshape(axis.size, -1)
                _check_finite(axis.name, axis.dim, rows.square().sum(1).cpu().numpy())
                vectors = rows[torch.from_numpy(positions_of(subject, group, axis))].flatten(1)  # [n positions * rest]
                scale = rows.square().sum(1).mean()
                gram += (vectors @ vectors.T / scale if scale > 0 else torch.zeros(())).cpu()
        squares = gram.diagonal()
        sums = squares[:, None] + squares  # [n n]
        apart = sums - 2 * gram
        apart = torch.where(apart > 1e-12 * sums, apart, 0.0)  # equal channels, but for rounding
        scores[group.channels] = apart.sqrt().sum(1).numpy()
    return mean_one(subject, scores)


def bn_scale(subject: Subject) -> np.ndarray:
    """Mean magnitude of the scales of the norms a channel goes through (Liu et al. 2017, arXiv 1708.06519).

    Groups that go through no norm with a scale are measured by `l2` at the same mean, with a `FallbackWarning`.

    Raises:
        InputError: no group goes through such a norm.
    """
    scales, parameters = _norm_scales(subject), subject.parameters
    total, positions = np.zeros(subject.count), np.zeros(subject.count)
    for axis in subject.found.trace.atoms.axes:
        if axis.name in scales:
            values, owners = _along(_double(parameters[axis.name]).abs(), axis.dim), subject.owners(axis)
            _check_finite(axis.name, axis.dim, values)
            total += np.bincount(owners, weights=values, minlength=subject.count)
            positions += np.bincount(owners, minlength=subject.count)
    groups = subject.found.groups
    without = [g for g in groups if not positions[g.channels].any()]
    if len(without) == len(groups):
        raise InputError(
            "importance='bn_scale' reads the scale of normalisation layers, and no channel that can be thinned goes "
            "through one; pass another measure, for example importance='l2'"
        )
    scores = total / np.maximum(positions, 1)
    return filled_by_l2(subject, scores, without, "importance='bn_scale'", "go through no norm with a scale")


MEASURES: dict[str, Callable[[Subject], np.ndarray]] = {
    "l2": l2,
    "l1": l1,
    "random": random,
    "bn_scale": bn_scale,
    "lamp": lamp,
    "fpgm": fpgm,
}


def filled_by_l2(subject: Subject, scores: np.ndarray, without: Sequence[Group], measure: str, why: str) -> np.ndarray:
    """Return the scores where the groups that a measure says nothing of have those of `l2` at the mean of the others.

    Args:
        subject: what is measured.
        scores: float64 [components].
        without: those groups.
        measure: for the `FallbackWarning`, as is `why`.
        why: that it says nothing of them.
    """
    groups, scores = subject.found.groups, scores.copy()
    if not without:
        return scores
    names = ", ".join(g.axes[0].axis.name for g in without[:3])
    warn(
        f"{measure}: {len(without)} of {len(groups)} groups of channels {why} ({names}); they are measured by l2",
        FallbackWarning,
    )
    others = [scores[g.channels] for g in groups if g not in without]
    mean, norms = np.mean(np.concatenate(others)) if others else 1.0, l2(subject)
    for group in without:
        scores[group.channels] = norms[group.channels] * mean
    return scores


def owned_sums(subject: Subject, entries: Mapping[str, Tensor]) -> np.ndarray:
    """Return the sum over all entries each component owns, every entry once: float64 [components].

    A layer whose inputs and outputs are the same channels, as in a residual stream, has entries that one channel owns
    by row and by column.
    """
    total, by_name = np.zeros(subject.count), defaultdict(list)
    for axis in subject.found.trace.atoms.axes:
        if axis.name in entries:
            by_name[axis.name].append(axis)
    for name, axes in by_name.items():
        counted: list[tuple[Axis, np.ndarray]] = []
        for axis in axes:
            owners = subject.owners(axis)
            if (owners == subject.found.components[FROZEN]).all():
                continue
            values = _double(entries[name])
            for other, owned in counted:
                if np.isin(owners, owned).any():
                    new = owned[:, None] != owners[None, :]
                    shape = [
                        axis.size if d == axis.dim else other.size if d == other.dim else 1 for d in range(values.ndim)
                    ]
                    values = values * torch.from_numpy(new).view(shape).to(values.device)
            sums = _along(values, axis.dim)
            _check_finite(name, axis.dim, sums)
            total += np.bincount(owners, weights=sums, minlength=subject.count)
            counted.append((axis, owners))
    return total


def mean_one(subject: Subject, scores: np.ndarray) -> np.ndarray:
    """Return the scores with each group divided by its mean (of magnitudes), so that groups can be compared."""
    scores = scores.copy()
    for group in subject.found.groups:
        mean = np.abs(scores[group.channels]).mean()
        scores[group.channels] /= mean if mean > 0 else 1
    return scores


def added(subject: Subject, measure: Callable[[str, Tensor, int], Tensor | np.ndarray]) -> np.ndarray:
    """Add a measure of positions, (name, tensor, dim) -> [size], over all positions of each component."""
    total, parameters = np.zeros(subject.count), subject.parameters
    for axis in subject.found.trace.atoms.axes:
        kept_whole = (subject.owners(axis) == subject.found.components[FROZEN]).all()  # kernel positions, inputs
        if axis.name in parameters and not kept_whole:
            tensor = parameters[axis.name]
            values = torch.as_tensor(measure(axis.name, tensor, axis.dim)).double().cpu().numpy()
            if values.shape != (axis.size,):
                raise InputError(
                    f"importance({axis.name!r}, tensor {list(tensor.shape)}, dim {axis.dim}) returned shape "
                    f"{list(values.shape)}; it must be [{axis.size}]"
                )
            _check_finite(axis.name, axis.dim, values)
            total += np.bincount(subject.owners(axis), weights=values, minlength=subject.count)
    return total


def _even(values: np.ndarray) -> np.ndarray:
    """Divide by the mean, so that large tensors do not drown small ones."""
    mean = values.mean()
    return values / mean if mean > 0 else values


def _along(tensor: Tensor, dim: int) -> np.ndarray:
    """Return the sums over all other dimensions, float64 [size of dim]."""
    others = [d for d in range(tensor.ndim) if d != dim]
    values: np.ndarray = (tensor.sum(others) if others else tensor).cpu().numpy()
    return values


def _summed(measure: Callable[[Tensor], Tensor]) -> Callable[[str, Tensor, int], np.ndarray]:
    """Return a measure of positions: the sums of a measure of single entries, divided by their mean."""
    last: dict[str, list[np.ndarray]] = {}  # the axes of a tensor follow each other

    def sums(name: str, tensor: Tensor, dim: int) -> np.ndarray:
        if name not in last:
            last.clear()
            last[name] = _sums(measure, tensor)
        return _even(last[name][dim])

    return sums


def _sums(measure: Callable[[Tensor], Tensor], tensor: Tensor) -> list[np.ndarray]:
    """Return for each dimension the sums of a measure over all others, in double precision, [size of the dimension].

    A few rows at a time, which stay in the cache: a copy of a large tensor in double precision takes longer to write
    than all else.
    """
    row = max(1, tensor.numel() // max(1, len(tensor)))
    rows = max(1, BLOCK // row) if tensor.device.type == "cpu" else max(1, len(tensor))
    first, others = [], [np.zeros(size) for size in tensor.shape[1:]]
    for part in tensor.split(rows):
        values = measure(_double(part))
        first.append(_along(values, 0))
        for dim, sums in enumerate(others, start=1):
            sums += _along(values, dim)
    return [np.concatenate(first), *others]


def _double(tensor: Tensor) -> Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # MPS has no double precision


def positions_of(subject: Subject, group: Group, axis: Axis) -> np.ndarray:
    """Return the positions of an axis that each channel of a group owns, int64 [n positions]."""
    owners = subject.owners(axis)
    order = np.argsort(owners, kind="stable")
    first = np.searchsorted(owners[order], group.channels)
    count = next(count for own, count in group.axes if own is axis)
    positions: np.ndarray = order[first[:, None] + np.arange(count)]
    return positions


def _norm_scales(subject: Subject) -> set[str]:
    """Return the names of parameters that scale what a normalisation gives out."""
    norms = nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm
    registered = subject.found.trace.atoms.registered
    names = {
        f"{path}.weight" if path else "weight"
        for path, module in subject.model.named_modules()
        if isinstance(module, norms) or "norm" in type(module).__name__.lower()
    }
    return {registered[name] for name in names if name in registered} & subject.parameters.keys()


def _check_finite(name: str, dim: int, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise NonFiniteError(
            f"importance of {name!r} along dimension {dim} is NaN or infinite at {len(bad)} of {len(values)} positions "
            f"(first {bad[:5].tolist()}); repair the weights before pruning"
        )
