"""Which of the attributes that were taken for a width the proxy needs to be changed.

A number may equal a width by coincidence: the longest sequence a network takes, beside as many channels. So an
attribute of a user's own modules changes only if the proxy fails without that, or answers otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..fusing import attribute, put_attributes
from ..network import Arguments, answers, copied
from .quietly import answer_of, same_values


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
    expected = list(_answers(probe, arguments))
    for alike in groups:
        put_attributes(probe, {place: _value(model, place) for place in alike})
        found = list(_answers(probe, arguments))
        failed = expected[0] is None
        if found[0] is not None and (failed or _equal(expected, found)):  # it may have been this that made it fail
            expected = found
            for place in alike:
                del left[place]
        else:
            put_attributes(probe, {place: guessed[place] for place in alike})
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
