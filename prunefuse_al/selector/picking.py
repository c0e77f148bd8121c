"""Picking from a pool: everything that is checked and asked between `query` and the steps of a round."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..costs import CostLedger
from ..errors import NotFittedError
from ..scorers import check_k, get_scorer
from ..types import RngLike, Scorer, Selection, as_rng
from .options import Options, State
from .scoring import OF_LABELLED, candidate_rows, check_needs
from .steps import rank
from .watching import past_of, traced


def pick(
    options: Options,
    ledger: CostLedger,
    state: State,
    asked: tuple[Any, int, Any],
    *,
    scorer: str | Scorer | None,
    rng: RngLike,
    labelled: Any,
) -> tuple[State, Selection]:
    """Return what a scorer picks with the trained proxy, and the state, which may know more of the training now.

    Args:
        options: see `Options`.
        ledger: gets the rows, unless the call fails.
        state: with a trained proxy.
        asked: the pool, a dataset; how many; and the candidates, see `PrunedProxySelector.query`.
        scorer: used instead of the options' own.
        rng: breaks ties and draws; None: derived from the seed and the round.
        labelled: dataset of what is labelled; None where it is not in memory.

    Raises:
        InputError: the scorer, the candidates or what the scorer returned cannot be used; the ledger is as before.
        BudgetError: `k` is not between 1 and the number of candidates.
        NotFittedError: the scorer reads labelled samples, which are not in memory.
    """
    data, k, candidates = asked
    chosen = options.scorer if scorer is None else get_scorer(scorer)
    check_needs(chosen)
    rows = candidate_rows(candidates, len(data))
    k = check_k("query", k, len(rows))
    generator = as_rng(options.seed("query", state.round) if rng is None else rng)
    rows = drawn(rows, k, options.candidate_fraction, generator)
    if labelled is None and OF_LABELLED & chosen.needs:
        raise NotFittedError(
            "query: the labelled data is not in memory (it is neither saved nor pickled with a selector), and "
            f"{chosen!r} reads it; call fit(labelled, y) again"
        )
    with ledger.transaction():
        state, chosen = traced(options, ledger, state, chosen, labelled)
        picked = rank(options, ledger, state, chosen, (data, rows, k), labelled, generator, past_of(state, chosen))
    return state, replace(picked, considered=len(rows))


def drawn(rows: Tensor, k: int, fraction: float, rng: np.random.Generator) -> Tensor:
    """Return a random share of candidates, int64 [m], at least k of them, in their order; at 1 nothing is drawn."""
    size = max(k, math.ceil(fraction * len(rows)))
    if size >= len(rows):
        return rows
    return rows[torch.from_numpy(np.sort(rng.choice(len(rows), size, replace=False)))]
