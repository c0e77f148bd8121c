"""Picking from a pool: everything that is checked and asked between `query` and the ranking."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..costs import CostLedger
from ..errors import InputError, NotFittedError
from ..network import Processes
from ..scorers import check_k, get_scorer, masks_in
from ..types import RngLike, Scorer, Selection, as_rng, statement
from .answers import OF_LABELLED, check_needs
from .candidates import candidate_rows, drawn
from .options import Options
from .ranking import Ranking
from .state import Trained
from .watching import known_of, traced


def pick(
    options: Options,
    ledger: CostLedger,
    state: Trained,
    pool: Any,
    k: int,
    candidates: Any = None,
    *,
    scorer: str | Scorer | None = None,
    rng: RngLike = None,
) -> tuple[Trained, Selection]:
    """Return the state, which may know more of the training now, and what a scorer picks with the trained proxy.

    Args:
        options: see `Options`.
        ledger: gets the rows, unless the call fails.
        state: with a trained proxy.
        pool: dataset.
        k: how many.
        candidates: see `PrunedProxySelector.query`.
        scorer: used instead of the options' own.
        rng: breaks ties and draws; None: derived from the seed and the round.

    Raises:
        InputError: the scorer, the candidates or what the scorer returned cannot be used; the ledger is as before.
        BudgetError: `k` is not between 1 and the number of candidates.
        NotFittedError: the scorer reads labelled samples, which are not in memory.
    """
    chosen = options.scorer if scorer is None else get_scorer(scorer)
    check_needs(chosen)
    if list(masks_in(chosen)):
        raise InputError(
            f"query: {chosen!r} learns a mask by training on given labels, and a pool has none: take loss_band, or "
            "call coreset() on labelled data"
        )
    rows = candidate_rows(candidates, len(pool))
    k = check_k("query", k, len(rows))
    generator = as_rng(options.seed("query", state.round) if rng is None else rng)
    rows = drawn(rows, k, options.candidate_fraction, generator)
    labelled = state.labelled
    if labelled is None and state.round and OF_LABELLED & chosen.needs:  # before the first fit nothing is labelled
        raise NotFittedError(
            "query: the labelled data is not in memory (it is neither saved nor pickled with a selector), and "
            f"{chosen!r} reads it; call fit(labelled, y) again"
        )
    processes = alike(options, rows, k, generator)
    with ledger.transaction():
        state, chosen = traced(options, ledger, state, chosen)
        ranking = Ranking(options, ledger, state, pool, labelled, known_of(state, chosen))
        picked = ranking.pick(chosen, rows, k, generator)
    return state, replace(of_first(processes, picked), considered=len(rows))


def alike(options: Options, rows: Tensor, k: int, rng: np.random.Generator) -> Processes:
    """Return the processes that pick k of `rows`, or raise `InputError` in all of them unless they are alike."""
    processes = Processes(statement(options.trainer).accelerator)
    processes.check_same("pick", candidates=rows, k=k, random_state=rng.bit_generator.state)
    return processes


def of_first(processes: Processes, picked: Selection) -> Selection:
    """Return the picks of the first process in all of them: what each worked out by itself may order ties otherwise."""
    scores = None if picked.scores is None else processes.of_first(picked.scores)
    return replace(picked, indices=processes.of_first(picked.indices), scores=scores)
