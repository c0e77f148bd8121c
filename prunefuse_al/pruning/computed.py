"""What a network computes in one pass and reads in the next: caches, which copies with other weights must not have.

An attention bias kept while a network is asked, rotations for the longest sequence so far: they stand in plain
attributes, under any name. What of these is computed is found out by trying: the network has to answer the same, bit
for bit, without them. What is merely kept (the last attention maps) is never read, and may stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..network import Arguments, afresh, copied, named_tensors
from .quietly import answer_of, same_values

Computed = Mapping[str, tuple[Any, ...]]
"""See `ChannelMap.computed`."""

_OWN = frozenset(vars(nn.Module()))
_DEEPEST = 4


def computed_state(model: nn.Module, used: nn.Module, arguments: Arguments) -> Computed:
    """Return what a network computes, keeps and reads again.

    A network that keeps no tensors costs no pass, one of whose tensors none is read two.

    Args:
        model: the network, which may have been used before; not changed.
        used: a copy of it, in eval mode, that has seen the inputs; not changed.
        arguments: example inputs.
    """
    kept = kept_tensors(used)
    return _Search(model, used, arguments, kept).found() if kept else {}


def kept_tensors(model: nn.Module) -> dict[str, list[Tensor]]:
    """Return "module:attribute" -> the tensors in it, of every plain attribute of a network that holds some."""
    registered = {id(tensor) for tensor in named_tensors(model).values()}
    found: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _OWN:
                tensors = [t for t in _tensors(value) if id(t) not in registered]
                if tensors:
                    found[f"{path}:{name}"] = tensors
    return found


def _tensors(value: object, depth: int = 0) -> Iterator[Tensor]:
    """Yield the tensors in an attribute: in containers, and in objects that are no modules."""
    if isinstance(value, Tensor):
        yield value
    elif depth < _DEEPEST and not isinstance(value, nn.Module | type | str | int | float | None):
        if isinstance(value, Mapping):
            parts: Iterator[object] = iter(list(value.values()))
        elif isinstance(value, list | tuple | set | frozenset):
            parts = iter(list(value))
        else:
            parts = iter(list(getattr(value, "__dict__", {}).values()))
        for part in parts:
            yield from _tensors(part, depth + 1)


class _Search:
    """Finds out by trying which of the attributes that hold tensors are caches."""

    def __init__(
        self, model: nn.Module, used: nn.Module, arguments: Arguments, kept: Mapping[str, list[Tensor]]
    ) -> None:
        self.model, self.used, self.arguments, self.kept = model, used, arguments, kept

    @cached_property
    def expected(self) -> list[Tensor] | None:
        return self._answer(copied(self.used))

    def found(self) -> dict[str, tuple[Any, ...]]:
        if not self._read([*self.kept]):
            return {}
        alike: dict[tuple[type, str], list[str]] = defaultdict(list)
        for place in self.kept:
            path, _, name = place.partition(":")
            alike[type(self.used.get_submodule(path)), name].append(place)
        read = [places for places in alike.values() if len(alike) == 1 or self._read(places)]
        computed = self._changed({place.partition(":")[0] for places in read for place in places})
        if not computed or not self._answers_without(computed):
            computed = {}
        for places in read:
            if not computed.keys() >= {*places}:
                computed |= self._start(places, computed)
        left = [places for places in read if not computed.keys() >= {*places}]
        return computed | (self._together(left, computed) if left else {})

    def _changed(self, paths: set[str]) -> dict[str, tuple[Any, ...]]:
        """Return what stood before the pass in attributes of these modules that it changed, if that is plain."""
        before = copied(self.model).train()  # which makes many forget
        found: dict[str, tuple[Any, ...]] = {}
        for path in paths:
            old, new = (vars(network.get_submodule(path)) for network in (before, self.used))
            for name in (old.keys() | new.keys()) - _OWN:
                place = f"{path}:{name}"
                if name not in old:
                    found[place] = ()
                elif _plain(old[name]) and (place in self.kept or (_plain(new.get(name)) and old[name] != new[name])):
                    found[place] = (old[name],)
        return found

    def _start(self, places: list[str], computed: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        """Return what may have stood at places of one meaning before a network was used; nothing where nothing can."""
        path, _, name = places[0].partition(":")
        value = vars(self.used.get_submodule(path))[name]
        empty: tuple[Any, ...] = ({},) if isinstance(value, dict) else ([],) if isinstance(value, list) else ()
        for start in (empty, (), (None,)):
            tried = dict.fromkeys(places, start)
            if self._answers_without({**computed, **tried}):
                return tried
        return {}

    def _together(self, left: list[list[str]], computed: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        """Return the start of tensors that are kept with their length beside them; nothing where they have none."""
        lengths: dict[str, tuple[Any, ...]] = {}
        for place in (place for places in left for place in places):
            sizes = {size for tensor in self.kept[place] for size in tensor.shape}
            path = place.partition(":")[0]
            values = vars(self.used.get_submodule(path)).items()
            lengths |= {f"{path}:{name}": (0,) for name, value in values if type(value) is int and value in sizes}
        for start in ((None,), ()) if lengths else ():
            tried = {place: start for places in left for place in places} | lengths
            if self._answers_without({**computed, **tried}):
                return tried
        return {}

    def _read(self, places: list[str]) -> bool:
        """Tell whether the network reads what it keeps at these places: whether it answers the same if that is lost."""
        lost = {id(t): _lost(t) for place in places for t in self.kept[place]}
        return not same_values(self.expected, self._answer(copied(self.used, lost)))

    def _answers_without(self, computed: Computed) -> bool:
        return same_values(self.expected, self._answer(afresh(copied(self.used), computed)))

    def _answer(self, network: nn.Module) -> list[Tensor] | None:
        try:
            answer = answer_of(network, self.arguments)
        except Exception:  # whatever a user's code raises without what it kept
            return None
        return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]


def _plain(value: object) -> bool:
    """True for what a map can state: a number, a text, what is empty, or None."""
    return value is None or isinstance(value, int | float | str) or (isinstance(value, list | dict) and not value)


def _lost(tensor: Tensor) -> Tensor:
    """Return a tensor of the same form in which nothing of its values is left."""
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.full_like(tensor, float("nan"), requires_grad=False)
    return torch.zeros_like(tensor) if bool(tensor.any()) else torch.ones_like(tensor)
