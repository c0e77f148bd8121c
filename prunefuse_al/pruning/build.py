"""Build the proxy module from a channel map: thin every tensor, then every attribute that states a width."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from .. import checks
from ..errors import FusionError
from ..fusing import ChannelMap, as_sequence, attribute, captured_numbers, put_attributes
from ..network import afresh, check_model, copied, named_tensors, of_kind
from .groups import Structure

# Attributes of a user's own modules that may hold a width or a number of heads, and look-alikes that never do.
WIDTH_NAMES = re.compile(
    r"head|dim|chan|feat|width|hidden|inner|emb|plane|size|group|split|shape|^n[fx]$|^d_|^c_?(in|out)$", re.IGNORECASE
)
HEAD_COUNTS = re.compile(r"heads?$", re.IGNORECASE)
OTHER_NAMES = re.compile(
    r"shift|window|patch|kernel|image|img|input_size|vocab|max|seq|class|label|posit|stride|batch|pool|pad|grid|resol|rep",
    re.IGNORECASE,
)


def rebuild(model: nn.Module, channel_map: ChannelMap) -> nn.Module:
    """Return the proxy that `channel_map` cuts out of `model`, without tracing.

    Args:
        model: the dense network (or one of the same architecture); not touched.
        channel_map: a map made by `prune` for this architecture.

    Returns:
        A new module of the same class, thinner, with values taken from `model`, on its device and in its mode.

    Raises:
        FusionError: the map was made for another architecture.
        InputError: `channel_map` is no such map.
        UnsupportedModelError: `model` is no network.
    """
    check_model(model)
    checks.instance("channel_map", channel_map, ChannelMap, "the channel_map of a Proxy that prune(...) returned")
    tensors = named_tensors(model)
    if tensors.keys() != channel_map.tensors.keys():
        raise FusionError(
            f"rebuild(): network and channel map differ in {sorted(tensors.keys() ^ channel_map.tensors.keys())[:5]}; "
            "pass the architecture the map was made for"
        )
    state = channel_map.extract({name: t.detach() for name, t in tensors.items()})
    # Thin values go in while the module is copied, so that no dense copy is ever made; tied tensors stay tied.
    memo: dict[int, Any] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in memo:
            memo[id(tensor)] = of_kind(tensor, state[name])
    proxy = copied(model, memo)
    put_attributes(proxy, channel_map.attributes)
    return afresh(proxy, channel_map.computed)


def known_attributes(model: nn.Module, channel_map: ChannelMap) -> dict[str, Any]:
    """Return "module:attribute" -> value in the proxy, for every width of a layer of torch that changed."""
    attributes: dict[str, Any] = {}
    for layer in _layers(model, channel_map):
        if layer.widths is not None:
            attributes.update(layer.changed(layer.widths))
    return attributes


def guessed_attributes(
    model: nn.Module, channel_map: ChannelMap, structure: Structure, kept: np.ndarray, *, freely: bool = False
) -> dict[str, Any]:
    """Return "module:attribute" -> value in the proxy, for every attribute of other modules that may state a width.

    Those are taken whose name speaks of a width and whose value was seen, while that very module ran, as the size of a
    dimension that is thinned. `freely` takes names that say nothing as well, and what was seen while a module within
    it ran.
    """
    seen = _seen_sizes(structure, kept)
    if freely:
        seen = _seen_within(seen)
    attributes: dict[str, Any] = {}
    for layer in _layers(model, channel_map):
        if layer.widths is None:
            attributes.update(layer.changed(dict(_guessed(layer.module, seen.get(layer.path, {}), freely))))
    return attributes


@dataclass(frozen=True)
class _Layer:
    """A module, where it stands, and its widths in the proxy if it is a layer of torch."""

    path: str
    module: nn.Module
    widths: dict[str, Any] | None

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return "module:attribute" -> value of those of its attributes that are to change."""
        return {f"{self.path}:{name}": v for name, v in values.items() if attribute(self.module, name) != v}


def _layers(model: nn.Module, channel_map: ChannelMap) -> Iterator[_Layer]:
    """Yield every module of a network."""
    shapes = {name: t.proxy_shape for name, t in channel_map.tensors.items()}
    for path, module in model.named_modules():
        if not isinstance(module, _KNOWN_TYPES):
            yield _Layer(path, module, None)
            continue
        own = {_plain_name(n): shapes[f"{path}.{n}" if path else n] for n, _ in _own_tensors(module)}
        yield _Layer(path, module, _known(module, own))


def _plain_name(name: str) -> str:
    """Return the name that a tensor, or the part of it with its shape, has where it is not parametrised."""
    return re.sub(r"^parametrizations\.(\w+)\.original1?$", r"\1", name)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _seen_sizes(structure: Structure, kept: np.ndarray) -> dict[str, dict[int, set[int]]]:
    """Return module -> old size -> new sizes of the thinned dimensions seen while it ran."""
    seen: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    done: set[tuple[str, int, int]] = set()
    for sighting in structure.trace.sightings:
        key = (sighting.module, id(sighting.plane), sighting.dim)
        if key in done:
            continue
        done.add(key)
        alive = kept[structure.components[sighting.plane.clamp(min=0).numpy()]]
        # Counted line by line: of queries and values different heads may stay, as long as they are equally many.
        counts = np.unique(alive.sum(axis=sighting.dim))
        seen[sighting.module][sighting.plane.shape[sighting.dim]].update(counts[counts > 0].tolist())
    return seen


