"""How many channels of each group stay: the fraction asked, of every layer or of all, in widths that run well."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import checks
from .groups import Group, Structure
from .trace import Axis

VECTOR = 8  # channels: what a vector unit works on at once is a multiple of this
SLACK = 32  # by default a width moves by at most one part in so many


@dataclass(frozen=True)
class GlobalScope:
    """`scope="global"` with a floor of your own.

    Attributes:
        floor: share of every group of channels that stays at least, 0 <= floor < 1; one channel always stays. Where
            the ratio asked leaves less than that on average, the floor is what `scope="local"` would leave.

    Raises:
        InputError: the floor is out of range.
    """

    floor: float = 0.1

    def __post_init__(self) -> None:
        what = "the share of the channels that stays at least, 0 <= floor < 1"
        checks.settle(self, floor=checks.number("GlobalScope: floor", self.floor, least=0, below=1, what=what))


@dataclass(frozen=True, eq=False)
class Widths:
    """Channels of each group that stay: `asked` by the ratio (in parts of a head where heads leave), and `taken`."""

    asked: list[float]
    taken: list[int]


@dataclass(frozen=True)
class _Ladder:
    """Groups whose widths change together, in `steps` equal steps; `coarse` steps are several channels each."""

    members: tuple[int, ...]
    steps: int
    coarse: bool

    def rungs(self, round_to: int | None) -> np.ndarray:
        """Return the numbers of steps that may stay, int64, increasing up to all of them."""
        whole = np.arange(1, self.steps + 1)
        if self.coarse:
            return whole
        return np.unique([rounded(width, self.steps, round_to) for width in whole[:-1]] + [self.steps])


@dataclass(frozen=True)
class _Demand:
    """What is asked of all groups together: the share to remove, the share of each that stays, see `rounded`."""

    ratio: float
    floor: float
    round_to: int | None


def check_ratio(name: str, ratio: float) -> float:
    """Return a pruning ratio, or raise `InputError` unless it is a number, 0 <= p < 1."""
    what = "the share of channels removed, 0 <= p < 1, for example 0.5"
    return checks.number(name, ratio, least=0, below=1, what=what)


def check_scope(name: str, scope: object) -> str | GlobalScope:
    """Return a scope, or raise `InputError` unless it is "local", "global" or a `GlobalScope`."""
    if isinstance(scope, GlobalScope):
        return scope
    if not isinstance(scope, str) or scope not in ("local", "global"):
        raise checks.refused(name, scope, '"local", "global" or a GlobalScope(...)')
    return scope


def check_round_to(name: str, round_to: int | None) -> int | None:
    """Return what widths are rounded to, or raise `InputError` unless it is a whole number from 1, or None."""
    return checks.maybe(checks.whole, name, round_to, least=1, what="a positive integer, for example 8")


def choose_widths(
    groups: Sequence[Group],
    scores: np.ndarray,
    ratio: float,
    *,
    scope: str | GlobalScope = "local",
    round_to: int | None = None,
    equal_widths: bool = False,
    fewer_blocks: bool = False,
    even: Collection[int] = (),
) -> Widths:
    """Return how many channels of each group stay.

    Args:
        groups: channels that compete.
        scores: importance of each component, comparable between groups; read by a global scope only.
        ratio: fraction of channels to remove, 0 <= ratio < 1.
        scope: "local" removes the fraction from every group. "global" removes it from all groups together, the
            weakest channels first; channels of equal importance leave every group in the same proportion.
        round_to: see `rounded`; whole heads are not rounded.
        equal_widths: dimensions of equal size in the dense network stay equal, in steps of the coarsest of them.
        fewer_blocks: of two numbers of heads, or of other steps, that are as near to what was asked, take the smaller.
        even: numbers of groups of which, where heads or other steps leave, a part stays that their width is a multiple
            of; with `equal_widths` also of all that fill dimensions of the same size. With a local scope alone.
    """
    full = [len(group.channels) for group in groups]
    if ratio == 0 or not groups:
        return Widths([*map(float, full)], full)
    if scope == "local":
        asked = [max(1, _floor(n * g.positions * (1 - ratio))) / g.positions for n, g in zip(full, groups, strict=True)]
        ladders = _ladders(groups, equal_widths)
        families = alike(_sizes(groups)) if equal_widths else [{number} for number in range(len(groups))]
        whole = set().union(*(family for family in families if not family.isdisjoint(even)))
        steps = [
            _even(ladder, ratio) if number in whole and ladder.coarse else _local(ladder, ratio, round_to, fewer_blocks)
            for number, ladder in enumerate(ladders)
        ]
        taken = [step * n // ladder.steps for step, ladder, n in zip(steps, ladders, full, strict=True)]
        return Widths(asked, _as_one(groups, taken, 1 - ratio) if equal_widths else taken)
    floor = scope.floor if isinstance(scope, GlobalScope) else GlobalScope().floor
    demand = _Demand(ratio, floor, 1)
    plain = _compete(groups, _ladders(groups, False), scores, demand)
    joined = _joined(groups, _ladders(groups, equal_widths)) if equal_widths else _ladders(groups, False)
    taken = _compete(groups, joined, scores, replace(demand, round_to=round_to))
    return Widths([*map(float, plain)], _as_one(groups, taken) if equal_widths else taken)


def kept_channels(structure: Structure, scores: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Return bool [components]: the best channels of each group, of equal ones the first, and all that is no channel.

    Args:
        structure: groups of channels.
        scores: importance of each component.
        widths: channels of each group that stay.
    """
    kept = np.ones(len(scores), dtype=bool)
    for group, width in zip(structure.groups, widths, strict=True):
        order = np.argsort(-scores[group.channels], kind="stable")
        kept[group.channels[order[width:]]] = False
    return kept


