"""From ties to kept channels: groups of channels that compete, how wide each stays, and the resulting map."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..channel_map import ChannelMap, Stream, TensorMap
from ..errors import InputError
from .atoms import Axis
from .rules import STATISTICS
from .tracing import Trace

Keep = str | type[nn.Module] | nn.Module


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of the same kind, which compete with one another.

    Attributes:
        axes: the axes each channel owns positions of, with how many.
        channels: int64 [n], component of each channel, in order of position.
    """

    axes: tuple[tuple[Axis, int], ...]
    channels: np.ndarray

    @property
    def block(self) -> bool:
        """True where a channel owns several positions of every axis, as an attention head does."""
        return min(count for _, count in self.axes) > 1

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


def structure(trace: Trace, protected: Mapping[int, str]) -> Structure:
    """Resolve the ties of a trace into groups of channels.

    Args:
        trace: what a forward pass told.
        protected: axis number -> reason, for axes the user wants kept whole.
    """
    atoms = trace.atoms
    for number, reason in protected.items():
        axis = atoms.axes[number]
        atoms.freeze(torch.arange(axis.start, axis.start + axis.size), reason)
    components, reasons = atoms.components()
    owners: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, axis in enumerate(atoms.axes):
        own, counts = np.unique(components[axis.start : axis.start + axis.size], return_counts=True)
        for component, count in zip(own.tolist(), counts.tolist(), strict=True):
            if component != components[0]:
                owners[component].append((number, count))
    by_signature: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for component, owned in owners.items():
        by_signature[tuple(owned)].append(component)
    groups = []
    for signature, channels in by_signature.items():
        numbers = [number for number, _ in signature]
        if not any(n in atoms.contracted for n in numbers) or all(n in atoms.contracted for n in numbers):
            reasons.update({n: reasons.get(n, "is not both written and read by a layer") for n in numbers})
        elif len(channels) == 1:
            reasons.update({n: reasons.get(n, "has a single channel that can leave only as a whole") for n in numbers})
        else:
            groups.append(Group(tuple((atoms.axes[n], c) for n, c in signature), np.array(channels)))
    return Structure(trace, components, groups, reasons)


def protected_axes(trace: Trace, model: nn.Module, keep: Sequence[Keep]) -> dict[int, str]:
    """Return the output axes of everything named by `keep`: name patterns, module types or modules of `model`.

    Raises:
        InputError: an entry matches nothing in the network.
    """
    reasons: dict[int, str] = {}
    for entry in [keep] if isinstance(keep, str | type | nn.Module) else keep:
        prefixes = [name for name, module in model.named_modules() if _is_meant(entry, name, module)]
        hits = {
            number: f"kept on request ({entry if isinstance(entry, str) else type_name(entry)})"
            for number, axis in enumerate(trace.atoms.axes)
            if number not in trace.atoms.contracted and _below(axis.name, prefixes, entry)
        }
        if not hits:
            raise InputError(
                f"keep={entry!r} matches no layer with channels; pass a module name or pattern (see "
                "model.named_modules()), a module type, or a module of this model"
            )
        reasons.update(hits)
    return reasons


def type_name(entry: type[nn.Module] | nn.Module) -> str:
    """Return the class name of a module or module type."""
    return entry.__name__ if isinstance(entry, type) else type(entry).__name__


def _is_meant(entry: Keep, name: str, module: nn.Module) -> bool:
    if isinstance(entry, str):
        return fnmatch.fnmatchcase(name, entry)
    return isinstance(module, entry) if isinstance(entry, type) else module is entry


def _below(tensor_name: str, prefixes: Sequence[str], entry: Keep) -> bool:
    if isinstance(entry, str) and fnmatch.fnmatchcase(tensor_name, entry):
        return True
    return any(tensor_name.startswith(f"{prefix}.") if prefix else True for prefix in prefixes)


