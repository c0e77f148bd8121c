"""Where every kept entry of a thinned network sits in the dense one.

A `ChannelMap` holds, for each parameter and buffer, the kept indices of each dimension of the dense tensor. Cutting
the proxy out (`extract`), putting it back (`scatter`) and pruning twice (`compose`) are index arithmetic on state
dictionaries; no graph and no module is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FusionError
from ..network import named_tensors as named_tensors
from .captured import put_attribute
from .indexing import compose_index, read_entries, relative_index, same_index, write_entries

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class TensorMap:
    """The kept part of one dense tensor.

    Attributes:
        shape: shape of the dense tensor.
        kept: per dimension, sorted int64 indices that stay, or None where the whole dimension stays.
        inputs: dimensions that are summed over when the tensor is used (the in-channels of a weight). Entries in
            kept rows and removed input columns carry signal from the other channels into the proxy's.
    """

    shape: tuple[int, ...]
    kept: tuple[Tensor | None, ...]
    inputs: tuple[int, ...] = ()

    @property
    def proxy_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the proxy."""
        return tuple(n if k is None else len(k) for n, k in zip(self.shape, self.kept, strict=True))

    @property
    def whole(self) -> bool:
        """True when nothing of the tensor is removed."""
        return self.shape == self.proxy_shape

    def thinned(self, device: torch.device) -> list[tuple[int, Tensor]]:
        """Return (dimension, kept indices on `device`) of every dimension that loses something."""
        return [(dim, kept.to(device)) for dim, kept in enumerate(self.kept) if kept is not None]

    def compose(self, inner: TensorMap) -> TensorMap:
        """Return the map of pruning by `self`, then pruning the result by `inner`."""
        kept = tuple(compose_index(a, b) for a, b in zip(self.kept, inner.kept, strict=True))
        return TensorMap(self.shape, kept, tuple(sorted({*self.inputs, *inner.inputs})))

    def relative_to(self, outer: TensorMap) -> TensorMap:
        """Return the map that leads from what `outer` keeps to what `self` keeps, which must be a part of it."""
        kept = tuple(relative_index(n, a, b) for n, a, b in zip(self.shape, self.kept, outer.kept, strict=True))
        return TensorMap(outer.proxy_shape, kept, self.inputs)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TensorMap)
            and (self.shape, self.inputs) == (other.shape, other.inputs)
            and all(same_index(n, a, b) for n, a, b in zip(self.shape, self.kept, other.kept, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # holds tensors


@dataclass(frozen=True)
class Stream:
    """Channels that LayerNorm or RMSNorm normalises together, and everything that writes into them.

    Attributes:
        writers: (tensor name, dimension) of all that adds into the stream.
        norms: (module name, name of its scale) of the normalisations that read it.
        centred: they subtract the mean (LayerNorm does, RMSNorm does not).
        scales: (tensor name, dimension, names of writers): what scales each channel of these before it is added.
    """

    writers: tuple[tuple[str, int], ...]
    norms: tuple[tuple[str, str], ...]
    centred: bool = True
    scales: tuple[tuple[str, int, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Silence:
    """Positions along a dimension that a tensor writes to, of which those outside the proxy start at zero.

    So that what is summed over them, by no weight that could be switched off, is what it is in the proxy: the squares
    of a norm, or the products of queries and keys. Where these are then divided by the root of how many there are, as
    code does that reads that from a shape, the kept ones make up for that.

    Attributes:
        name: of the tensor.
        dim: the dimension.
        runs: (first, one past the last) of the positions, rising.
        factor: what kept ones are multiplied by.
    """

    name: str
    dim: int
    runs: tuple[tuple[int, int], ...]
    factor: float = 1.0

    def positions(self) -> Tensor:
        """Return the positions, int64."""
        return torch.cat([torch.arange(start, stop) for start, stop in self.runs])

    @classmethod
    def along(cls, name: str, dim: int, positions: Tensor, factor: float = 1.0) -> Silence:
        """Return it of positions that rise, one at least."""
        ends = (positions.diff() > 1).nonzero().flatten() + 1
        parts = torch.tensor_split(positions, ends)
        return cls(name, dim, tuple((int(part[0]), int(part[-1]) + 1) for part in parts), factor)


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """Kept indices of every parameter and buffer, by name.

    Attributes:
        tensors: name -> `TensorMap`; tied tensors stand under each of their names.
        attributes: "module.path:attribute" -> value it has in the proxy (widths, head counts, groups).
        streams: channels normalised together, for function-preserving fusion.
        copies: "tensor:dimension" -> int64 [2, m], positions outside the proxy and the kept positions they start as
            copies of, for function-preserving fusion. A map has streams, copies, or neither.
        computed: "module.path:attribute" of what the network computes and keeps (caches) -> what stands there before
            it did, in a tuple; () where nothing does. Copies with other weights start so.
        gains: "tensor:dimension" of a weight that is standardised over it, among the copies -> names of what scales
            what it gives: its gain, or scale and shift of what it reads. As it reads each channel as often as there
            are copies, these are less by as much.
        silences: what is silenced for the sake of sums over computed values, for function-preserving fusion.
    """

    tensors: Mapping[str, TensorMap]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    streams: tuple[Stream, ...] = ()
    copies: Mapping[str, Tensor] = field(default_factory=dict)
    computed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    gains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    silences: tuple[Silence, ...] = ()

    def extract(self, state: State) -> dict[str, Tensor]:
        """Cut the proxy's values out of a dense state.

        Args:
            state: dense tensors by name; names the map does not know are an error.

        Returns:
            New tensors with the proxy's shapes.

        Raises:
            FusionError: a name or shape differs from the dense network the map was made for.
        """
        self._check(state, dense=True)
        return {name: read_entries(value, self.tensors[name].thinned(value.device)) for name, value in state.items()}

    def scatter(self, proxy_state: State, dense_state: State, *, cross: float = 1.0) -> dict[str, Tensor]:
        """Put the proxy's values back at the positions they came from.

        Args:
            proxy_state: tensors of the proxy by name.
            dense_state: tensors of the dense network by name; not changed.
            cross: factor on dense entries that carry signal from removed channels into kept ones.

        Returns:
            New tensors with the dense shapes; entries outside the map and the cross entries are the dense ones.

        Raises:
            FusionError: a name or shape does not fit the map.
        """
        self.check(proxy_state, dense_state)
        out = {name: dense.detach().clone() for name, dense in dense_state.items()}
        for name, tensor in out.items():
            self.place(name, proxy_state[name], tensor, cross=cross)
        return out

    def check_proxy(self, state: State) -> None:
        """Raise `FusionError` unless names and shapes of a proxy's state, or of a part of it, fit the map."""
        self._check(state, dense=False)

    def check(self, proxy_state: State, dense_state: State) -> None:
        """Raise `FusionError` unless names and shapes of both states are those the map was made for."""
        self._check(proxy_state, dense=False)
        self._check(dense_state, dense=True)
        if proxy_state.keys() != dense_state.keys():
            raise FusionError(
                f"scatter(): proxy and dense states differ in {sorted(proxy_state.keys() ^ dense_state.keys())[:5]}; "
                "pass the state of the proxy that was cut from this network"
            )

    def place(self, name: str, proxy: Tensor, out: Tensor, *, cross: float = 1.0) -> None:
        """Put one of the proxy's tensors in its place in a dense one, `out`, which is changed; see `scatter`."""
        tensor_map = self.tensors[name]
        dims = tensor_map.thinned(out.device)
        outputs = [(dim, index) for dim, index in dims if dim not in tensor_map.inputs]
        if cross == 1.0 or len(outputs) == len(dims):
            write_entries(out, dims, proxy.detach().to(out))
            return
        rows = read_entries(out, outputs)
        rows = rows.mul_(cross) if cross else rows.zero_()
        write_entries(rows, [(dim, index) for dim, index in dims if dim in tensor_map.inputs], proxy.detach().to(out))
        write_entries(out, outputs, rows)

    def compose(self, inner: ChannelMap) -> ChannelMap:
        """Return the map dense -> second proxy, where `self` cut the first proxy and `inner` cut the second from it.

        Raises:
            FusionError: `inner` was not made for a network of the shapes `self` produces.
        """
        if self.tensors.keys() != inner.tensors.keys():
            raise FusionError(
                f"compose(): the maps differ in {sorted(self.tensors.keys() ^ inner.tensors.keys())[:5]}; "
                "the inner map must come from pruning the proxy of the outer one"
            )
        for name, outer in self.tensors.items():
            if outer.proxy_shape != inner.tensors[name].shape:
                raise FusionError(
                    f"compose(): {name!r} is {list(outer.proxy_shape)} after the outer map, but the inner one starts "
                    f"from {list(inner.tensors[name].shape)}; the inner map must come from the outer map's proxy"
                )
        tensors = {name: outer.compose(inner.tensors[name]) for name, outer in self.tensors.items()}
        attributes = {**self.attributes, **inner.attributes}
        computed = {**self.computed, **inner.computed}
        silences = (*self.silences, *map(self._from_here, inner.silences))
        if self.copies or inner.copies:
            copies = self._composed_copies(inner)
            gains = {key: names for key, names in self.gains.items() if key in copies}
            return ChannelMap(tensors, attributes, (), copies, computed, gains, silences)
        return ChannelMap(tensors, attributes, self.streams, computed=computed, silences=silences)

    def _from_here(self, silence: Silence) -> Silence:
        """Return the same of the dense network, of what is silenced in a network that this map leads to."""
        kept = self.tensors[silence.name].kept[silence.dim]
        positions = silence.positions() if kept is None else kept[silence.positions()]
        return Silence.along(silence.name, silence.dim, positions, silence.factor)

    def _composed_copies(self, inner: ChannelMap) -> dict[str, Tensor]:
        """Return the copies of both maps, from the dense network's view; none unless both are exact by them."""
        if self.copies.keys() != inner.copies.keys():
            return {}
        composed = {}
        for key, own in self.copies.items():
            name, _, dim = key.rpartition(":")
            kept = self.tensors[name].kept[int(dim)]
            size = self.tensors[name].shape[int(dim)]
            second = inner.copies[key] if kept is None else kept[inner.copies[key]]
            source = torch.arange(size)
            source[second[0]] = second[1]
            composed[key] = torch.cat([second, torch.stack([own[0], source[own[1]]])], 1)
        return composed

    def relative_to(self, outer: ChannelMap) -> ChannelMap:
        """Return the inner map, so that ``outer.compose(inner)`` is this map.

        Raises:
            FusionError: this map keeps something that `outer` removes, or is of another network.
        """
        if self.tensors.keys() != outer.tensors.keys():
            raise FusionError(
                f"relative_to(): the maps differ in {sorted(self.tensors.keys() ^ outer.tensors.keys())[:5]}; "
                "both must come from the same dense network"
            )
        tensors = {}
        for name, own in self.tensors.items():
            try:
                tensors[name] = own.relative_to(outer.tensors[name])
            except ValueError as error:
                raise FusionError(
                    f"relative_to(): {name!r} keeps {list(own.proxy_shape)} of {list(own.shape)}, but not out of the "
                    f"{list(outer.tensors[name].proxy_shape)} that the outer map keeps"
                ) from error
        # What fusing needs to know is said of the dense network alone.
        return ChannelMap(tensors, self.attributes, computed=self.computed)

    def whole(self) -> ChannelMap:
        """Return the map of the same dense network that keeps everything."""
        tensors = {name: TensorMap(t.shape, (None,) * len(t.shape), t.inputs) for name, t in self.tensors.items()}
        return ChannelMap(tensors, computed=self.computed)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ChannelMap)
            and dict(self.tensors) == dict(other.tensors)
            and dict(self.attributes) == dict(other.attributes)
            and self.streams == other.streams
            and self.copies.keys() == other.copies.keys()
            and all(torch.equal(own, other.copies[key]) for key, own in self.copies.items())
            and dict(self.computed) == dict(other.computed)
            and dict(self.gains) == dict(other.gains)
            and self.silences == other.silences
        )

    __hash__ = None  # type: ignore[assignment]  # holds tensors

    def __repr__(self) -> str:
        thinned = sum(not t.whole for t in self.tensors.values())
        return f"ChannelMap({len(self.tensors)} tensors, {thinned} thinned)"

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return (index tensors by "name:dimension", a JSON-able rest) from which `from_tensors` restores the map."""
        from .map_files import map_to_tensors  # which makes what this file defines

        return map_to_tensors(self)

    @classmethod
    def from_tensors(cls, indices: Mapping[str, Tensor], rest: Mapping[str, Any]) -> ChannelMap:
        """Restore a map from what `to_tensors` returned (also after a trip through JSON).

        Raises:
            FusionError: that describes no channel map: indices that do not rise within their dimension, names that
                nothing has, attributes that are no widths.
        """
        from .map_files import map_from_tensors

        return map_from_tensors(indices, rest)

    def _check(self, state: State, *, dense: bool) -> None:
        kind = "dense network" if dense else "proxy"
        for name, value in state.items():
            if name not in self.tensors:
                raise FusionError(f"{kind}: {name!r} is not in the channel map; was the network changed after prune()?")
            expected = self.tensors[name].shape if dense else self.tensors[name].proxy_shape
            if tuple(value.shape) != expected:
                raise FusionError(
                    f"{kind}: {name!r} has shape {list(value.shape)}, the channel map expects {list(expected)}; "
                    "was the network changed after prune()?"
                )


def put_attributes(model: nn.Module, attributes: Mapping[str, Any]) -> None:
    """Set "module:attribute" -> value in a network; several numbers become the kind of sequence that stands there.

    Maps that were saved know lists from tuples at most, and those of before not even that.
    """
    for place, value in attributes.items():
        path, _, name = place.partition(":")
        module = model.get_submodule(path)
        if isinstance(value, list | tuple):
            value = as_sequence(getattr(module, name), value)
        put_attribute(module, name, value)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(_odd_heads(layer) for layer in module.layers):
            module.use_nested_tensor = False  # as torch's own constructor has it: such layers cannot take them


def _odd_heads(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    return isinstance(attention, nn.MultiheadAttention) and attention.num_heads % 2 == 1


def as_sequence(like: object, values: Iterable[int]) -> Any:
    """Return numbers as the kind of list or tuple that `like` is."""
    if isinstance(like, tuple) and hasattr(like, "_make"):  # one with names
        return like._make(values)
    return type(like)(values) if isinstance(like, list | tuple) else tuple(values)
