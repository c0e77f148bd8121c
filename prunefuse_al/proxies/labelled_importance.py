"""Measures of importance that read data: labelled rows, as the trainer hands them to the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..data import labels_of, subset
from ..network import of_trainer
from ..pruning import WITH_DATA
from ..training import Objective, Reader
from ..types import Trainer, statement
from .protocol import Task

ROWS = 256
"""Labelled rows that the loss is read on, drawn by the seed; each costs a pass of the dense network, there and back."""


def measured_on(importance: Any, task: Task, ratio: float) -> Any:
    """Return a measure of importance, with labelled data where it is the name of one that reads some.

    Args:
        importance: see `prune`, or a name in `pruning.WITH_DATA`.
        task: its seed draws at most `ROWS` rows of its data, its trainer converts them and states the loss.
        ratio: of the pruning.

    Raises:
        InputError: what the trainer calls the network with cannot be told.
    """
    measure = WITH_DATA.get(importance) if isinstance(importance, str) else None
    if measure is None or ratio == 0:
        return importance if measure is None else "l2"  # at ratio 0 all channels stay
    order = np.random.default_rng(task.seed("prune")).permutation(len(task.data))[:ROWS]
    rows = subset(task.data, np.sort(order))
    return measure(Reader(task.trainer, task.dense, rows).inputs(), labels_of(rows), _loss_of(task.trainer))


def _loss_of(trainer: Trainer) -> Any:
    """Return a trainer's loss as a function that is given labels as it takes them; None where it states none."""
    loss, outputs = statement(trainer).loss, of_trainer(trainer)
    if not callable(loss) and loss != "cross_entropy":
        return None

    def aligned(logits: Tensor, labels: Tensor) -> Tensor:
        objective = Objective(loss, logits, outputs)
        objective.asked.check(labels)
        return objective(logits, objective.asked.aligned(labels, logits))

    return aligned
