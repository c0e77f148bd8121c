"""`Parts`: a pool in parts that this process holds, without any engine: what engines are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from .. import checks
from .answered import Answers, joined
from .asking import Asking, Batch, Table, Worker
from .choosing import Held
from .ids import Ids, shard_of


class Parts:
    """A `Pool` of batches in this process, as many workers as there are taking turns.

    Args:
        batches: dicts of columns, arrays [b ...].
        table: where the ids stand.
        workers: each has a network of its own, as on an engine.
    """

    def __init__(self, batches: Sequence[Batch], table: Table, *, workers: int = 1) -> None:
        what = "a list of dicts of columns, one for each part"
        if not isinstance(batches, Sequence) or not all(isinstance(batch, Mapping) for batch in batches):
            raise checks.refused("batches", batches, what)
        self.batches = batches
        self.table = checks.instance("table", table, Table, "a prunefuse_al.pooled.Table(id, input)")
        self.workers = checks.whole("workers", workers, least=1)

    def ids(self) -> Iterator[Ids]:
        """See `Pool`."""
        yield from map(self.table.ids, self.batches)

    def answers(self, asking: Asking) -> Iterator[Answers]:
        """See `Pool`."""
        workers = [Worker(asking) for _ in range(self.workers)]
        for number, batch in enumerate(self.batches):
            yield workers[number % self.workers](batch)

    @contextmanager
    def held(self, asking: Asking) -> Iterator[Held]:
        """See `Pool`."""
        yield _Kept(list(self.answers(asking)))


class _Kept:
    def __init__(self, answers: Iterable[Answers]) -> None:
        self.answers = [part for part in answers if len(part)]

    def shards(self, function: Callable[[Answers, int], Answers], shards: int) -> Iterator[Answers]:
        for shard in range(shards):
            rows = joined(part.take(shard_of(part.ids, shards) == shard) for part in self.answers)
            if len(rows):
                yield function(rows, shard)

    def parts(self, function: Callable[[Answers], float]) -> Iterator[float]:
        yield from map(function, self.answers)
