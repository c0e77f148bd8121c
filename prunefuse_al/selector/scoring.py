"""Scoring candidates with a network through any trainer: which rows are asked, what is read, who is picked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..counting import Call, PassCounter
from ..data import as_dataset, split_item, subset
from ..errors import InputError, NonFiniteError
from ..types import RngLike, Scorer, Selection, Signals, Trainer

CHUNK = 16_384
"""Rows read at once: what a pool of any size needs in memory is the signals of so many rows and one score per row."""

Int64s = np.ndarray[Any, np.dtype[np.int64]]
Float64s = np.ndarray[Any, np.dtype[np.float64]]
LOGITS = frozenset({"logits"})
_INFERRED = frozenset({"logits", "features", "mc_logits"})
_KNOWN = _INFERRED | {"labels", "labelled_features"}


def candidate_rows(candidates: Any, n: int) -> Tensor:
    """Return the row numbers, int64 [m], that `candidates` names in a pool of `n` rows.

    Args:
        candidates: row numbers, a boolean mask [n], or None for all rows.
        n: rows of the pool.

    Raises:
        InputError: a mask of another length, numbers that are not whole, outside the pool or repeated.
    """
    if candidates is None:
        return torch.arange(n)
    rows = np.asarray(candidates.cpu() if isinstance(candidates, Tensor) else candidates)
    if rows.size == 0:
        return torch.empty(0, dtype=torch.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise InputError(
            f"candidates has shape {rows.shape} and dtype {rows.dtype}; pass row numbers or a mask of length {n:,}"
        )
    if rows.dtype.kind == "b":
        if len(rows) != n:
            raise InputError(f"candidates is a mask of length {len(rows):,}, but the pool has {n:,} rows")
        return torch.from_numpy(np.flatnonzero(rows))
    outside = rows[(rows < 0) | (rows >= n)]
    if len(outside):
        raise InputError(
            f"candidates holds row {outside[0]}, but the pool has rows 0 to {n - 1:,} ({len(outside):,} outside)"
        )
    if len(np.unique(rows)) < len(rows):
        raise InputError(f"candidates holds {len(rows) - len(np.unique(rows)):,} repeated rows; name each one once")
    return torch.from_numpy(rows.astype(np.int64))


def check_needs(scorer: Scorer) -> frozenset[str]:
    """Return what a scorer reads, or raise `InputError` if that cannot be had from a trained network."""
    unknown = sorted(frozenset(scorer.needs) - _KNOWN)
    if unknown:
        raise InputError(
            f"{type(scorer).__name__} needs {', '.join(unknown)}, which a pool cannot be asked for here; "
            f"known: {', '.join(sorted(_KNOWN))}"
        )
    return frozenset(scorer.needs)


def point_scores(scorer: Any, trainer: Trainer, model: nn.Module, data: Any, rows: Tensor) -> Tensor:
    """Return the scores, float [m], of `rows` of `data`, computed chunk by chunk."""
    needs = check_needs(scorer)
    return torch.cat([scorer.score(signals).detach().cpu() for signals in _chunks(trainer, model, data, rows, needs)])


def read_signals(trainer: Trainer, model: nn.Module, data: Any, rows: Tensor, needs: frozenset[str]) -> Signals:
    """Return the signals of `rows` of `data`, row by row in that order."""
    parts = list(_chunks(trainer, model, data, rows, needs))
    if len(parts) == 1:
        return parts[0]

    def joined(name: str, dim: int = 0) -> Tensor | None:
        return None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts], dim)

    return Signals(rows, joined("logits"), joined("features"), joined("mc_logits", 1), joined("labels"))


def _chunks(trainer: Trainer, model: nn.Module, data: Any, rows: Tensor, needs: frozenset[str]) -> Iterator[Signals]:
    asked = needs & _INFERRED | (LOGITS if "labels" in needs else frozenset())
    for chunk in rows.split(CHUNK):
        try:
            signals = replace(trainer.infer(model, subset(data, chunk), asked), indices=chunk)
        except NonFiniteError as error:  # the trainer counts rows within the chunk; name them as the caller does
            bad = list(islice(_nonfinite(trainer, model, data, chunk, asked), 5))
            raise NonFiniteError(f"rows {bad} of the data are the first that give NaN or infinity; {error}") from error
        if "labels" in needs and signals.logits is not None:  # what the network believes: a pool has no labels
            signals = replace(signals, labels=signals.logits.argmax(1))
        yield signals


def _nonfinite(trainer: Trainer, model: nn.Module, data: Any, rows: Tensor, needs: frozenset[str]) -> Iterator[int]:
    """Yield the rows for which the network cannot be used, by halving."""
    try:
        trainer.infer(model, subset(data, rows), needs)
    except NonFiniteError:
        if len(rows) == 1:
            yield int(rows)
            return
        for half in rows.tensor_split(2):
            yield from _nonfinite(trainer, model, data, half, needs)


def first_call(trainer: Trainer, model: nn.Module, data: Any) -> Call:
    """Return what `model` is called with for two rows of `data`, after the trainer's transforms and conversions."""
    counter = PassCounter()
    hook = model.register_forward_pre_hook(counter.hook(), with_kwargs=True)
    try:
        trainer.infer(model, subset(data, range(min(2, len(data)))), LOGITS)
    finally:
        hook.remove()
    if not counter.calls:
        raise InputError(
            f"{type(trainer).__name__}.infer did not call the network, so its input is not known; pass example_inputs="
        )
    return next(iter(counter.calls.values()))


def probabilities(signals: Signals) -> Float64s:
    """Return the softmax of the logits, float64 [n c]; rows sum to 1."""
    assert signals.logits is not None  # the caller asked for them
    result: Float64s = signals.logits.double().softmax(1).numpy()  # [n c]
    return result


def with_passes(trainer: Trainer, mc_samples: int | None) -> Trainer:
    """Return `trainer`, or where `mc_samples` is given a copy that makes so many passes for the signal "mc_logits"."""
    if mc_samples is None:
        return trainer
    if not hasattr(trainer, "mc_samples"):
        raise InputError(f"{mc_samples} passes are asked of {type(trainer).__name__}, which has no `mc_samples` to set")
    passing: Any = copy.copy(trainer)  # its parts may hold open devices, so no deep copy
    passing.mc_samples = mc_samples
    return cast("Trainer", passing)


def select_known(scorer: Scorer, signals: Signals, k: int, rng: RngLike) -> Selection:
    """Return what `scorer` picks from signals that a host had, or raise `InputError` if it reads others."""
    if "labels" in scorer.needs and signals.labels is None and signals.logits is not None:
        signals = replace(signals, labels=signals.logits.argmax(1))
    lacking = [name for name in sorted(scorer.needs) if getattr(signals, name, None) is None]
    if lacking:
        given = [name for name in sorted(_KNOWN) if getattr(signals, name) is not None]
        raise InputError(
            f"{scorer!r} reads {', '.join(lacking)}, but all that was given here is {', '.join(given)}; "
            "let it ask a pruned proxy, or take a scorer that needs no more"
        )
    return scorer.select(signals, k, rng=rng)


def labelled_dataset(call: str, X: Any, y: Any, sample_weight: Any) -> Any:
    """Return X and y as a dataset whose items have labels, or raise `InputError`."""
    data = as_dataset(X, y, sample_weight=sample_weight)
    if split_item(data[0])[1] is None:
        raise InputError(f"{call}: the data has no labels; pass y, or a Dataset whose items are (input, label)")
    return data
