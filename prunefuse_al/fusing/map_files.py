"""Channel maps as tensors and JSON and back; what comes back is checked, because files come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FusionError
from .channel_map import ChannelMap, Silence, Stream, TensorMap

PLAIN = (int, float, str, type(None))
"""What may stand, besides what is empty, where a network keeps what it computes, before it did."""

_COPIES = ":copies"


def map_to_tensors(channel_map: ChannelMap) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (index tensors by "name:dimension", a JSON-able rest); see `ChannelMap.to_tensors`."""
    indices = {
        f"{name}:{dim}": kept
        for name, t in channel_map.tensors.items()
        for dim, kept in enumerate(t.kept)
        if kept is not None
    }
    indices |= {key + _COPIES: pairs for key, pairs in channel_map.copies.items()}
    rest = {
        "tensors": {name: [list(t.shape), list(t.inputs)] for name, t in channel_map.tensors.items()},
        "attributes": dict(channel_map.attributes),
        "lists": [place for place, value in channel_map.attributes.items() if isinstance(value, list)],
        "computed": {place: list(start) for place, start in channel_map.computed.items()},
        "streams": [[s.writers, s.norms, s.centred, s.scales] for s in channel_map.streams],
        "gains": {place: list(names) for place, names in channel_map.gains.items()},
        "silences": [[s.name, s.dim, s.runs, s.factor] for s in channel_map.silences],
    }
    return indices, rest