def kept_channels(
    structure: Structure, scores: np.ndarray, ratio: float, *, scope: str, round_to: int | None, equal_widths: bool
) -> np.ndarray:
    """Return bool [components]: which channels stay.

    Args:
        structure: groups of channels.
        scores: importance of each component.
        ratio: fraction of channels to remove, 0 <= ratio < 1.
        scope: "local" removes the fraction in every group, "global" over all groups (a tenth of each stays).
        round_to: widths become multiples of this where the group is at least that wide.
        equal_widths: dimensions of equal size in the dense network stay equal, in steps of the coarsest of them.
    """
    kept = np.zeros(len(scores), dtype=bool)
    thinned = np.concatenate([g.channels for g in structure.groups]) if structure.groups else np.array([], dtype=int)
    kept[np.setdiff1d(np.arange(len(scores)), thinned)] = True
    blocks = _coarsest_blocks(structure.groups) if equal_widths else [len(g.channels) for g in structure.groups]
    shares = _global_shares(structure.groups, scores, ratio) if scope == "global" else [1 - ratio] * len(blocks)
    for group, n_blocks, share in zip(structure.groups, blocks, shares, strict=True):
        n = len(group.channels)
        stay = _width(n_blocks, share, group.block or n_blocks != n, round_to) * n // n_blocks
        best = np.argsort(-scores[group.channels], kind="stable")[:stay]  # of equal scores the first stays
        kept[group.channels[best]] = True
    return kept


def _width(n: int, share: float, coarse: bool, round_to: int | None) -> int:
    """Return int(n * share), as in the paper; a few coarse blocks are rounded to the nearest number instead."""
    if share >= 1:
        return n
    if coarse:
        return max(1, int(np.ceil(n * share - 0.5 - 1e-9)))
    width = int(np.floor(n * share + 1e-9))
    if round_to is not None and n >= round_to:
        width = max(round_to, round(n * share / round_to) * round_to)
    return min(n, max(1, width))


def _coarsest_blocks(groups: Sequence[Group]) -> list[int]:
    """Return for each group in how many steps its width may change, so that equal widths can stay equal."""
    steps: dict[int, int] = {}
    for group in groups:
        for size, count in group.whole_axes():
            steps[size] = min(steps.get(size, size), size // count)
    blocks = []
    for group in groups:
        n = len(group.channels)
        options = [steps[size] for size, _ in group.whole_axes() if n % steps[size] == 0]
        blocks.append(min([n, *options]))
    return blocks


def _global_shares(groups: Sequence[Group], scores: np.ndarray, ratio: float, floor: float = 0.1) -> list[float]:
    """Return the share of each group that stays when all channels compete, each group's scores at mean 1."""
    relative = [scores[g.channels] / max(scores[g.channels].mean(), 1e-12) for g in groups]
    together = np.concatenate(relative)
    order = np.argsort(-together, kind="stable")
    stays = np.zeros(len(together), dtype=bool)
    stays[order[: max(1, int(len(together) * (1 - ratio) + 1e-9))]] = True
    parts = np.split(stays, np.cumsum([len(r) for r in relative])[:-1])
    return [max(floor, float(part.mean())) for part in parts]


def outside(structure: Structure, within: ChannelMap) -> np.ndarray:
    """Return the components of which a map of the network keeps nothing."""
    gone = []
    for axis in structure.trace.atoms.axes:
        kept = within.tensors[axis.name].kept[axis.dim]
        if kept is not None:
            removed = np.setdiff1d(np.arange(axis.size), kept.numpy())
            gone.append(structure.components[axis.start + removed])
    return np.unique(np.concatenate(gone)) if gone else np.array([], dtype=np.int64)


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
        if len(statistic.planes) != 1:
            continue
        key = tuple(components[statistic.planes[0].reshape(-1).numpy()].tolist())
        # RMSNorm, and hand-written norms, are plain means in a module that owns a scale.
        scale = f"{statistic.module}.weight" if statistic.operation in STATISTICS else statistic.scale
        if scale in atoms.registered and any(component != components[0] for component in key):
            centring = 2 if statistic.operation in ("native_layer_norm", "var", "var_mean") else 1
            norms[key][statistic.module, atoms.registered[scale]] += centring
    streams = []
    for key, readers in norms.items():
        scales = {scale for _, scale in readers}
        writers = [
            (atoms.axes[number].name, atoms.axes[number].dim)
            for number, own in axes.items()
            if atoms.axes[number].name not in scales and len(own) == len(key) and np.array_equal(own, key)
        ]
        streams.append(Stream(tuple(writers), tuple(readers), centred=max(readers.values()) > 1))
    return tuple(streams)
