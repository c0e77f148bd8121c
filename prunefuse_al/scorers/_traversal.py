"""The lazy farthest-first traversal behind `k_center`.

Distances only shrink as centres are added, so the distance to some of the centres bounds the distance to all of them.
A sample is compared with further centres only while that bound says that it may be next: many samples and centres in
one matrix product, each pair once, and most pairs never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ._distances import Frame, Points, lower_minima

FRONT = 2048
"""At first, how many samples, those with the highest bounds, are compared with the centres they have not seen."""
HOT = 1024
"""How many samples at most are kept up to date with every pick."""
BLOCK = 4096
"""Samples in one matrix product."""
CHUNK = 512
"""Centres in one matrix product."""
_TAKEN = -1.0


class Centres:
    """What distances are taken to: rows given from outside, then rows of the features in the order they were added."""

    def __init__(self, features: Tensor, given: Tensor, frame: Frame, capacity: int) -> None:
        self.features, self.given, self.frame, self.count = features, given, frame, 0
        self._rows = torch.empty(capacity, dtype=torch.int64, device=features.device)
        self._factors = torch.empty(capacity, features.shape[1] + 2, device=features.device)
        for block in given.split(BLOCK):
            self._append(frame.centres(block))

    def __getitem__(self, place: slice) -> Points:
        """Return consecutive centres, all given from outside or none."""
        raw = self.given[place] if place.start < len(self.given) else self.features[self._rows[place]]
        return Points(raw, self._factors[place])

    def add(self, rows: Tensor) -> None:
        """Add rows of the features, int64 [b]."""
        for block in rows.split(BLOCK):
            self._rows[self.count : self.count + len(block)] = block
            self._append(self.frame.centres(self.features[block]))

    def chunks(self, start: int) -> Iterator[slice]:
        """Yield what is in one matrix product, from centre `start` to the last."""
        while start < self.count:
            end = len(self.given) if start < len(self.given) else self.count
            yield slice(start, min(start + CHUNK, end))
            start = min(start + CHUNK, end)

    def _append(self, new: Points) -> None:
        self._factors[self.count : self.count + len(new)] = new.factors
        self.count += len(new)


@dataclass(frozen=True)
class _Bound:
    """What the samples left out of a front do not exceed: `value`, and those that have it stand after `position`."""

    value: float = _TAKEN
    position: int = -1

    def passed(self, values: Tensor, positions: Tensor) -> Tensor:
        """Return, bool [b], who comes before every sample left out."""
        return (values > self.value) | ((values == self.value) & (positions <= self.position))


class Traversal:
    """Positions stand for rows, in the order of preference among ties; `order` None means that of the rows.

    Invariant: `values` [n], float64, is each position's exact squared distance to the nearest of its first `seen`
    centres, so not below that to all of them; `_TAKEN` where it cannot be picked.
    """

    def __init__(self, centres: Centres, known: Tensor, order: Tensor | None) -> None:
        n, device = len(centres.features), centres.features.device
        self.centres, self.order, self.left = centres, order, n - len(known)
        self.values = torch.full((n,), math.inf, dtype=torch.float64, device=device)
        self.values[known if order is None else order.argsort()[known]] = _TAKEN
        self.seen = torch.zeros(n, dtype=torch.int32, device=device)
        centres.add(known)

    def run(self, k: int, told: Callable[[int], object] = int) -> Tensor:
        """Return the next `k` positions, int64 [k]; `told` hears how many more there are, again and again."""
        picked: list[int] = []
        width = FRONT
        while len(picked) < k:
            front, bound = self._front(width)
            hot, bound = self._catch_up(front, bound)
            new = self._pick(hot, bound, k - len(picked))
            width = max(FRONT, width // 2) if new else 2 * width
            picked += new
            told(len(new))
        return torch.tensor(picked, device=self.values.device)

    def _front(self, width: int) -> tuple[Tensor, _Bound]:
        """Return the `width` positions with the highest bounds, ascending, and what the others do not exceed."""
        if width >= self.left:
            return (self.values != _TAKEN).nonzero()[:, 0], _Bound()
        front, value, last = _highest(self.values, width)
        return front, _Bound(value, last)

    def _catch_up(self, front: Tensor, bound: _Bound) -> tuple[Tensor, _Bound]:
        """Compare a front with the centres it has not seen; return the best `HOT` of it, and a bound of all others.

        A position is left as it is when it falls below `bound`, or below `HOT` others that have seen all centres.
        """
        values = self.values[front]
        stale = (self.seen[front] < self.centres.count) & (values > 0)
        level = _nth(values[~stale], HOT)
        by_value = front[stale][values[stale].argsort(descending=True)]
        # Those that lack the fewest centres come first: they soon tell how far down the others need to be followed.
        for block in by_value[self.seen[by_value].argsort(descending=True, stable=True)].split(BLOCK):
            self._follow(block, bound, level)
            done = (self.seen[front] == self.centres.count) | (self.values[front] <= 0)
            level = _nth(self.values[front[done]], HOT)
        values = self.values[front]
        hot = front[bound.passed(values, front) & (values >= level)]
        if len(hot) < HOT:  # then `level` is not above `bound`
            return hot, bound
        best, value, last = _highest(self.values[hot], HOT)
        return hot[best], _Bound(value, int(hot[last]))

    def _follow(self, block: Tensor, bound: _Bound, level: float) -> None:
        """Compare positions with the centres they have not seen, each until it falls below `bound` or `level`."""
        if not len(block):
            return
        rows, values = self._rows(block), self.values[block]
        for chunk in self.centres.chunks(int(self.seen[block].amin())):
            lower_minima(values, rows, self.centres[chunk], self.centres.frame)
            self.values[block] = values
            self.seen[block] = self.seen[block].clamp_min(chunk.stop)
            kept = (bound.passed(values, block) & (values >= level) & (values > 0)).nonzero()[:, 0]
            if not len(kept):
                return
            if len(kept) < len(block):
                block, rows, values = block[kept], rows[kept], values[kept]

    def _pick(self, hot: Tensor, bound: _Bound, k: int) -> list[int]:
        """Return up to `k` picks out of positions that are up to date, as long as the samples left out come after."""
        rows, values, picked = self._rows(hot), self.values[hot], list[int]()
        while len(picked) < k and len(hot):
            best = int(values.argmax())
            if not bound.passed(values[best], hot[best]):
                break
            picked.append(int(hot[best]))
            values[best] = _TAKEN
            self.left -= 1
            self.centres.add(self._row(hot[best : best + 1]))
            newest = slice(self.centres.count - 1, self.centres.count)
            lower_minima(values, rows, self.centres[newest], self.centres.frame)
            if len(picked) % 128 == 0:  # those that fell below the bound are left to a later front
                self._store(hot, values)
                kept = bound.passed(values, hot).nonzero()[:, 0]
                hot, rows, values = hot[kept], rows[kept], values[kept]
        self._store(hot, values)
        return picked

    def _store(self, positions: Tensor, values: Tensor) -> None:
        self.values[positions] = values
        self.seen[positions] = self.centres.count

    def _row(self, positions: Tensor) -> Tensor:
        return positions if self.order is None else self.order[positions]

    def _rows(self, positions: Tensor) -> Points:
        return self.centres.frame.samples(self.centres.features[self._row(positions)])


def _highest(values: Tensor, width: int) -> tuple[Tensor, float, int]:
    """Return where the `width` highest values are, ascending; the lowest of them; and where it is found last.

    Of equal values those that stand first are taken.
    """
    value = values.topk(width, sorted=False).values.amin()
    chosen = values > value
    equal = (values == value).nonzero()[:, 0][: width - int(chosen.sum())]
    chosen[equal] = True
    return chosen.nonzero()[:, 0], float(value), int(equal[-1])


def _nth(values: Tensor, n: int) -> float:
    """Return the `n`-th highest value, or minus infinity if there are fewer."""
    return float(values.topk(n, sorted=False).values.amin()) if len(values) >= n else -math.inf
