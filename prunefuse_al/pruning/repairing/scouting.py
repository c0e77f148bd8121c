"""What of a network can be repaired: found by passing it a few rows, whole and in two parts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...data import map_leaves
from ...errors import NonFiniteError
from ...fusing import ChannelMap, TensorMap
from ...network import named_tensors
from .products import BatchNormed, Event, Grouped, Normed, Product, Watcher, is_view, parameters_in

ROWS = 5
"""Rows that are passed: 2 and 3 of them differ from each other and from all."""


@dataclass(frozen=True)
class Site:
    """A product or a normalisation whose inputs can be compared row by row.

    Attributes:
        name: of its weight.
        width: channels of its inputs in the dense network, d.
        places: positions a row has, q.
        rows_first: the positions of a row lie together; else the same position of all rows does.
        bias: name of what is added, where it may change.
        centred: a constant in its outputs can be made up for.
        outputs: numbers that are summed at each position, of the outputs that stay: of these or of the inputs, the
            fewer are remembered. 0 where only parts of the weight are used at once.
        kept: channels of its inputs that stay.
    """

    name: str
    width: int
    places: int
    rows_first: bool
    bias: str | None
    centred: bool
    outputs: int
    kept: int

    @property
    def summed(self) -> bool:
        """True where what the layer sums is remembered, False where what it is given is."""
        return 0 < self.outputs <= self.width

    def by_rows(self, inputs: Tensor, rows: int) -> Tensor:
        """Return inputs [... d] as [rows q d]."""
        if self.rows_first:
            return inputs.reshape(rows, -1, inputs.shape[-1])
        return inputs.reshape(-1, rows, inputs.shape[-1]).transpose(0, 1)


@dataclass(frozen=True)
class Plan:
    """What is to be repaired, by key, in the order in which it runs.

    Attributes:
        products: layers that sum over a thinned dimension.
        norms: thinned LayerNorms and their like.
        batch_norms: thinned batch norms, and the names of their statistics.
        grouped: thinned convolutions by groups, and the names of their biases.
        left: name of a tensor that stays as it was cut -> why.
    """

    products: Mapping[str, Site]
    norms: Mapping[str, Site]
    batch_norms: Mapping[str, tuple[str, str]]
    grouped: Mapping[str, str]
    left: Mapping[str, str]

    @property
    def empty(self) -> bool:
        """True when there is nothing to repair."""
        return not (self.products or self.norms or self.batch_norms or self.grouped)

    def entries(self, rows: int, positions: float, *, sequential: bool) -> float:
        """Return how many numbers so many rows and positions per channel leave to remember."""
        sizes = [(site, (site.outputs if site.summed else site.width)) for site in self.products.values()]
        if not sequential:
            sizes += [(site, site.kept) for site in self.products.values()]
        sizes += [(site, site.kept) for site in self.norms.values()]
        return float(sum(min(rows * s.places, max(rows, positions * s.width)) * size for s, size in sizes))


def scout(model: nn.Module, run: Callable[[Any], Any], inputs: Any, channel_map: ChannelMap, frozen: Set[str]) -> Plan:
    """Find out what of a network can be repaired once it is thinned.

    Args:
        model: the dense network, in eval mode.
        run: passes inputs through it.
        inputs: a few rows as it takes them; one will do.
        channel_map: what of it the proxy keeps.
        frozen: names of tensors that may not change.
    """
    rows = int(tree_leaves(inputs)[0].shape[0])
    cut = max(1, rows // 2)
    seen = []
    for part in (slice(0, cut), slice(cut, rows), slice(0, rows)):
        with _Scout(named_tensors(model), part.stop - part.start) as found:
            run(map_leaves(inputs, lambda leaf, part=part: leaf[part]))  # type: ignore[misc]
        seen.append(found)
    return _planned(seen[2], _orders(seen[0], seen[1], seen[2], cut, rows), channel_map, frozen)


class _Scout(Watcher):
    """Notes every event with its inputs, how often each parameter is used, and what reads what products make."""

    def __init__(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        super().__init__(tensors)
        self.rows = rows
        self.events: list[Event] = []
        self.inputs: dict[str, Tensor] = {}  # of products and norms, [... d]
        self.users: dict[str, list[Event | None]] = defaultdict(list)
        self.added: dict[str, str] = {}  # key of a product -> bias that is added after it
        self.absorbed: dict[str, BatchNormed] = {}  # key of a product -> the batch norm that reads it
        self._made: dict[int, tuple[Product, Tensor]] = {}  # by memory, which is kept, so that no other gets it

    def meet(self, event: Event) -> None:
        """Keep what products sum over."""
        self.events.append(event)
        if isinstance(event, Product):
            self.inputs[event.key] = event.inputs.detach().clone()

    def leave(self, event: Event, out: Any) -> None:
        """Keep what norms give."""
        if isinstance(event, Product):
            self._made[out.untyped_storage().data_ptr()] = event, out
        if isinstance(event, Normed):
            self.inputs[event.key] = out[0].movedim(event.axis, -1).clone()

    def see(self, func: Any, args: tuple[Any, ...], event: Event | None, out: Any) -> None:
        """Count who uses which parameter."""
        if event is None and is_view(func):
            return
        for name in parameters_in(args, self.owners):
            self.users[name].append(event)
        if isinstance(event, BatchNormed) and (product := self._maker(event.inputs)) is not None:
            self.absorbed[product.key] = event
        if func.overloadpacket.__name__ in ("add", "add_") and len(args) > 1:
            for made, other in ((args[0], args[1]), (args[1], args[0])):
                product, bias = self._maker(made), self.owners.of(other)
                if product is not None and bias is not None and bias.tensor.ndim == 1 and product.bias is None:
                    self.added[product.key] = bias.name

    def _maker(self, tensor: object) -> Product | None:
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        product, out = self._made.get(tensor.untyped_storage().data_ptr(), (None, None))
        return product if out is not None and out.numel() == tensor.numel() else None


def _orders(first: _Scout, second: _Scout, whole: _Scout, cut: int, rows: int) -> dict[str, bool]:
    """Return the keys of events whose inputs follow the rows, and whether all positions of a row lie together."""
    found = {}
    for key, inputs in whole.inputs.items():
        parts = [scouted.inputs.get(key) for scouted in (first, second)]
        if parts[0] is None or (parts[1] is None and cut < rows):
            continue
        flat = inputs.reshape(-1, inputs.shape[-1])
        pieces = [p.reshape(-1, p.shape[-1]) for p in parts if p is not None]
        if len(flat) % rows or sum(map(len, pieces)) != len(flat) or len(pieces[0]) * rows != len(flat) * cut:
            continue
        places = len(flat) // rows
        if _near(torch.cat(pieces), flat):
            found[key] = True
        elif _near(torch.cat([p.reshape(places, -1, p.shape[-1]) for p in pieces], 1).reshape(flat.shape), flat):
            found[key] = False
    return found


def _near(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return bool((found - expected).abs().max() <= 16 * torch.finfo(expected.dtype).eps ** 0.75 * scale)


def _planned(seen: _Scout, orders: Mapping[str, bool], channel_map: ChannelMap, frozen: Set[str]) -> Plan:
    maps, left = channel_map.tensors, {}
    products: dict[str, Site] = {}
    norms: dict[str, Site] = {}
    batch_norms, grouped = {}, {}
    changeable = {name for name in maps if name not in frozen and _one_user(seen, name)}
    for event in seen.events:
        if isinstance(event, Product) and maps[event.weight.name].kept[event.dim] is not None:
            refuse_nonfinite(event.weight.name, seen.inputs[event.key])
            reason = _against(seen, event.weight.name, orders, event.key, frozen)
            if reason is None:
                products[event.key] = _product_site(seen, event, orders, maps, changeable, frozen)
            else:
                left[event.weight.name] = reason
        elif isinstance(event, Normed) and not maps[event.weight.name].whole:
            reason = _against(seen, event.weight.name, orders, event.key, frozen)
            bias = None if event.bias is None else event.bias.name
            if reason is None and bias is not None and bias not in changeable:
                reason = "its bias is frozen, or used elsewhere"
            if reason is None:
                width = seen.inputs[event.key].shape[-1]
                norms[event.key] = Site(
                    event.weight.name, width, _places(seen, event.key), orders[event.key], bias,
                    centred=bias is not None, outputs=0, kept=maps[event.weight.name].proxy_shape[0],
                )  # fmt: skip
            else:
                left[event.weight.name] = reason
        elif isinstance(event, BatchNormed) and not maps[event.mean.name].whole:
            if event.mean.name in changeable and event.var.name in changeable:
                batch_norms[event.key] = event.mean.name, event.var.name
            else:
                left[event.mean.name] = _not_changeable(event.mean.name, frozen)
        elif isinstance(event, Grouped) and not maps[event.bias.name].whole:
            if event.bias.name in changeable:
                grouped[event.key] = event.bias.name
            else:
                left[event.bias.name] = _not_changeable(event.bias.name, frozen)
    met = {site.name for site in products.values()} | left.keys()
    for name, tensor_map in maps.items():
        thinned = [dim for dim in tensor_map.inputs if tensor_map.kept[dim] is not None]
        if thinned and name not in met:
            left[name] = f"no product was seen that sums over its dimension {thinned[0]}"
    return Plan(products, norms, batch_norms, grouped, left)


def refuse_nonfinite(name: str, inputs: Tensor) -> None:
    """Raise `NonFiniteError` where a layer of the dense network, by the name of its weight, is given no numbers."""
    if not bool(inputs.isfinite().all()):
        raise NonFiniteError(
            f"repair(): what {name!r} is given in the dense network is NaN or infinite though the inputs are finite: "
            "its weights may have diverged, or its precision be too low; give a network that answers with numbers"
        )


def _one_user(seen: _Scout, name: str) -> bool:
    """Tell whether one operation uses a tensor, or several that each use other rows of it."""
    users = seen.users.get(name, [])
    if len(users) == 1:
        return True
    parts = [event for event in users if isinstance(event, Product)]
    starts = {event.start for event in parts}
    return bool(users) and len(starts) == len(parts) == len(users)


def _not_changeable(name: str, frozen: Set[str]) -> str:
    return "it is frozen" if name in frozen else "it is used more than once"


def _against(seen: _Scout, name: str, orders: Mapping[str, bool], key: str, frozen: Set[str]) -> str | None:
    """Return why a weight cannot be repaired, or None."""
    if name in frozen or not _one_user(seen, name):
        return _not_changeable(name, frozen)
    return None if key in orders else "its inputs do not follow the rows"


def _product_site(
    seen: _Scout,
    event: Product,
    orders: Mapping[str, bool],
    maps: Mapping[str, TensorMap],
    changeable: Set[str],
    frozen: Set[str],
) -> Site:
    bias = event.bias.name if event.bias is not None else seen.added.get(event.key)
    if bias is not None and bias not in changeable:
        bias = None
    norm = seen.absorbed.get(event.key)
    absorbed = norm is not None and norm.mean.name not in frozen
    thin, name = maps[event.weight.name].proxy_shape, event.weight.name
    kept = thin[event.dim]
    whole = event.count == event.weight.tensor.shape[0 if event.dim else 1]
    return Site(
        name, seen.inputs[event.key].shape[-1], _places(seen, event.key), orders[event.key], bias,
        centred=bias is not None or absorbed, outputs=math.prod(thin) // kept if whole else 0, kept=kept,
    )  # fmt: skip


def _places(seen: _Scout, key: str) -> int:
    inputs = seen.inputs[key]
    return inputs.numel() // inputs.shape[-1] // seen.rows


def live_bytes(run: Callable[[], Any]) -> int:
    """Return the most bytes that tensors made in a pass hold at once."""
    live = _Live()
    with live:
        run()
    return live.most


class _Live(TorchDispatchMode):
    """Adds up the memory of what operations make, for as long as something holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._held: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _strided(leaf)}
        for leaf in tree_leaves(out):
            if (
                _strided(leaf) and (storage := leaf.untyped_storage())._cdata not in given
            ):  # else a view, as of a weight
                self._held[storage._cdata] = StorageWeakRef(storage), int(storage.nbytes())
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._held.values()))
        return out


def _strided(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided
