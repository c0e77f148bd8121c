"""Losses with class weights and sample weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError, PruneFuseError
from ..network import SIGMOID, SOFTMAX, VALUES, Outputs, describe, name_of, single
from .broadcasting import RowsApart
from .loss_labels import CLASSES, INDEPENDENT, OWN, Asked

Loss = Callable[[Tensor, Tensor], Tensor]
_WANTED = "'cross_entropy', or a function or module (logits, labels) -> scalar or [n]"


def check_loss(loss: Any) -> None:
    """Raise `InputError` unless `loss` can be one: a class, which would be called for an instance, cannot."""
    if not (isinstance(loss, str) and loss == "cross_entropy"):
        checks.function("loss", loss, _WANTED)


class Objective:
    """A loss over a batch: its own mean without weights, else the weighted mean of the loss of each row.

    Args:
        loss: "cross_entropy", or any function (logits, labels) -> scalar or [n]. A torch loss is copied, and with
            weights its copy is asked for `reduction="none"`.
        like: outputs [n ...] of the network: where, of which type and in which shape they will come.
        outputs: what they are; None where nothing says so.

    Attributes:
        asked: what the loss asks of labels.
        class_weights: float [c], or None; to be set.
    """

    def __init__(self, loss: str | Loss, like: Tensor, outputs: Outputs | None) -> None:
        check_loss(loss)
        own: Any = nn.CrossEntropyLoss() if isinstance(loss, str) else loss
        if isinstance(own, nn.Module):
            own = copy.deepcopy(own).to(like.device)
            if type(own).__module__ == nn.modules.loss.__name__:  # whose weights of classes may be of another type
                own = own.to(like.dtype)
        self.whole: Loss = own
        self.each: Loss = own
        if hasattr(own, "reduction"):
            self.each = copy.deepcopy(own)
            self.each.reduction = "none"  # type: ignore[attr-defined]
        self.name, self.outputs = name_of(own), outputs
        self.asked = Asked.by(own, outputs, tuple(like.shape[1:]))
        self.class_weights: Tensor | None = None

    @property
    def classes(self) -> int | None:
        """How many classes there are that could have weights; None where labels are independent, or are no classes."""
        row = self.asked.row
        if self.asked.kind == INDEPENDENT:
            return 2 if torch.Size(row).numel() == 1 else None
        return row[0] if self.asked.kind in (CLASSES, OWN) and row else None

    def __call__(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar, of logits [n ...] for labels as `asked.aligned` gives them and weights [n]."""
        weights = self.weights(y, w, logits)
        if weights is None:
            value = self._value(self.whole, logits, y)
            return value.mean() if value.ndim else value
        value = self._value(self.each, logits, y)
        if (value.ndim == 0 or len(value) != len(y)) and len(y) > 1:
            found = "one number" if value.ndim == 0 else f"shape {list(value.shape)}"
            raise InputError(
                f"the loss returns {found} for a batch of {len(y)}, so class or sample weights cannot enter it: "
                "return one value for each row, [n]"
            )
        return weighted_mean(value.reshape(len(y), -1).mean(dim=1), weights)

    def watched(self, logits: Tensor, y: Tensor, w: Tensor | None = None) -> Tensor:
        """Return the same of a first batch, and see to it that a function of the user's own pairs no row with others.

        Raises:
            InputError: outputs [n 1] meet labels [n], or the reverse, and were broadcast to [n n].
        """
        if self.asked.kind != OWN or logits[0].numel() != 1:
            return self(logits, y, w)
        with RowsApart(self.name, len(logits)):
            return self(logits, y, w)

    def check_ending(self, ending: str | None, like: Tensor) -> None:
        """Raise `InputError` where the network's last function and the loss do not go together.

        Args:
            ending: "softmax" or "sigmoid", what the network ends in; None: something else.
            like: some outputs [n ...].
        """
        takes_logs = self.name in _OF_LOGS and like.ndim > 1
        if takes_logs and bool(((sums := like.logsumexp(1)).abs() > _LOG_SUM).any()):
            raise InputError(
                f"{self.name} takes log-probabilities, and the probabilities of a row of the network's outputs sum to "
                f"{float(sums.flatten()[0].exp()):.3g}: end the network in log_softmax(1), or pass loss='cross_entropy'"
            )
        if ending is None or (self.outputs is not None and (self.outputs.squashed or self.outputs.kind == VALUES)):
            return
        if self.outputs is None:
            raise InputError(
                f"the network ends in a {ending}, and nothing says whether {self.name} takes probabilities: pass "
                f"TorchTrainer(outputs='{ending}_probabilities') if it does, or leave the {ending} out of the network"
            )
        raise InputError(
            f"the network ends in a {ending}, and {self.name} takes logits: it applies its own, and what has passed "
            f"both is never sure. Leave the {ending} out of the network, or pass TorchTrainer(outputs="
            f"{self.outputs.name!r}) if that is meant"
        )

    def weights(self, y: Tensor, w: Tensor | None, like: Tensor) -> Tensor | None:
        """Return the weight of each row, [n], or None where all count the same."""
        weights = None if w is None else w.to(like)
        if self.class_weights is None:
            return weights
        of = self.class_weights.to(like)
        if self.asked.kind == INDEPENDENT:  # then there are two classes
            one = y.reshape(len(y))
            return _times(of[0] * (1 - one) + of[1] * one, weights)
        if y.ndim != 1 or y.is_floating_point():
            raise InputError(
                f"class_weight weighs rows by the number of their class, and labels are {describe(y)}: leave it out, "
                "or pass the weights to the loss, as in nn.CrossEntropyLoss(weight=...)"
            )
        return _times(of[y.clamp_min(0)], weights)

    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return how many rows are answered right, in all their labels; NaN where the notion has no meaning."""
        outputs = self.outputs or Outputs(SOFTMAX)
        if self.asked.kind == INDEPENDENT and outputs.kind == SIGMOID and logits.ndim <= 2:
            found = logits > (0.5 if outputs.squashed else 0)
            right = (found == (y > 0.5)).reshape(len(y), -1).all(1).sum()
            return torch.where(((y == 0) | (y == 1)).all(), right.float(), torch.nan)
        classes = logits.ndim == 2 and logits.shape[1] > 1 and outputs.kind == SOFTMAX
        if not classes or y.ndim != 1 or y.is_floating_point():
            return torch.full((), torch.nan, device=logits.device)
        return (logits.argmax(dim=1) == y).sum()

    def answered(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of classes [b c] and class numbers [b] of a batch, for who records answers."""
        if self.outputs is not None and self.asked.kind == INDEPENDENT and single(logits):
            return self.outputs.seen(logits)[0], y.reshape(len(y)).long()
        return (logits if self.outputs is None else self.outputs.logits(logits)), y

    def _value(self, loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
        with self._explained(logits, y):
            value = loss(logits, y)
        if not isinstance(value, Tensor):
            raise checks.refused(
                f"loss: what {self.name} returned", value, "a loss that returns a tensor, one number or [n]"
            )
        return value

    @contextmanager
    def _explained(self, logits: Tensor, y: Tensor) -> Iterator[None]:
        """Turn a complaint of the loss into an `InputError` with what it was given, keeping the cause."""
        try:
            yield
        except (PruneFuseError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(
                f"the loss {self.name} failed on outputs {describe(logits)} and labels {describe(y)}: {error}. Pass "
                "labels as it takes them, or another loss"
            ) from error


_OF_LOGS = frozenset({"NLLLoss", "nll_loss", "KLDivLoss", "kl_div"})
_LOG_SUM = 0.05
"""How far the logarithm of the sum of a row's probabilities may be from 0; half precision is coarse."""


def _times(weights: Tensor, others: Tensor | None) -> Tensor:
    return weights if others is None else weights * others


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of values [n] under weights [n]; 0 where all weights are 0."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def class_weight_tensor(class_weight: Any, labels: Tensor | None, n_classes: int | None) -> Tensor | None:
    """Return the weight of every class, float [c].

    Args:
        class_weight: None; "balanced" (rows / (classes present * rows of the class), as scikit-learn has it); a mapping
            from class to weight (1 for the others); or a sequence of one weight for each of the network's outputs.
        labels: int64 [n], needed for "balanced".
        n_classes: outputs of the network, or 2 for a single one with a sigmoid; None where rows have no one class.

    Raises:
        InputError: an unknown form, an unknown class, or weights that are negative or not finite.
    """
    if class_weight is None:
        return None
    if n_classes is None:
        raise InputError(
            f"class_weight={class_weight!r} weighs rows by their class, and a row has not one class here: leave it "
            "out, or pass weights to the loss, as in nn.BCEWithLogitsLoss(pos_weight=...)"
        )
    if isinstance(class_weight, str):
        if class_weight != "balanced" or labels is None or labels.is_floating_point():
            raise InputError(f"class_weight={class_weight!r}; the one name is 'balanced', which needs integer labels")
        counts = torch.bincount(labels[labels >= 0], minlength=n_classes).double()
        return torch.where(counts > 0, counts.sum() / ((counts > 0).sum() * counts.clamp_min(1)), 1.0)
    weights = np.ones(n_classes)
    if isinstance(class_weight, Mapping):
        for label, weight in class_weight.items():
            if not 0 <= label < n_classes:
                raise InputError(f"class_weight names class {label!r}; the network has outputs 0..{n_classes - 1}")
            weights[int(label)] = weight
    else:
        weights = np.asarray(class_weight, dtype=np.float64)
    if weights.shape != (n_classes,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(
            f"class_weight={class_weight!r}; {n_classes} finite weights >= 0 are needed, one for each output"
        )
    return torch.as_tensor(weights)
