"""`select_over`: what one process would pick from a pool, picked from a pool that lies in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..data import as_dataset, labels_of
from ..errors import BudgetError, InputError
from ..scorers import (
    ClassBalanced,
    ClassStandardised,
    Composed,
    CostAware,
    Random,
    check_k,
    checked_picks,
    get_scorer,
)
from ..selector import LABELLED, OF_LABELLED, Asker, PrunedProxySelector, check_needs
from ..training import refuse_unread
from ..types import PointScorer, RngLike, Scorer, Selection, Signals
from .answered import Answers, joined
from .asking import Asking, Saved, Table
from .core_sets import CoreSet, composes, measure_of, why_not
from .ids import Ids, hashed, together
from .merging import best_of

SHARDS = 8
AT_ONCE = 20_000


class Held(Protocol):
    """What an engine keeps of the answers for a whole pool while it is picked from."""

    def shards(self, function: Callable[[Answers, int], Answers], shards: int) -> Iterator[Answers]:
        """Yield what a function makes of each shard, which comes in any order, and its number; see `ids.shard_of`."""
        ...

    def parts(self, function: Callable[[Answers], float]) -> Iterator[float]:
        """Yield what a function makes of the answers in whatever parts they lie, each row in one of them."""
        ...


class Pool(Protocol):
    """A pool in parts, as an engine has it."""

    def ids(self) -> Iterator[Ids]:
        """Yield the ids of all rows, part by part, checked."""
        ...

    def answers(self, asking: Asking) -> Iterator[Answers]:
        """Yield what workers answer, part by part, in any order; see `Worker`."""
        ...

    def held(self, asking: Asking) -> AbstractContextManager[Held]:
        """Keep what workers answer, where it is, for as long as the block lasts."""
        ...


@dataclass(frozen=True, eq=False)
class Picks:
    """What was picked from a pool in parts.

    Attributes:
        ids: the user's own, [k], best first, unique.
        scores: float [k], or None where the scorer has none.
        labels: which labels the scorer went by, see `Selection.labels`.
        considered: how many rows the pool has.
        measured: the "radius" of k centres over the pool, or the "potential" of BADGE, where that is what is picked by.
        shards: of how many shards core sets were made; None: the picks are those of all rows at once.
    """

    ids: Ids
    scores: Tensor | None = None
    labels: str | None = None
    considered: int | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    shards: int | None = None

    def __len__(self) -> int:
        return len(self.ids)


def select_over(
    pool: Pool,
    k: int,
    saved: Saved,
    table: Table,
    *,
    scorer: str | Scorer | None = None,
    labelled: Any = None,
    shards: int = SHARDS,
    at_once: int = AT_ONCE,
) -> Picks:
    """Return the k rows to label next of a pool in parts, the same however it is parted.

    Scorers of single samples: the best of each part, merged, which is exact; of equal scores the lower id comes first.
    `ClassBalanced` and `ClassStandardised` of these: scores and classes of all rows are gathered, and then it is exact.
    Others look at many rows at once: up to `at_once` rows are gathered and picked from as one process does, of a larger
    pool `KCenter`, `Badge` and `MLBadge` pick by core sets (see `core_sets`), and the rest is refused. What is
    composed, as `TwoStage`, goes by its stages. Features travel, and are compared, in half precision.

    Args:
        pool: the engine's.
        k: how many, 1 to the number of rows.
        saved: whose proxy is asked; its own scorer picks unless `scorer` is given.
        table: where ids and inputs stand.
        scorer: a name or an object.
        labelled: what is labelled, data with labels or (X, y), for scorers that read about it (`KCenter`, `CAL`, ...).
        shards: of core sets; picks depend on this number.
        at_once: rows that a process picks from at once; picks depend on whether the pool is larger.

    Raises:
        InputError: ids are missing, repeated or of mixed type; rows fail; the scorer cannot pick so.
        BudgetError: `k` is not between 1 and the number of rows.
        NonFiniteError: NaN or infinity in rows, which are named.
        CheckpointError: the file is damaged, or of another architecture than the factory makes.
    """
    checks.methods("pool", pool, ("ids", "answers", "held"), "a pool in parts, such as prunefuse_al.pooled.Parts(...)")
    checks.instance("table", table, Table, "a prunefuse_al.pooled.Table(id, input)")
    saved = checks.instance("saved", saved, Saved, "a prunefuse_al.pooled.Saved(file, model_factory)").pinned()
    k = _count(k)
    selector = saved.load()
    chosen = get_scorer(selector.options.scorer if scorer is None else scorer)
    _refuse(chosen, selector)
    ways = {
        "shards": checks.whole("shards", shards, least=1),
        "at_once": checks.whole("at_once", at_once, least=0),
    }
    seed = selector.options.seed("query", selector.round)
    beside = _about_labelled(chosen, selector, labelled)
    return _Choosing(pool, saved, table, beside, seed, **ways).picks(chosen, k)


def scoring(saved: Saved, table: Table, scorer: str | Scorer | None) -> Asking:
    """Return what is asked where the score of every row is wanted.

    Raises:
        InputError: the scorer gives no score for single rows, or goes by what is labelled.
    """
    saved = saved.pinned()
    selector = saved.load()
    chosen = get_scorer(selector.options.scorer if scorer is None else scorer)
    _refuse(chosen, selector)
    if not isinstance(chosen, PointScorer) or chosen.needs & OF_LABELLED:
        raise InputError(f"scorer: {chosen!r} gives no score for a row by itself; take one that does, such as margin")
    return Asking(saved, table, frozenset(chosen.needs), chosen)


@dataclass(frozen=True, eq=False)
class _Choosing:
    """One selection: where from, by whom it is answered, and how."""

    pool: Pool
    saved: Saved
    table: Table
    beside: Mapping[str, Any]
    seed: int
    shards: int
    at_once: int

    def picks(self, scorer: Scorer, k: int) -> Picks:
        """Return k of the pool."""
        if isinstance(scorer, PointScorer):
            return self._best(scorer, k, None)
        if _by_class(scorer):
            return self._by_class(scorer, k, None, np.random.default_rng(self.seed))
        ids = np.sort(together(list(self.pool.ids())))
        check_k("select", k, len(ids))
        return replace(self._of(scorer, ids, k, np.random.default_rng(self.seed)), considered=len(ids))

    def _of(self, scorer: Scorer, ids: Ids, k: int, rng: RngLike, only: Ids | None = None) -> Picks:
        """Return k of the rows called `ids`, sorted, which are those of the pool unless `only` says so."""
        if isinstance(scorer, Composed):
            return self._composed(scorer, ids, k, rng)
        if isinstance(scorer, Random):
            order = np.argsort(hashed(ids, int(np.random.default_rng(rng).integers(2**62))), kind="stable")  # type: ignore[arg-type]
            return Picks(ids[order[:k]])
        if isinstance(scorer, PointScorer):
            return self._best(scorer, k, only)
        if _by_class(scorer):
            return self._by_class(scorer, k, only, rng)
        return self._at_once(scorer, k, only, rng) if len(ids) <= self.at_once else self._core_sets(scorer, k, only)

    def _best(self, scorer: Scorer, k: int, only: Ids | None) -> Picks:
        answers = self._gathered(self._asking(scorer, only, scores=scorer, top=k), k)
        best = best_of(answers, k)
        labels = "predicted" if "labels" in scorer.needs else None
        return Picks(best.ids, torch.from_numpy(best.columns["score"]), labels, len(answers.looked_at))

    def _by_class(self, scorer: Any, k: int, only: Ids | None, rng: RngLike) -> Picks:
        answers = self._gathered(self._asking(scorer, only, scores=scorer.scorer), k)
        signals = Signals(torch.arange(len(answers)), labels=torch.from_numpy(answers.columns["labels"]))
        picked = scorer.select_scored(torch.from_numpy(answers.columns["score"]), signals, k, rng=rng)
        return _named(answers, checked_picks(scorer, picked, signals.indices, k), scorer)

    def _composed(self, scorer: Composed, ids: Ids, k: int, rng: RngLike) -> Picks:
        stages: list[Picks] = []

        def pick(stage: Scorer, rows: Tensor, wanted: int, own: RngLike) -> Selection:
            some = ids[np.sort(rows.numpy())]
            only = some if len(some) < len(ids) else None
            stages.append(self._of(stage, some, wanted, own, only))
            return Selection(torch.from_numpy(np.searchsorted(ids, stages[-1].ids)))

        rows = torch.arange(len(ids))
        picked = _selected(checked_picks(scorer, scorer.compose(pick, rows, k, rng), rows, k))
        shards = next((stage.shards for stage in stages if stage.shards), None)
        labels = "predicted" if "labels" in scorer.needs else None
        return Picks(ids[picked], labels=labels, shards=shards)

    def _at_once(self, scorer: Scorer, k: int, only: Ids | None, rng: RngLike) -> Picks:
        answers = self._gathered(self._asking(scorer, only), k)
        signals = answers.signals(self.beside)
        refuse_unread(scorer, signals)
        picked = checked_picks(scorer, scorer.select(signals, k, rng=rng), signals.indices, k)
        measure = measure_of(scorer, answers.take(_selected(picked)), self.beside)
        measured = {} if measure is None else {measure.name: measure.of_all(iter([measure.of_part(answers)]))}
        return replace(_named(answers, picked, scorer), measured=measured)

    def _core_sets(self, scorer: Scorer, k: int, only: Ids | None) -> Picks:
        if not composes(scorer):
            raise InputError(
                f"{scorer!r} cannot pick from more than at_once={self.at_once:,} rows in parts: {why_not(scorer)}; "
                f"take TwoStage('margin', {type(scorer).__name__}()), k_center or badge, or a larger at_once"
            )
        core = CoreSet(scorer, k, self.seed, self.beside)
        with self.pool.held(self._asking(scorer, only)) as held:
            union = joined(held.shards(core.of_shard, self.shards))
            refuse_unread(scorer, union.signals(self.beside))
            picked = core.of_union(union)
            measure = measure_of(scorer, picked, self.beside)
            measured = {} if measure is None else {measure.name: measure.of_all(held.parts(measure.of_part))}
        return Picks(picked.ids, measured=measured, shards=self.shards)

    def _asking(self, scorer: Any, only: Ids | None, *, scores: Scorer | None = None, top: int | None = None) -> Asking:
        needs = frozenset(scorer.needs) - OF_LABELLED
        return Asking(self.saved, self.table, needs, scores, top, only, self.beside if scores is not None else {})

    def _gathered(self, asking: Asking, k: int) -> Answers:
        answers = joined(self.pool.answers(asking))
        check_k("select", k, len(answers.looked_at) if asking.only is None else len(asking.only))
        return answers


def _count(k: Any) -> int:
    try:
        return checks.whole("k", k, least=1)
    except InputError as error:
        raise BudgetError(f"select: {error}") from None


def _selected(picked: Selection) -> np.ndarray[Any, np.dtype[np.int64]]:
    return picked.arrays()[0]


def _named(answers: Answers, picked: Selection, scorer: Scorer) -> Picks:
    labels = "predicted" if "labels" in scorer.needs else None
    return Picks(answers.ids[_selected(picked)], picked.scores, labels, len(answers.looked_at))


def _by_class(scorer: Scorer) -> bool:
    return isinstance(scorer, ClassBalanced | ClassStandardised) and isinstance(scorer.scorer, PointScorer)


def _refuse(scorer: Scorer, selector: PrunedProxySelector) -> None:
    """Raise `InputError` for what cannot be done over parts, with the reason."""
    needs = check_needs(scorer)
    if "dynamics" in needs:
        raise InputError(
            f"{scorer!r} reads training dynamics, which are of the labelled data and of the process that trained; over "
            "parts of a pool take a scorer of one look, such as margin, or coreset() of a selector"
        )
    if any(isinstance(part, CostAware) for part in (scorer, *getattr(scorer, "parts", ()))):
        raise InputError(
            f"{scorer!r} finds costs by row number, and rows of a pool in parts have ids: give a scorer of your own "
            "that reads the cost, or divide the scores by a column of costs"
        )
    if selector.options.candidate_fraction < 1:
        raise InputError(
            f"candidate_fraction={selector.options.candidate_fraction} draws row numbers, and rows of a pool in parts "
            "have ids: set it to 1, and let the engine sample"
        )


def _about_labelled(scorer: Scorer, selector: PrunedProxySelector, labelled: Any) -> dict[str, Any]:
    """Return the fields of signals about what is labelled that a scorer reads."""
    pair = isinstance(labelled, tuple) and len(labelled) == 2
    data = None if labelled is None else as_dataset(*labelled) if pair else as_dataset(labelled)
    needs = frozenset(scorer.needs) & OF_LABELLED
    if not needs or (data is None and not selector.round):
        return {}
    if data is None:
        raise InputError(
            f"labelled: {scorer!r} reads {', '.join(sorted(needs))}, and a selector's file holds no data: pass what is "
            "labelled, labelled=(X, y)"
        )
    asked = {name: about for name, about in LABELLED.items() if name in needs}
    found: dict[str, Any] = {}
    if asked:
        signals = Asker(selector).ask(data, frozenset(asked.values()))
        found = {name: getattr(signals, about)[: len(data)] for name, about in asked.items()}
    if "labelled_features" in found:
        found["labelled_features"] = found["labelled_features"].half()
    if "labelled_labels" in needs:
        labels = labels_of(data)
        if labels is None:
            raise InputError(f"labelled: {scorer!r} reads the labels of it, and it has none: pass labelled=(X, y)")
        found["labelled_labels"] = labels
    return found
