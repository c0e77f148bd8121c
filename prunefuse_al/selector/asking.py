"""Asking a network about rows of a dataset, through any trainer, with complaints that name those rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import Tensor, nn

from ..data import subset
from ..errors import NonFiniteError
from ..network import SOFTMAX, Outputs, of_trainer, seen_by_scorers
from ..types import Signals, Trainer


def ask(trainer: Trainer, model: nn.Module, data: Any, rows: Tensor, needs: frozenset[str]) -> Signals:
    """Return what `model` says about `rows` of `data`, int64 [b], which are its indices.

    Raises:
        NonFiniteError: NaN or infinity, naming the rows of `data`.
    """
    try:
        signals = replace(trainer.infer(model, subset(data, rows), needs), indices=rows)
    except NonFiniteError as error:  # the trainer counts rows within the part; name them as the caller does
        bad = list(islice(_nonfinite(trainer, model, data, rows, needs), 5))
        raise NonFiniteError(f"rows {bad} of the data are the first that give NaN or infinity; {error}") from error
    return seen_by_scorers(signals, of_trainer(trainer) or Outputs(SOFTMAX))


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
