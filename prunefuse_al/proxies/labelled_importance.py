"""Measures of importance that read data: rows, labelled or not, as the trainer hands them to the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..data import labels_of, subset
from ..network import of_trainer
from ..pruning import WITH_DATA, Activation
from ..training import Objective, Reader
from ..types import Trainer, statement
from .protocol import Task

ROWS = 256
"""Rows that are read, drawn by the seed; each costs a pass of the dense network, and back where the loss is read."""


def measured_on(importance: Any, task: Task, ratio: float, unlabelled: Any = None) -> Any:
    """Return a measure of importance, with data where it is the name of one that reads some.

    Args:
        importance: see `prune`, or a name in `pruning.WITH_DATA`.
        task: its seed draws at most `ROWS` rows of its data, its trainer converts them and states the loss.
        ratio: of the pruning.
        unlabelled: dataset for measures that read no labels; None: the data of the task.

    Raises:
        InputError: what the trainer calls the network with cannot be told.
    """
    measure = WITH_DATA.get(importance) if isinstance(importance, str) else None
    if measure is None or ratio == 0:
        return importance if measure is None else "l2"  # at ratio 0 all channels stay
    if issubclass(measure, Activation):
        return measure(_inputs(task, _drawn(task, task.data if unlabelled is None else unlabelled)))
    rows = _drawn(task, task.data)
    return measure(_inputs(task, rows), labels_of(rows), _loss_of(task.trainer))


def _drawn(task: Task, data: Any) -> Any:
    order = np.random.default_rng(task.seed("prune")).permutation(len(data))[:ROWS]
    return subset(data, np.sort(order))


def _inputs(task: Task, rows: Any) -> Any:
    return Reader(task.trainer, task.dense, rows).inputs()


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