def asked_sizes(structure: Structure, asked: Sequence[float], unmet: Mapping[int, float]) -> dict[tuple[str, int], int]:
    """Return (tensor, dimension) -> the size that was asked for it, at least 1.

    Args:
        structure: groups of channels.
        asked: channels of each group that were asked to stay.
        unmet: axis number -> share of it that was asked to stay, where something else keeps what is in no group.
    """
    gone: dict[Axis, float] = defaultdict(float)
    owned: dict[Axis, int] = defaultdict(int)
    for group, width in zip(structure.groups, asked, strict=True):
        for axis, count in group.axes:
            gone[axis] += count * (len(group.channels) - width)
            owned[axis] += count * len(group.channels)
    return {
        (axis.name, axis.dim): max(
            1, _floor(axis.size - gone[axis] - (axis.size - owned[axis]) * (1 - unmet.get(i, 1)))
        )
        for i, axis in enumerate(structure.trace.atoms.axes)
    }


def rounded_blocks(structure: Structure, asked: Sequence[float], kept: np.ndarray) -> Iterator[tuple[Axis, str]]:
    """Yield the first axis of each group of blocks, such as heads, that could not be cut as asked, and the words.

    Args:
        structure: groups of channels.
        asked: channels of each group that were asked to stay.
        kept: bool [components], which channels stay.
    """
    for group, share in zip(structure.groups, asked, strict=True):
        left, full = int(kept[group.channels].sum()), len(group.channels)
        if group.block and abs(left - share) > 0.49:
            what = f"leaves in whole blocks, such as heads: {left} of {full} stay where {share:.3g} were asked"
            yield group.axes[0].axis, f"{what} (in part)" if left < full else what


def rounded(width: int, full: int, round_to: int | None) -> int:
    """Return the width taken where `width` of `full` channels are asked.

    Args:
        width: channels asked, 1 to `full`.
        full: channels of the dense network.
        round_to: take the nearest multiple of this, never 0; layers narrower than it, and all layers with 1, stay as
            asked. None takes the nearest multiple of 8 where that changes the width by at most a thirty-second and
            still thins the layer: narrow layers keep what was asked, wide ones fill vector units at no cost.
    """
    if round_to is None:
        near = round(width / VECTOR) * VECTOR
        return near if near < full and abs(near - width) * SLACK <= width else width
    if round_to == 1 or full < round_to:
        return width
    return min(full, max(round_to, round(width / round_to) * round_to))


