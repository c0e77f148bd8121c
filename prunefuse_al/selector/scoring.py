"""Scoring candidates with a network through any trainer: which rows are asked, what is read, who is picked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..counting import Call, PassCounter
from ..data import as_dataset, split_item, subset
from ..errors import InputError, NonFiniteError
from ..forward import as_logits
from ..types import RngLike, Scorer, Selection, Signals, Trainer, as_rng

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


def call_rng(random_state: RngLike, round: int, n: int) -> np.random.Generator:
    """Return the generator of one call for a pool of `n` rows: the same call draws the same.

    Another pool or round draws other numbers from the same number as seed.
    """
    if isinstance(random_state, int | np.integer):
        return np.random.default_rng([int(random_state), round, n])
    return as_rng(random_state)


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


def select_by_probability(
    scorer: Scorer, probabilities: Any, k: int, *, indices: Any = None, rng: RngLike = None
) -> Selection:
    """Return what a scorer of logits picks where nothing but class probabilities is known, of whatever classifier.

    Args:
        scorer: who picks; sees the logarithms, whose softmax gives the probabilities back.
        probabilities: of each candidate, [n c].
        k: how many.
        indices: what the candidates are called, [n]; None: their positions.
        rng: breaks ties and draws.

    Raises:
        InputError: the scorer reads more than logits.
    """
    if extra := sorted(frozenset(scorer.needs) - LOGITS):
        raise InputError(
            f"{scorer!r} reads {', '.join(extra)}, but of this classifier only class probabilities are known; "
            "use a PruneFuseEstimator, or a scorer of logits"
        )
    p = torch.from_numpy(np.asarray(probabilities, dtype=np.float64))  # [n c]
    names = torch.arange(len(p)) if indices is None else torch.as_tensor(np.asarray(indices))
    return scorer.select(Signals(names, logits=as_logits(p)), k, rng=rng)


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


def labelled_dataset(call: str, X: Any, y: Any, sample_weight: Any) -> Any:
    """Return X and y as a dataset whose items have labels, or raise `InputError`."""
    data = as_dataset(X, y, sample_weight=sample_weight)
    if split_item(data[0])[1] is None:
        raise InputError(f"{call}: the data has no labels; pass y, or a Dataset whose items are (input, label)")
    return data
