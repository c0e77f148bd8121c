"""Find the widest thinning that passes the gate, from readings of the network that assume ever less about its code."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from ..costs import batch_rows
from ..data import bar
from ..errors import PruningError
from ..fusing import ChannelMap
from ..network import named_tensors
from .build import guessed_attributes, known_attributes, rebuild
from .gate import Candidate, Verdict, inspect
from .groups import Group, Keep, Structure, channel_map, protected_axes, structure
from .needed import needed, read_by
from .refusals import not_finite
from .silences import of_products, of_statistics
from .subject import Subject
from .trace import FROZEN, trace
from .twins import measured_together, twins
from .widths import alike
from .written import written_widths

WORTH = 1.3
"""By what factor the work left may be further from what was asked, if that makes fusing exact."""
MOST_TRIALS = 60
"""How many thinnings are put to the gate to find out which groups cannot be thinned, before the rest is kept whole."""


@dataclass(frozen=True)
class Choice:
    """Which channels stay.

    Attributes:
        kept: bool [components].
        asked: channels asked for in each group of the reading.
        share: of the multiply-accumulates, that goes with what was asked.
    """

    kept: np.ndarray
    asked: Sequence[float]
    share: float


@dataclass(frozen=True)
class Attempt:
    """A reading of a network, and how it is to be thinned.

    Attributes:
        structure: the reading.
        equal_widths: dimensions of equal size stay equal.
        careful: something has failed already.
        fewer_blocks: of heads, or other steps, the smaller of two numbers as near to what was asked is taken.
        even: numbers of heads, or other steps, that statistics are taken over are multiples of what stays of them.
    """

    structure: Structure
    equal_widths: bool
    careful: bool
    fewer_blocks: bool = False
    even: bool = False

    def others(self) -> Iterator[Attempt]:
        """Yield what to try where this does not fuse exactly."""
        yield replace(self, fewer_blocks=True)
        if self.equal_widths:
            yield replace(self, equal_widths=False)
        yield replace(self, even=True)


Choose = Callable[[Attempt], Choice]


@dataclass(frozen=True)
class Found:
    """A thinning put to the gate: the proxy, the verdict, the reading behind it, and the choice in each group."""

    module: nn.Module
    verdict: Verdict
    structure: Structure
    choice: Choice


@dataclass(frozen=True)
class _Trial:
    """Puts thinnings of one network to the gate."""

    subject: Subject
    choose: Choose
    trials: Any  # a bar

    @property
    def model(self) -> nn.Module:
        return self.subject.model

    def __call__(self, attempt: Attempt) -> Found:
        self.trials.update()
        choice, reading = self.choose(attempt), attempt.structure
        kept = choice.kept
        cut = channel_map(reading, kept, named_tensors(self.model))
        found = twins(reading, kept)
        cut = replace(cut, copies=found.copies, gains=found.gains, computed=self.subject.computed)
        guessed = guessed_attributes(self.model, cut, reading, kept)
        if attempt.careful:  # a width may stand under any name, such as `self.h = heads`; one of two that are equal
            freely = guessed_attributes(self.model, cut, reading, kept, freely=True)
            readings: list[Callable[[], dict[str, Any]]] = [
                lambda: guessed,
                lambda: freely,
                lambda: self._needed(cut, freely),
            ]
        else:  # what was taken for a width may be none
            readings = [lambda: self._needed(cut, guessed), lambda: guessed, dict]
        known, tried = known_attributes(self.model, cut), []
        refused: Found | None = None
        for read in readings:
            attributes = read()
            if attributes not in tried:
                tried.append(attributes)
                judged = self._silenced(replace(cut, attributes=known | attributes), reading, choice)
                if not judged.verdict.reason:
                    return judged
                refused = refused or judged
        assert refused is not None
        return refused

    def _silenced(self, cut: ChannelMap, reading: Structure, choice: Choice) -> Found:
        """Return what is found with the silences that make fusing exact, or without any where none do."""
        products = of_products(reading, choice.kept)
        tempered = of_products(reading, choice.kept, tempered=True)
        found = self._judged(replace(cut, silences=products), reading, choice)
        if products and found.verdict.exact:  # a wrong temperature shows little where attention is flat
            other = self._judged(replace(cut, silences=tempered), reading, choice)
            nearer = other.verdict.preserve_distance < found.verdict.preserve_distance
            return other if other.verdict.exact and nearer else found
        for silences in (tempered, (*products, *of_statistics(reading, choice.kept))):
            if found.verdict.exact or "does not run" in found.verdict.reason:
                break
            if silences != products:
                other = self._judged(replace(cut, silences=silences), reading, choice)
                found = other if other.verdict.exact or not other.verdict.reason else found
        return found

    def leanest(self, found: Found) -> Found:
        """Return the same thinning with no attribute changed that need not be."""
        cut = found.verdict.channel_map
        known = known_attributes(self.model, cut)
        guessed = {place: value for place, value in cut.attributes.items() if place not in known}
        left = self._needed(cut, guessed)
        if left == guessed:
            return found
        again = self._judged(replace(cut, attributes=known | left), found.structure, found.choice)
        return found if again.verdict.reason else again

    def exact_if_near(self, found: Found, attempt: Attempt) -> Found:
        """Return a thinning with other widths where that alone fuses exactly, about as near to what was asked."""
        tried = [found.choice.kept]
        for different in attempt.others():
            if found.verdict.exact:
                return found
            kept = self.choose(different).kept
            cut = channel_map(found.structure, kept, named_tensors(self.model))
            if any(np.array_equal(kept, others) for others in tried) or not self.alike(found, cut):
                continue
            tried.append(kept)
            other = self(different)
            if other.verdict.reason or not other.verdict.exact:
                continue
            if self.as_near(other, found):
                return other
        return found

    def as_near(self, found: Found, other: Found) -> bool:
        """Return whether a thinning comes as near to what was asked as another; about as near, if that is not exact."""
        slack = 0 if other.verdict.exact else math.log(WORTH)
        return self._away(found) <= self._away(other) + slack

    def _away(self, found: Found) -> float:
        asked = found.structure.trace.flops / 2 / batch_rows(*self.subject.arguments) * found.choice.share
        return abs(math.log(max(1, found.verdict.macs) / max(1, asked)))

    def alike(self, found: Found, cut: ChannelMap) -> bool:
        """Return whether another map leaves about as many parameters."""
        names, maps = dict(self.model.named_parameters()), (found.verdict.channel_map, cut)
        own, other = (sum(math.prod(each.tensors[name].proxy_shape) for name in names) for each in maps)
        return abs(math.log(own / other)) <= math.log(WORTH)

    def _needed(self, cut: ChannelMap, guessed: dict[str, Any]) -> dict[str, Any]:
        if self.subject.mentioned is not None:
            guessed = read_by(self.subject.mentioned, self.model, guessed)
        if not guessed:
            return guessed
        proxy = rebuild(self.model, replace(cut, attributes=known_attributes(self.model, cut) | guessed))
        return needed(self.model, proxy, guessed, self.subject.arguments)

    def _judged(self, cut: ChannelMap, reading: Structure, choice: Choice) -> Found:
        module = rebuild(self.model, cut)
        if choice.kept.all():  # there is nothing to judge
            macs = round(reading.trace.flops / 2 / batch_rows(*self.subject.arguments))
            verdict = Verdict("", cut, exact=True, macs=macs, sizes=self.subject.sizes)
            return Found(module, verdict, reading, choice)
        verdict = inspect(Candidate(module, cut, reading, choice.kept), self.subject)
        return Found(module, verdict, reading, choice)


@dataclass(frozen=True)
class Thinnable:
    """What of a network may be thinned: all but what is kept on request, of `parts` "interiors" no residual streams."""

    keep: Keep | Iterable[Keep] = ()
    parts: str = "all"


def widest(examined: Subject, thinnable: Thinnable, choose: Choose, *, progress: bool = False) -> Found:
    """Return the thinning of a network that removes most and passes the gate; it has no groups where nothing can go.

    All groups of channels are tried together first: as they are, then so that equal widths stay equal, then having
    watched the network train as well. Where the gate still refuses, the groups that it refuses are looked for by
    halving and kept whole, with its words as the reason.

    Args:
        examined: the network, its example inputs and more.
        thinnable: what of it may be thinned.
        choose: which channels of a reading stay.
        progress: see `prune`.

    Raises:
        PruningError: the network answers with NaN, or a rule that was registered does not fit.
    """
    with bar("prune", "trials", shown=progress) as trials:
        return _widest(_Trial(examined, choose, trials), thinnable)


def _widest(trial: _Trial, thinnable: Thinnable) -> Found:
    examined, found = trial.subject, None
    for attempt in _attempts(examined, thinnable):
        found = trial(attempt)
        if not found.verdict.reason:
            found = trial.exact_if_near(trial.leanest(found) if attempt.careful else found, attempt)
            stays = _made_uneven(found) or _heads_stay(found.structure)
            return (_inside(trial, thinnable, found) if stays else None) or found
        if not attempt.structure.trace.finite:
            raise PruningError(not_finite(examined.model, examined.given))
    assert found is not None  # the first reading raises where there is none
    inside = _inside(trial, thinnable, found) if found.structure.trace.atoms.heads else None
    if inside is not None:
        return inside
    largest = _by_halving(trial, found)
    if not largest.structure.groups:
        return largest
    return trial.exact_if_near(trial.leanest(largest), Attempt(largest.structure, equal_widths=True, careful=True))


def _inside(trial: _Trial, thinnable: Thinnable, refused: Found) -> Found | None:
    """Return what thinning the width of every attention head gives, if it fuses exactly and is about as thin.

    So it does where heads cannot leave: where the queries, keys and values of a single one share a tensor, or where
    several are as wide as a stream that statistics are taken over.
    """
    for attempt in _attempts_inside(trial.subject, thinnable):
        found = trial(attempt)
        if not found.verdict.reason:
            passed = not refused.verdict.reason
            near = trial.as_near(found, refused) if passed else trial.alike(found, refused.verdict.channel_map)
            return (trial.leanest(found) if attempt.careful else found) if found.verdict.exact and near else None
        if attempt.careful and "in train mode" not in found.verdict.reason:
            break
    return None


def _attempts_inside(examined: Subject, thinnable: Thinnable) -> Iterator[Attempt]:
    for train_mode in (False, True):
        try:
            watched = trace(examined.model, *examined.arguments, train_mode=train_mode, inside=True)
        except Exception:
            if train_mode:  # not on these inputs
                return
            raise
        reading = structure(watched, protected_axes(watched, examined.model, thinnable.keep), thinnable.parts)
        for careful in (True,) if train_mode else (False, True):
            yield Attempt(reading, equal_widths=True, careful=careful)


def _heads_stay(reading: Structure) -> bool:
    """Return whether attention heads, or the width of a single one, are kept whole."""
    frozen = reading.components[FROZEN]
    planes = reading.trace.atoms.heads
    return any(bool((reading.components[plane.clamp(min=FROZEN).numpy()] == frozen).any()) for plane in planes)


def _made_uneven(found: Found) -> bool:
    """Return whether fusing would be exact if the widths that statistics are taken over were as asked."""
    if found.verdict.exact:
        return False
    reading, choice = found.structure, found.choice
    groups = [(reading.groups[number], choice.asked[number]) for number in measured_together(reading)]
    widths = [(len(group.channels), int(choice.kept[group.channels].sum()), asked) for group, asked in groups]
    return any(full % asked == 0 and full % kept for full, kept, asked in widths)


def _attempts(examined: Subject, thinnable: Thinnable) -> Iterator[Attempt]:
    seen = examined.trace
    protected = protected_axes(seen, examined.model, thinnable.keep)
    for pads_stay in (False, True) if seen.atoms.padded else (False,):
        reading = structure(seen, protected, thinnable.parts, pads_stay=pads_stay)
        for equal_widths in (False, True):
            yield Attempt(reading, equal_widths, careful=False)
    elsewhere = examined.confirmed.elsewhere
    try:
        also = elsewhere.arguments if elsewhere else None
        seen = trace(examined.model, *examined.arguments, train_mode=True, also=also)
    except PruningError:  # a rule that was registered does not fit
        raise
    except Exception:  # whatever a user's code raises in train mode
        return
    protected = protected_axes(seen, examined.model, thinnable.keep)
    yield Attempt(structure(seen, protected, thinnable.parts, pads_stay=True), equal_widths=True, careful=True)


def _by_halving(trial: _Trial, refused: Found) -> Found:
    """Return the thinning of those groups that the gate lets pass together; the others get a reason.

    Large parts are tried before small ones, so that most is thinned even if the trials run out. What is refused alone
    may pass with others of its width: code that takes one for the other needs both to be thinned.
    """
    order = sorted(refused.structure.groups, key=lambda group: group.axes[0][0].start)
    best = replace(refused, structure=replace(refused.structure, groups=[]))
    parts = deque(_halves(order) if len(order) > 1 else [order])
    alone: list[tuple[Group, str]] = []
    trials = 0
    while parts and trials < MOST_TRIALS:
        part = parts.popleft()
        trials += 1
        found = trial(_with(best, part))
        if not found.verdict.reason:
            best = found
        elif len(part) == 1:
            cause = found.verdict.reason
            if "does not run" in cause:
                cause += written_widths(trial.model, part)
            alone.append((part[0], f"cannot be thinned: {cause}"))
        else:
            parts.extend(_halves(part))
    for family in _of_one_width([group for group, _ in alone])[: MOST_TRIALS - trials]:
        found = trial(_with(best, family))
        if not found.verdict.reason:
            best = found
            alone = [(group, why) for group, why in alone if group not in family]
    untried = [(group, f"was not tried, after {MOST_TRIALS} others") for part in parts for group in part]
    for group, why in (*alone, *untried):
        best = _without(best, group, why)
    return best


def _with(found: Found, part: list[Group]) -> Attempt:
    """Return what to try with some groups more, carefully."""
    reading = replace(found.structure, groups=[*found.structure.groups, *part])
    return Attempt(reading, equal_widths=True, careful=True)


def _of_one_width(groups: list[Group]) -> list[list[Group]]:
    """Return those groups that fill dimensions of the same size, where there are several."""
    families = alike([{size for size, _ in group.whole_axes()} for group in groups])
    return [[groups[number] for number in sorted(family)] for family in families if len(family) > 1]


def _halves(groups: list[Group]) -> list[list[Group]]:
    half = -(-len(groups) // 2)
    return [groups[:half], groups[half:]]


def _without(found: Found, group: Group, reason: str) -> Found:
    axes = found.structure.trace.atoms.axes
    numbers = [axes.index(axis) for axis, _ in group.axes]
    reasons = {**found.structure.reasons, **{n: found.structure.reasons.get(n, reason) for n in numbers}}
    return replace(found, structure=replace(found.structure, reasons=reasons))
