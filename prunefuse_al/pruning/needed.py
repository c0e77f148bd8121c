"""Which of the attributes that were taken for a width the proxy needs to be changed.

A number may equal a width by coincidence: the longest sequence a network takes, beside as many channels. So an
attribute of a user's own modules changes only if the proxy fails without that, or answers otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..fusing import attribute, put_attributes
from ..network import Arguments, answers, copied
from .quietly import answer_of, same_values


def read_by(mentioned: Collection[str], model: nn.Module, guessed: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the guessed attributes that the network's code may read.

    Args:
        mentioned: names in that code, but for torch's.
        model: the dense network.
        guessed: "module:attribute" -> value in the proxy.
    """
    return {place: value for place, value in guessed.items() if _may_be_read(mentioned, model, place)}


def _may_be_read(mentioned: Collection[str], model: nn.Module, place: str) -> bool:
    path, _, name = place.partition(":")
    bases = type(model.get_submodule(path)).__mro__
    layer = any(base.__module__.startswith("torch.") and base is not nn.Module for base in bases)
    return layer or "." in name or name in mentioned  # what a function captured has another name there


def needed(model: nn.Module, proxy: nn.Module, guessed: Mapping[str, Any], arguments: Arguments) -> dict[str, Any]:
    """Return those of the guessed attributes without which the proxy fails or answers otherwise.

    Attributes of one name, in modules of one class, mean one thing: they change together or not at all. Those of
    torch's own modules mean what they say, and change always.

    Args:
        model: the dense network, whose values they have otherwise.
        proxy: with all guessed values; not changed.
        guessed: "module:attribute" -> value in the proxy.
        arguments: example inputs.
    """
    groups, left = _meant_alike(model, guessed), dict(guessed)
    if not groups:
        return left
    probe = copied(proxy)
    expected: list[list[Tensor] | None] | None = None  # not asked yet
    for alike in groups:
        old, new = {place: _value(model, place) for place in alike}, {place: guessed[place] for place in alike}
        put_attributes(probe, old)
        found = _answers(probe, arguments)
        first = next(found)
        if first is not None:
            both = [first, *found]
            if expected is None:
                put_attributes(probe, new)
                expected = list(_answers(probe, arguments))
                put_attributes(probe, old)
            if expected[0] is None or _equal(expected, both):  # it may have been this that made it fail
                expected = both
                for place in alike:
                    del left[place]
                continue
        put_attributes(probe, new)
    return left


def _meant_alike(model: nn.Module, places: Mapping[str, Any]) -> list[list[str]]:
    groups: dict[tuple[type, str], list[str]] = defaultdict(list)
    for place in places:
        path, _, name = place.partition(":")
        kind = type(model.get_submodule(path))
        if not kind.__module__.startswith("torch."):
            groups[kind, name].append(place)
    return list(groups.values())


def _value(model: nn.Module, place: str) -> Any:
    path, _, name = place.partition(":")
    return attribute(model.get_submodule(path), name)


def _answers(module: nn.Module, arguments: Arguments) -> Iterator[list[Tensor] | None]:
    """Yield what a network answers in eval and in train mode; None where it fails."""
    for training in (False, True):
        try:
            answer = answer_of(copied(module).train(training), arguments)
        except Exception:  # whatever a user's code raises at a size that does not fit
            yield None
        else:
            yield answers(answer)


def _equal(one: list[list[Tensor] | None], other: list[list[Tensor] | None]) -> bool:
    """True where both answer the same, bit for bit, and fail in the same modes."""
    return all(same_values(a, b) for a, b in zip(one, other, strict=True))
