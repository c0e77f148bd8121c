"""A new head on layers that know something, fitted before it is trained: linear probing, then fine-tuning."""

from __future__ import annotations

from torch import Tensor, nn

from ..data import ArrayDataset
from ..errors import InputError, UnsupportedModelError
from ..network import copied
from ..training import LOGITS
from .head_training import LogisticTrainer, fits, with_labels
from .probe_head import head_of
from .protocol import AnyProxy, Task


def with_first_head(task: Task, start: AnyProxy) -> nn.Module:
    """Return a copy of a proxy whose head is fitted to its features of what is labelled, where that can be.

    A new head on layers that know something sends them gradients that say little, and they forget (Kumar et al., 2022);
    so a repaired proxy is trained from the head that fits what it knows: logistic regression. A head that answers
    already stays, as do heads that are no linear layer, or whose labels are not the number of a class.
    """
    network = copied(start.module)
    try:
        trainer, head = LogisticTrainer(task.trainer), head_of(task).of(network)
        with task.ledger.stage("head", round=task.round, network="proxy") as stage:
            reader = task.reader(network)
            reader.watched(stage)
            said = reader.signals(None, LOGITS | {"features"})
            assert said.features is not None
            assert said.logits is not None
            data = with_labels(ArrayDataset(said.features), task.data)
            fit_first(trainer, head, data, said.logits)
    except (UnsupportedModelError, InputError):  # no head that this can be done to, or a trainer that shows no features
        return copied(start.module)
    return network


def fit_first(trainer: LogisticTrainer, head: nn.Linear, data: ArrayDataset, logits: Tensor) -> None:
    """Fit a head to features and labels, unless its logits answer already or labels are not the number of a class."""
    if fits(data.y, head.out_features) and not _answers(logits, data.y):
        trainer.fit(head, data)


def _answers(logits: Tensor, y: Tensor) -> bool:
    """Tell whether logits are right more often than half-way between the commonest class and always."""
    right = float((logits.argmax(1).cpu() == y).double().mean())
    return right > (1 + float(y.bincount().max()) / len(y)) / 2