def _floor(width: float) -> int:
    return math.floor(width + 1e-9)  # widths that are whole in decimals are not lost to rounding


def _local(ladder: _Ladder, ratio: float, round_to: int | None, fewer_blocks: bool) -> int:
    """Return how many steps stay: int(n * (1 - p)), as in the paper, rounded; the nearest number of coarse ones.

    Nearest is by ratio, as work goes with widths multiplied: of three heads two stay where one and a half are asked;
    with `fewer_blocks` one.
    """
    share = ladder.steps * (1 - ratio)
    if ladder.coarse and fewer_blocks:
        return max(1, math.ceil(share - 0.5 - 1e-9))
    if ladder.coarse:
        below = max(1, _floor(share))
        return below + int(share / below > (below + 1) / share)
    return rounded(max(1, _floor(share)), ladder.steps, round_to)


def _as_one(groups: Sequence[Group], taken: list[int], share: float | None = None) -> list[int]:
    """Return the widths where heads of different kinds that make up one width together stay as wide as what equals it.

    So do heads that look through windows of different sizes. Of parts of one size as many heads stay, and in all as
    near to the share as that allows, by ratio; what fills dimensions as wide as the whole keeps the same part of it.

    Args:
        groups: channels that compete.
        taken: channels of each that would stay.
        share: that is to stay of them; None: what stays on average.
    """
    found = list(taken)
    for size, parts in _parted(groups):
        heads = [len(groups[number].channels) for number in parts]
        others = [
            number
            for number, among in enumerate(_sizes(groups))
            if size in among and len(groups[number].channels) % sum(heads) == 0
        ]
        family = [(groups[number], taken[number]) for number in (*parts, *others)]
        average = sum(g.positions * n for g, n in family) / sum(g.positions * len(g.channels) for g, _ in family)
        kept = _alike_in_size(heads, average if share is None else share)
        for number, n in zip(parts, heads, strict=True):
            found[number] = kept[n]
        for number in others:
            found[number] = len(groups[number].channels) // sum(heads) * sum(kept[n] for n in heads)
    return found


def _parted(groups: Sequence[Group]) -> list[tuple[int, list[int]]]:
    """Return the sizes of dimensions that several groups fill together, all heads of one width, and which groups."""
    owners: dict[Axis, list[int]] = defaultdict(list)
    filled: dict[Axis, int] = defaultdict(int)
    for number, group in enumerate(groups):
        for axis, count in group.axes:
            owners[axis].append(number)
            filled[axis] += count * len(group.channels)
    return [
        (axis.size, numbers)
        for axis, numbers in owners.items()
        if len(numbers) > 1
        and filled[axis] == axis.size
        and all(groups[number].block for number in numbers)
        and len({groups[number].positions for number in numbers}) == 1
    ]


def _alike_in_size(sizes: Sequence[int], share: float) -> dict[int, int]:
    """Return size of a part -> how many of it stay, at least 1, so that the sum is as near to the share as can be."""
    distinct = sorted(set(sizes))

    def away(left: Iterable[int]) -> tuple[float, float]:
        by_size = dict(zip(distinct, left, strict=True))
        total = sum(by_size[n] for n in sizes) / sum(sizes)
        return abs(math.log(total / share)), max(abs(math.log(k / n / share)) for n, k in by_size.items())

    near = [sorted({max(1, min(n, _floor(n * share) + step)) for step in (0, 1)}) for n in distinct]
    return dict(zip(distinct, min(itertools.product(*near), key=away), strict=True))


def _even(ladder: _Ladder, ratio: float) -> int:
    """Return how many steps stay, of those that all are a multiple of: the nearest number by ratio."""
    share = ladder.steps * (1 - ratio)
    return min(
        (steps for steps in range(1, ladder.steps + 1) if ladder.steps % steps == 0),
        key=lambda steps: abs(math.log(steps / share)),
    )


def alike(sizes: Sequence[set[int]]) -> list[set[int]]:
    """Return the numbers of sets of sizes that hang together, because one has a size of the next."""
    families: list[tuple[set[int], set[int]]] = []
    for number, own in enumerate(sizes):
        members, among = {number}, set(own)
        apart = []
        for others, their in families:
            if among & their:
                members, among = members | others, among | their
            else:
                apart.append((others, their))
        families = [*apart, (members, among)]
    return [members for members, _ in families]


