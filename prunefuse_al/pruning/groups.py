"""From ties to groups of channels that compete, what is kept on request, and the map of a choice of channels."""

from __future__ import annotations

import fnmatch
import glob
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError
from ..fusing import ChannelMap, Stream, TensorMap
from .trace import FROZEN, Answer, Axis, Trace

STREAM = "is a residual stream, parts='interiors'"
Keep = str | type[nn.Module] | nn.Module
OUTPUTS = "outputs"
"""What `keep` takes for everything that the network answers with beside its logits."""


class Owned(NamedTuple):
    """An axis, and how many positions of it each channel of a group owns."""

    axis: Axis
    positions: int


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of the same kind, which compete with one another.

    Attributes:
        axes: those that each channel owns positions of.
        channels: int64 [n], component of each channel, in order of position.
        read: numbers of those of the axes that are summed over; none where that is not known.
    """

    axes: tuple[Owned, ...]
    channels: np.ndarray
    read: tuple[int, ...] = ()

    @property
    def positions(self) -> int:
        """Positions of an axis that one of these channels stands for: several for an attention head, else 1.

        A head may also own a single position of a table, which says nothing of its width.
        """
        counts = [count for _, count in self.axes]
        if not self.read:
            return min(counts)
        written = [count for number, count in enumerate(counts) if number not in self.read]
        return min(max(written, default=1), *(counts[number] for number in self.read))

    @property
    def block(self) -> bool:
        """True where a channel owns several positions of every axis, as an attention head does."""
        return self.positions > 1

    def whole_axes(self) -> list[tuple[int, int]]:
        """Return (size, positions per channel) of the axes that consist of this group alone."""
        return [(axis.size, count) for axis, count in self.axes if count * len(self.channels) == axis.size]


@dataclass(frozen=True, eq=False)
class Structure:
    """The channels of a network: component of every atom, the groups that can be thinned, and why others cannot."""

    trace: Trace
    components: np.ndarray
    groups: list[Group]
    reasons: dict[int, str]  # axis number -> why it is kept whole


def check_parts(name: str, parts: object) -> str:
    """Return which parts are thinned, or raise `InputError` unless it is "all" or "interiors"."""
    if not isinstance(parts, str) or parts not in ("all", "interiors"):
        raise checks.refused(name, parts, '"all", or "interiors" to keep residual streams whole')
    return parts


def structure(trace: Trace, protected: Mapping[int, str], parts: str = "all", *, pads_stay: bool = False) -> Structure:
    """Resolve the ties of a trace into groups of channels.

    Args:
        trace: what a forward pass told.
        protected: axis number -> reason, for axes the user wants kept whole.
        parts: "interiors" keeps residual streams whole as well, which several layers add to.
        pads_stay: channels that forward pads a tensor by are a fixed number; else they follow the widths.
    """
    atoms = trace.atoms
    for padded in atoms.padded if pads_stay else ():
        atoms.freeze(padded.marks, padded.reason)
    for number, reason in protected.items():
        axis = atoms.axes[number]
        atoms.freeze(torch.arange(axis.start, axis.start + axis.size), reason)
    components, reasons = atoms.components()
    by_signature = _by_signature(components, atoms.axes)
    summed = _summed_over(trace, components)
    answered = {n for answer in trace.answers for plane in answer.planes for n in atoms.owners(plane)}
    groups = []
    for signature, channels in by_signature.items():
        numbers = [number for number, _ in signature]
        read = tuple(i for i, n in enumerate(numbers) if n in atoms.contracted)
        # A weight that is used both ways round, as in a tied autoencoder, is written by what it reads.
        written = len(read) < len(numbers) or any(n in atoms.written for n in numbers)
        if not (read or summed[channels].all()) or not written:
            if answered.isdisjoint(numbers):  # else another head's outputs, which stay as those of the logits do
                reasons.update({n: reasons.get(n, "is not both written and read by a layer") for n in numbers})
        elif len(channels) == 1:
            reasons.update({n: reasons.get(n, "has a single channel that can leave only as a whole") for n in numbers})
        else:
            groups.append(Group(tuple(Owned(atoms.axes[n], c) for n, c in signature), channels, read))
    found = Structure(trace, components, groups, reasons)
    return found if parts == "all" else _interiors(found)


def _summed_over(trace: Trace, components: np.ndarray) -> np.ndarray:
    """Return bool [components]: the channels that computed tensors are multiplied and summed over."""
    found = np.zeros(int(components.max()) + 1, dtype=bool)
    for summed in trace.atoms.summed:
        if summed.product:
            found[components[summed.marks.clamp(min=0).numpy()]] = True
    return found


def _interiors(found: Structure) -> Structure:
    """Return the same without the groups that are residual streams."""
    streams, axes = _summed(found.trace, found.components), found.trace.atoms.axes
    whole = [group for group in found.groups if streams[group.channels].any()]
    numbers = {axes.index(axis) for group in whole for axis, _ in group.axes}
    reasons = {n: found.reasons.get(n, STREAM) for n in sorted(numbers)}
    groups = [group for group in found.groups if group not in whole]
    return Structure(found.trace, found.components, groups, {**found.reasons, **reasons})


def _summed(trace: Trace, components: np.ndarray) -> np.ndarray:
    """Return bool [components]: the channels of residual streams, in which what different layers give is added.

    The gates of recurrent layers do not count. Where a number is added for a channel as a whole, as a bias of an
    attention head to its scores, the channels themselves are not added to: then all positions of an axis meet on one
    side of the sum at most.
    """
    atoms, found = trace.atoms, np.zeros(int(components.max()) + 1, dtype=bool)
    for met in atoms.sums:
        if met.module in trace.recurrent:
            continue
        left, right = (_whole(trace, components, marks) for marks in (met.left, met.right))
        for number, channels in left.items():
            for other, others in right.items():
                if number != other:
                    found[np.intersect1d(channels, others)] = True
    found[components[FROZEN]] = False
    return found


def _whole(trace: Trace, components: np.ndarray, marks: Tensor) -> dict[int, np.ndarray]:
    """Return axis number -> the components of which every position along that axis is among the marks."""
    whole = {}
    for number in trace.atoms.owners(marks):
        axis = trace.atoms.axes[number]
        own = components[axis.start : axis.start + axis.size]
        seen = np.isin(np.arange(axis.start, axis.start + axis.size), marks.numpy())
        whole[number] = np.setdiff1d(own[seen], own[~seen])
    return whole


Signature = tuple[tuple[int, int], ...]


def _by_signature(components: np.ndarray, axes: Sequence[Axis]) -> dict[Signature, np.ndarray]:
    """Return what components own, (axis number, positions of it) of each axis -> the components that own just that.

    A component has a label, which becomes another with every axis that it owns positions of.
    """
    labels = np.zeros(int(components.max()) + 1, dtype=np.int64)
    signatures: list[Signature] = [()]
    for number, axis in enumerate(axes):
        own, counts = np.unique(components[axis.start : axis.start + axis.size], return_counts=True)
        thinnable = own != components[FROZEN]
        own, counts = own[thinnable], counts[thinnable]
        before, inverse = np.unique(labels[own] * (axis.size + 1) + counts, return_inverse=True)
        labels[own] = len(signatures) + inverse
        earlier, positions = np.divmod(before, axis.size + 1)
        signatures += [(*signatures[e], (number, p)) for e, p in zip(earlier.tolist(), positions.tolist(), strict=True)]
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    found = {signatures[labels[part[0]]]: part for part in np.split(order, starts) if labels[part[0]]}
    return dict(sorted(found.items(), key=lambda entry: (entry[0][0][0], entry[1][0])))


def protected_axes(trace: Trace, model: nn.Module, keep: Keep | Iterable[Keep]) -> dict[int, str]:
    """Return the output axes of everything named by `keep`: name patterns, module types or modules of `model`.

    `OUTPUTS` among them keeps what the network answers with beside its logits.

    Raises:
        InputError: an entry is none of these, or matches nothing in the network.
    """
    reasons: dict[int, str] = {}
    atoms = trace.atoms
    for entry in [keep] if isinstance(keep, str | type | nn.Module) or not isinstance(keep, Iterable) else keep:
        if entry == OUTPUTS:
            for plane in (plane for answer in trace.answers if answer.beside for plane in answer.planes):
                atoms.freeze(plane, f"kept on request ({OUTPUTS})")
            if not any(_is_meant(entry, name, module) for name, module in model.named_modules()):
                continue
        names = {atoms.registered[name] for name in _tensors_meant(entry, model, atoms.registered)}
        hits = {n for n, axis in enumerate(atoms.axes) if axis.name in names and n not in atoms.contracted}
        if not hits:
            raise InputError(
                f"keep={entry!r} matches no layer with channels; pass a name or pattern of modules or tensors (see "
                "model.named_modules()), a module type, or a module of this model"
            )
        reason = f"kept on request ({entry if isinstance(entry, str) else type_name(entry)})"
        reasons.update(dict.fromkeys(hits, reason))
    return reasons


def check_keep(keep: Keep | Iterable[Keep], model: nn.Module) -> Keep | tuple[Keep, ...]:
    """Return `keep` with modules of `model` as their names, which copies of the network have too.

    Raises:
        InputError: an entry is no name, type or module, or is a module of another network.
    """
    what = "names or patterns, module types or modules of this model"
    if isinstance(keep, str | type):
        entries: Iterable[object] = [keep]
    elif isinstance(keep, nn.Module) or not isinstance(keep, Iterable):
        entries = [keep]
    else:
        entries = keep
    found: list[Keep] = []
    for entry in entries:
        name = next((name for name, module in model.named_modules() if module is entry), None)
        if name is not None:
            found.append(glob.escape(name))
        elif isinstance(entry, str) or (isinstance(entry, type) and issubclass(entry, nn.Module)):
            found.append(entry)
        else:
            raise checks.refused("keep", entry, what)
    return found[0] if isinstance(keep, str | type) else tuple(found)


def type_name(entry: type[nn.Module] | nn.Module) -> str:
    """Return the class name of a module or module type."""
    return entry.__name__ if isinstance(entry, type) else type(entry).__name__


def _tensors_meant(entry: Keep, model: nn.Module, tensors: Iterable[str]) -> set[str]:
    """Return the tensors that `entry` names, and those of the modules it names and of all modules in these."""
    prefixes = tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules(remove_duplicate=False)  # a module may be known by several names
        if _is_meant(entry, name, module)
    )
    return {
        name
        for name in tensors
        if name.startswith(prefixes) or (isinstance(entry, str) and fnmatch.fnmatchcase(name, entry))
    }


def _is_meant(entry: Keep, name: str, module: nn.Module) -> bool:
    if isinstance(entry, str):
        return fnmatch.fnmatchcase(name, entry)
    return isinstance(module, entry) if isinstance(entry, type) else module is entry


def outside(structure: Structure, within: ChannelMap) -> np.ndarray:
    """Return the components of which a map of the network keeps nothing."""
    gone = []
    for axis in structure.trace.atoms.axes:
        kept = within.tensors[axis.name].kept[axis.dim]
        if kept is not None:
            removed = np.setdiff1d(np.arange(axis.size), kept.numpy())
            gone.append(structure.components[axis.start + removed])
    return np.unique(np.concatenate(gone)) if gone else np.array([], dtype=np.int64)


def thinned_shapes(structure: Structure, kept: np.ndarray) -> list[tuple[int, ...]]:
    """Return the shape that each answer of the network has in the proxy."""
    return [_thinned_shape(answer, structure.components, kept) for answer in structure.trace.answers]


def _thinned_shape(answer: Answer, components: np.ndarray, kept: np.ndarray) -> tuple[int, ...]:
    alive = torch.ones([1] * len(answer.shape), dtype=torch.bool)
    for plane in answer.planes:
        alive = alive & torch.from_numpy(kept[components[plane.clamp(min=0).numpy()]])
    # Counted line by line: of several heads as many places may stay, and others in each.
    return tuple(size if alive.shape[dim] == 1 else int(alive.sum(dim).max()) for dim, size in enumerate(answer.shape))


def channel_map(structure: Structure, kept: np.ndarray, tensors: Mapping[str, Tensor]) -> ChannelMap:
    """Return the map (without attributes) of keeping the given components."""
    atoms = structure.trace.atoms
    indices: dict[str, dict[int, Tensor]] = defaultdict(dict)
    inputs: dict[str, list[int]] = defaultdict(list)
    for number, axis in enumerate(atoms.axes):
        stay = kept[structure.components[axis.start : axis.start + axis.size]]
        if not stay.all():
            indices[axis.name][axis.dim] = torch.from_numpy(np.flatnonzero(stay))
        if number in atoms.contracted:
            inputs[axis.name].append(axis.dim)
    maps = {}
    for name, tensor in tensors.items():
        own = atoms.registered[name]
        maps[name] = TensorMap(
            tuple(tensor.shape), tuple(indices[own].get(d) for d in range(tensor.ndim)), tuple(inputs[own])
        )
    return ChannelMap(maps, streams=_streams(structure))


def _streams(structure: Structure) -> tuple[Stream, ...]:
    """Collect what LayerNorm and RMSNorm take statistics over, where it can be thinned, and what writes into it."""
    atoms, components = structure.trace.atoms, structure.components
    axes = {
        number: components[axis.start : axis.start + axis.size]
        for number, axis in enumerate(atoms.axes)
        if number not in atoms.contracted | atoms.affine
    }
    norms: dict[tuple[int, ...], dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for statistic in structure.trace.statistics:
        planes, scale = statistic.noted.planes, statistic.noted.scale
        if len(planes) != 1 or scale not in atoms.registered:
            continue
        key = tuple(components[planes[0].reshape(-1).numpy()].tolist())
        if any(component != components[0] for component in key):
            norms[key][statistic.module, atoms.registered[scale]] += 2 if statistic.op.centres else 1
    streams = []
    for key, readers in norms.items():
        scales = {scale for _, scale in readers}
        writers = [
            (atoms.axes[number].name, atoms.axes[number].dim)
            for number, own in axes.items()
            if atoms.axes[number].name not in scales and len(own) == len(key) and np.array_equal(own, key)
        ]
        streams.append(
            Stream(
                tuple(writer for writer in writers if writer[0] not in atoms.scaled),
                tuple(readers),
                centred=max(readers.values()) > 1,
                scales=tuple(
                    (name, dim, tuple(sorted(atoms.scaled[name]))) for name, dim in writers if name in atoms.scaled
                ),
            )
        )
    return tuple(streams)