def _seen_within(seen: Mapping[str, Mapping[int, set[int]]]) -> dict[str, dict[int, set[int]]]:
    """Return what was seen while each module ran; of sizes that it saw none of, what modules within it saw."""
    found: dict[str, dict[int, set[int]]] = {path: dict(sizes) for path, sizes in seen.items()}
    for path, sizes in seen.items():
        while path:
            path = path.rpartition(".")[0]
            for old, new in sizes.items():
                if old not in seen.get(path, {}):
                    own = found.setdefault(path, {})
                    own[old] = own.get(old, set()) | new
    return found


def _guessed(module: nn.Module, sizes: Mapping[int, set[int]], freely: bool) -> Iterator[tuple[str, Any]]:
    captured = {
        f"{name}.{own}": n for name, value in vars(module).items() for own, n in captured_numbers(value).items()
    }
    for name, value in {**vars(module), **captured}.items():
        if not _may_state(name, freely):
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, _new_size(name, value, sizes, freely)
        elif isinstance(value, tuple | list) and value and all(type(v) is int for v in value):
            yield name, as_sequence(value, (_new_size(name, v, sizes, freely) for v in value))


@cache
def _may_state(name: str, freely: bool) -> bool:
    """Return whether an attribute of this name may be a width; it is asked in every trial, for every attribute."""
    plain = name.rpartition(".")[2].lstrip("_")  # a private name says the same
    if name == "training" or OTHER_NAMES.search(plain):
        return False
    return freely or WIDTH_NAMES.search(plain) is not None


def _new_size(name: str, old: int, sizes: Mapping[int, set[int]], freely: bool) -> int:
    options = sizes.get(old, set())
    if freely or HEAD_COUNTS.search(name):  # heads leave whole: a dimension of the same size that stays is their width
        options = options - {old}
    return next(iter(options)) if len(options) == 1 else old


Shapes = Mapping[str, tuple[int, ...]]


def _conv(module: Any, shapes: Shapes) -> dict[str, Any]:
    rows, columns = shapes["weight"][:2]
    depthwise = 1 < module.groups == module.in_channels
    if module.transposed:
        groups = rows if depthwise else module.groups
        return {"in_channels": rows, "out_channels": columns * groups, "groups": groups}
    # With one input channel per group the number of groups follows the rows; their number per group stays.
    groups = rows // (module.out_channels // module.groups) if depthwise else module.groups
    return {"in_channels": columns * groups, "out_channels": rows, "groups": groups}


def _attention(module: Any, shapes: Shapes) -> dict[str, Any]:
    inner = shapes["out_proj.weight"][1]
    width = shapes["out_proj.weight"][0]
    separate = "q_proj_weight" in shapes
    return {
        "embed_dim": width,
        "num_heads": inner // module.head_dim,
        "kdim": shapes["k_proj_weight"][1] if separate else width,
        "vdim": shapes["v_proj_weight"][1] if separate else width,
    }


def _group_norm(module: Any, shapes: Shapes) -> dict[str, Any]:
    channels = shapes["weight"][0]
    return {
        "num_channels": channels,
        "num_groups": channels if module.num_groups == module.num_channels else module.num_groups,
    }


def _batch_norm(module: Any, shapes: Shapes) -> dict[str, Any]:
    return {"num_features": (shapes["weight"] if "weight" in shapes else shapes["running_mean"])[0]}


def _recurrent(module: Any, shapes: Shapes) -> dict[str, Any]:
    gates = module.weight_ih_l0.shape[0] // module.hidden_size
    projected = {"proj_size": shapes["weight_hr_l0"][0]} if "weight_hr_l0" in shapes else {}
    return {
        "input_size": shapes["weight_ih_l0"][1],
        "hidden_size": shapes["weight_ih_l0"][0] // gates,
        **projected,
    }


KNOWN: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[Any, Shapes], dict[str, Any]]], ...] = (
    (nn.Linear, lambda m, s: {"in_features": s["weight"][1], "out_features": s["weight"][0]}),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), lambda m, s: {"normalized_shape": s["weight"]}),
    (nn.GroupNorm, _group_norm),
    (nn.MultiheadAttention, _attention),
    (nn.Embedding, lambda m, s: {"num_embeddings": s["weight"][0], "embedding_dim": s["weight"][1]}),
    (nn.PReLU, lambda m, s: {"num_parameters": s["weight"][0]}),
    (nn.RNNBase, _recurrent),
)
_KNOWN_TYPES = tuple(kind for types, _ in KNOWN for kind in (types if isinstance(types, tuple) else (types,)))


def _known(module: nn.Module, shapes: Shapes) -> dict[str, Any] | None:
    """Return the widths of a layer of torch, or None for any other module, and for layers without weights."""
    for types, widths in KNOWN:
        if isinstance(module, types):
            try:
                return widths(module, shapes)
            except KeyError:
                return None
    return None
