"""Asking a scorer, and looking at its answer: one of a user's own may return anything."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import PointScorer, RngLike, Scorer, Selection, Signals
from ._select import check_finite

_SHOWN = 5


def picks_of(scorer: Scorer, signals: Signals, k: int, rng: RngLike, *, progress: bool = False) -> Selection:
    """Return what `scorer` picks, with a bar if it has one and `progress` asks for it; see `checked_picks`."""
    own: Any = scorer.select
    shown = {"progress": True} if progress and "progress" in inspect.signature(own).parameters else {}
    return checked_picks(scorer, own(signals, k, rng=rng, **shown), signals.indices, k)


def checked_picks(scorer: Scorer, picked: Any, candidates: Tensor, k: int) -> Selection:
    """Return what a scorer picked, or raise unless it is a `Selection` of k different candidates.

    Args:
        scorer: who picked.
        picked: what it returned.
        candidates: int64 [n], who could be picked.
        k: how many were asked for.

    Raises:
        InputError: something else was returned, too few or too many, indices twice or of no candidate.
        NonFiniteError: scores with NaN or infinity.
    """
    if not isinstance(picked, Selection):
        raise _broken(scorer, f"returned {checks.shown(picked)}, a {type(picked).__name__}", k, len(candidates))
    indices = picked.indices.cpu()
    if len(indices) != k:
        raise _broken(scorer, f"gave {len(indices):,} indices", k, len(candidates))
    known, counts = indices.unique(return_counts=True)
    if len(twice := known[counts > 1]):
        raise _broken(scorer, f"gave {_some(twice)} more than once", k, len(candidates))
    if len(strange := indices[~torch.isin(indices, candidates.cpu())]):
        raise _broken(scorer, f"gave {_some(strange)}, which are no candidates", k, len(candidates))
    if picked.scores is not None:
        check_finite(_name(scorer), "the scores of picks", picked.scores, indices)
    return picked


def scores_of(scorer: PointScorer, signals: Signals) -> Tensor:
    """Return what `scorer` scores, floats [n], or raise unless they are one finite float for each sample.

    Raises:
        InputError: something else was returned.
        NonFiniteError: NaN or infinity, naming the samples.
    """
    given, n = scorer.score(signals), len(signals)
    needed = f"it must return one finite float for each of {n:,} samples, [n]: pass another scorer, or let it do so"
    try:
        scores = checks.array("score", given, "floats [n]")
    except InputError:
        found = f"{checks.shown(given)}, a {type(given).__name__}"
        raise InputError(f"{_name(scorer)}.score returned {found}; {needed}") from None
    if scores.shape != (n,) or not scores.is_floating_point():
        kind = str(scores.dtype).removeprefix("torch.")
        raise InputError(f"{_name(scorer)}.score returned {kind} {list(scores.shape)}; {needed}")
    check_finite(_name(scorer), "scores", scores, signals.indices)
    return scores


def _broken(scorer: Scorer, found: str, k: int, n: int) -> InputError:
    return InputError(
        f"{_name(scorer)}.select {found}; it must return a Selection of k={k:,} different indices among those of the "
        f"{n:,} candidates: pass what signals.indices holds there (prunefuse_al.testing.check_scorer tells more)"
    )


def _name(scorer: Scorer) -> str:
    return checks.shown(scorer)


def _some(indices: Tensor) -> str:
    shown = [*map(str, indices[:_SHOWN].tolist()), *["..."][: len(indices) > _SHOWN]]
    return f"{len(indices):,} ind{'ices' if len(indices) > 1 else 'ex'} ({', '.join(shown)})"