def _compete(groups: Sequence[Group], ladders: Sequence[_Ladder], scores: np.ndarray, demand: _Demand) -> list[int]:
    """Return the width of each group when all compete.

    What competes are rungs: the channels by which a ladder's next width exceeds the one below. They are taken best
    first until what stays is nearest to what was asked.
    """
    ratio, floor, round_to = demand.ratio, demand.floor, demand.round_to
    ranked = [np.sort(scores[group.channels])[::-1] * group.positions for group in groups]
    columns = []
    for number, ladder in enumerate(ladders):
        rungs = ladder.rungs(round_to)
        least = max(1, min(math.ceil(floor * ladder.steps - 1e-9), _floor(ladder.steps * (1 - ratio))))
        below = np.concatenate([[0], rungs[:-1]])
        cost, worth = np.zeros(len(rungs)), np.zeros(len(rungs))
        for i in ladder.members:
            ends = rungs * len(ranked[i]) // ladder.steps
            sizes = np.diff(ends, prepend=0)
            cost += sizes * groups[i].positions
            worth += np.where(sizes > 0, np.add.reduceat(ranked[i], ends - sizes), 0)
        middle = (rungs + below) / 2 / ladder.steps
        columns.append(np.stack([np.full(len(rungs), number), cost, worth / cost, middle, below < least]))
    owner, cost, worth, middle, fixed = np.concatenate(columns, axis=1)
    # In single precision, so that scores that differ by rounding errors tie; ties are shared out among all groups.
    worth = (worth / (np.abs(worth).max() or 1)).astype(np.float32)
    order = np.lexsort((middle, -worth, -fixed))
    stays = np.cumsum(cost[order])
    count = 1 + int(np.abs(stays - _floor(stays[-1] * (1 - ratio))).argmin())
    chosen = order[: max(count, int(fixed.sum()))]
    levels = np.bincount(owner[chosen].astype(int), minlength=len(ladders))
    widths = [0] * len(groups)
    for ladder, level in zip(ladders, levels, strict=True):
        for i in ladder.members:
            widths[i] = max(1, int(ladder.rungs(round_to)[level - 1]) * len(groups[i].channels) // ladder.steps)
    return widths


def _ladders(groups: Sequence[Group], equal_widths: bool) -> list[_Ladder]:
    """Return one ladder for each group; with `equal_widths` in how many steps its width may change to stay equal."""
    finest: dict[int, int] = {}
    for group in groups:
        for size, count in group.whole_axes():
            finest[size] = min(finest.get(size, size), size // count)
    ladders = []
    for number, group in enumerate(groups):
        n = len(group.channels)
        options = [finest[size] for size, _ in group.whole_axes() if n % finest[size] == 0] if equal_widths else []
        steps = min([n, *options])
        ladders.append(_Ladder((number,), steps, group.block or steps != n))
    if not equal_widths:
        return ladders
    # What goes in the steps of heads is counted as heads are, or the two would not stay equal.
    sizes = _sizes(groups)
    coarse = {(size, own.steps) for own, among in zip(ladders, sizes, strict=True) if own.coarse for size in among}
    return [
        replace(own, coarse=own.coarse or any((size, own.steps) in coarse for size in among))
        for own, among in zip(ladders, sizes, strict=True)
    ]


def _sizes(groups: Sequence[Group]) -> list[set[int]]:
    return [{size for size, _ in group.whole_axes()} for group in groups]


def _joined(groups: Sequence[Group], ladders: Sequence[_Ladder]) -> list[_Ladder]:
    """Join the ladders of groups that fill dimensions of equal size, in the coarsest steps among them."""
    joined = []
    for members in map(tuple, map(sorted, alike(_sizes(groups)))):
        steps = min(ladders[i].steps for i in members)
        coarse = any(ladders[i].coarse or ladders[i].steps != steps for i in members)
        joined.append(_Ladder(members, steps, coarse))
    return joined