def map_from_tensors(indices: Mapping[str, Tensor], rest: Mapping[str, Any]) -> ChannelMap:
    """Return the map that `map_to_tensors` wrote, also after a trip through JSON; see `ChannelMap.from_tensors`."""
    try:
        tensors = {
            name: TensorMap(tuple(shape), tuple(indices.get(f"{name}:{d}") for d in range(len(shape))), tuple(inputs))
            for name, (shape, inputs) in rest["tensors"].items()
        }
        lists = rest.get("lists", ())  # older files have none: their lists come back as tuples
        attributes = {
            place: tuple(value) if isinstance(value, list) and place not in lists else value
            for place, value in rest["attributes"].items()
        }
        computed = {place: tuple(start) for place, start in rest.get("computed", {}).items()}  # older files have none
        gains = {place: tuple(names) for place, names in rest.get("gains", {}).items()}  # older files have none
        streams = tuple(
            Stream(
                tuple((n, d) for n, d in writers),
                tuple((m, w) for m, w in norms),
                centred,
                tuple((n, d, tuple(of)) for n, d, of in (scales[0] if scales else ())),  # older files have none
            )
            for writers, norms, centred, *scales in rest["streams"]
        )
        silences = tuple(
            Silence(name, dim, tuple((start, stop) for start, stop in runs), factor)
            for name, dim, runs, factor in rest.get("silences", ())  # older files have none
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FusionError(f"from_tensors(): this describes no channel map ({error!r})") from error
    copies = {key.removesuffix(_COPIES): pairs for key, pairs in indices.items() if key.endswith(_COPIES)}
    found = ChannelMap(tensors, attributes, streams, copies, computed, gains, silences)
    _check(found, indices)
    return found


def _check(found: ChannelMap, indices: Mapping[str, Tensor]) -> None:
    """Raise `FusionError` unless every part of a map speaks of tensors that it has, within their sizes."""
    for name, t in found.tensors.items():
        _check_tensor(name, t)
    places = {f"{name}:{dim}" for name, t in found.tensors.items() for dim in range(len(t.shape))}
    unknown = sorted(indices.keys() - places - {place + _COPIES for place in places})
    if unknown:
        raise _wrong(f"{unknown[0]!r} is of no dimension of its tensors")
    for place, pairs in found.copies.items():
        name, _, dim = place.rpartition(":")
        _check_copies(place, pairs, found.tensors[name], int(dim))
    for place, value in found.attributes.items():
        _check_attribute(place, value)
    for place, start in found.computed.items():
        _check_computed(place, start)
    for stream in found.streams:
        _check_stream(stream, found)
    for silence in found.silences:
        _check_silence(silence, found)
    for place, names in found.gains.items():
        known = all(isinstance(name, str) and name in found.tensors for name in names)
        if place not in found.copies or not names or not known:
            raise _wrong(f"{list(names)!r} scale {place!r}, which are no copies and tensors of it")
    if found.streams and found.copies:
        raise _wrong("it has both streams and copies, and a map has one of the two")


def _check_tensor(name: str, t: TensorMap) -> None:
    if not all(_whole(size, 0) for size in t.shape) or not all(_whole(dim, 0, len(t.shape)) for dim in t.inputs):
        raise _wrong(f"{name!r} has the shape {list(t.shape)} and the inputs {list(t.inputs)}")
    for dim, (size, kept) in enumerate(zip(t.shape, t.kept, strict=True)):
        if kept is None:
            continue
        if kept.dtype != torch.int64 or kept.ndim != 1 or not len(kept):
            raise _wrong(f"'{name}:{dim}' is {kept.dtype} {list(kept.shape)}; indices are torch.int64 and at least one")
        if int(kept[0]) < 0 or int(kept[-1]) >= size or not bool((kept[1:] > kept[:-1]).all()):
            raise _wrong(f"'{name}:{dim}' does not rise within 0 to {size - 1}")


def _check_copies(place: str, pairs: Tensor, t: TensorMap, dim: int) -> None:
    kept, size = t.kept[dim], t.shape[dim]
    if pairs.dtype != torch.int64 or pairs.ndim != 2 or len(pairs) != 2 or kept is None:
        raise _wrong(f"the copies of {place!r} are {pairs.dtype} {list(pairs.shape)}; they are two rows of torch.int64")
    outside = torch.ones(size, dtype=torch.bool)
    outside[kept] = False
    within = bool(((pairs >= 0) & (pairs < size)).all())
    if not within or not bool(outside[pairs[0]].all()) or bool(outside[pairs[1]].any()):
        raise _wrong(f"the copies of {place!r} do not lead from kept positions to others, within 0 to {size - 1}")
    if len(torch.unique(pairs[0])) < pairs.shape[1]:
        raise _wrong(f"the copies of {place!r} fill a position twice")


def _check_attribute(place: str, value: Any) -> None:
    _, colon, name = place.partition(":")
    width = all(type(size) is int for size in value) if isinstance(value, tuple | list) else _whole(value, 1)
    parts = name.split(".")  # two, where a function that is an attribute captured the width
    named = len(parts) <= 2 and all(part.isidentifier() and not part.startswith("__") for part in parts)
    if not colon or not named or not width:
        raise _wrong(f"the attribute {place!r} is {value!r}; it is a width, or several, of a module")


def _check_computed(place: str, start: tuple[Any, ...]) -> None:
    _, colon, name = place.partition(":")
    plain = len(start) < 2 and all(value in ([], {}) or isinstance(value, PLAIN) for value in start)
    if not colon or not name.isidentifier() or name.startswith("__") or name in dir(nn.Module()) or not plain:
        raise _wrong(f"what was computed at {place!r} starts as {start!r}; it is a number, a text, empty, or nothing")


def _check_stream(stream: Stream, found: ChannelMap) -> None:
    if not stream.norms or not all(isinstance(path, str) for path, _ in stream.norms):
        raise _wrong("one of its streams has no normalisation")
    where = f"the stream that {stream.norms[0][0]!r} normalises"
    widths = [_width(found, name, 0) for _, name in stream.norms]
    if not isinstance(stream.centred, bool) or any(len(found.tensors[name].shape) > 1 for _, name in stream.norms):
        raise _wrong(f"{where} has a scale of more than one dimension, or is centred={stream.centred!r}")
    widths += [_width(found, name, dim) for name, dim in stream.writers]
    widths += [_width(found, name, dim) for name, dim, _ in stream.scales]
    if any(size != widths[0][0] or not _same(kept, widths[0][1]) for size, kept in widths):
        raise _wrong(f"{where} is not of one width")
    if not all(isinstance(name, str) and name in found.tensors for _, _, of in stream.scales for name in of):
        raise _wrong(f"{where} has a scale of tensors that are not there")


def _check_silence(silence: Silence, found: ChannelMap) -> None:
    name, dim, factor = silence.name, silence.dim, silence.factor
    shape = found.tensors[name].shape if isinstance(name, str) and name in found.tensors else ()
    if not _whole(dim, 0, len(shape)):
        raise _wrong(f"it silences dimension {dim!r} of {name!r}, which it does not have")
    ends = [end for run in silence.runs for end in run]
    rising = all(_whole(end, 0, shape[dim] + 1) for end in ends) and all(a < b for a, b in pairwise(ends))
    if not ends or not rising:
        raise _wrong(f"what it silences of {name!r} does not rise within 0 to {shape[dim]}")
    if not isinstance(factor, float) or not 0 < factor < math.inf:
        raise _wrong(f"what it silences of {name!r} has the factor {factor!r}; it is a positive number")


def _width(found: ChannelMap, name: Any, dim: Any) -> tuple[int, Tensor | None]:
    shape = found.tensors[name].shape if isinstance(name, str) and name in found.tensors else ()
    if not _whole(dim, 0, len(shape)):
        raise _wrong(f"a stream names dimension {dim!r} of {name!r}, which it does not have")
    return shape[dim], found.tensors[name].kept[dim]


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _whole(value: Any, least: int, below: int | None = None) -> bool:
    return type(value) is int and value >= least and (below is None or value < below)


def _wrong(what: str) -> FusionError:
    return FusionError(f"from_tensors(): this is no channel map: {what}")
