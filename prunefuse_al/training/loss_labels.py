"""What a loss asks of labels: checked before anything is trained, and given to it in the shape and type it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import describe_rows
from ..errors import InputError
from ..network import SIGMOID, SOFTMAX, VALUES, Outputs, name_of, of_loss, unwrapped

CLASSES, INDEPENDENT, NUMBERS, OWN = "classes", "independent", "numbers", "own"
_SUM = 1e-3
"""How far the probabilities of a soft target may be from summing to 1: rows of half precision, or rounded by hand."""
_ONE_LOSS = "for labels of which a sample may have several, or none, pass TorchTrainer(loss=nn.BCEWithLogitsLoss())"


@dataclass(frozen=True)
class Asked:
    """What a loss asks of labels.

    Attributes:
        kind: `CLASSES`, numbers of classes; `INDEPENDENT`, 0 to 1 for every output; `NUMBERS`, one for every output;
            `OWN`, what a function of the user's own wants.
        soft: of `CLASSES`, also a probability for every class.
        loss: what it is called.
        row: the shape of one row of outputs: (c,), () or, at positions, (c, h, w).
        ignored: the number of no class, whose rows do not count.
        stated: it is said, or known of the loss, what the outputs are.
    """

    kind: str
    soft: bool
    loss: str
    row: tuple[int, ...]
    ignored: int | None
    stated: bool

    @classmethod
    def by(cls, loss: Any, outputs: Outputs | None, row: tuple[int, ...]) -> Asked:
        """Return what `loss` asks of labels where one row of outputs has the shape `row`.

        Raises:
            InputError: `outputs` say something else than the loss.
        """
        name, function = name_of(loss), unwrapped(loss)
        ignored, stated = getattr(loss, "ignore_index", None), outputs is not None
        soft = function is F.cross_entropy or isinstance(function, nn.CrossEntropyLoss)
        hard = function in (F.nll_loss, F.multi_margin_loss) or isinstance(function, nn.NLLLoss | nn.MultiMarginLoss)
        if function is F.soft_margin_loss or isinstance(function, nn.SoftMarginLoss):
            raise InputError(
                f"{name} takes labels of -1 and 1, which nothing else here does: pass nn.BCEWithLogitsLoss(), the same "
                "loss of labels 0 and 1"
            )
        if not soft and not hard:
            said = of_loss(loss) or outputs
            codes = name in ("MultiLabelMarginLoss", "multilabel_margin_loss")  # numbers of labels, filled up by -1
            kind = OWN if said is None or codes else {SIGMOID: INDEPENDENT, VALUES: NUMBERS}.get(said.kind, OWN)
            return cls(kind, False, name, row, ignored, stated)
        if outputs != Outputs(SOFTMAX):
            raise InputError(
                f"outputs={outputs.name if outputs else None!r}, but {name} is a loss of classes of which a sample has "
                "one, 'softmax': leave outputs= out, or pass a loss of such outputs, as nn.BCEWithLogitsLoss()"
            )
        return cls(CLASSES, soft, name, row, ignored, stated)

    def fits(self, labels: Tensor, outputs: Tensor) -> bool:
        """Tell whether outputs [n ...] of a network could be those that go with labels [n ...]."""
        if self.kind in (CLASSES, OWN) and labels.ndim == 1 and not labels.is_floating_point():
            return outputs.ndim == 2 and outputs.shape[1] > max(1, int(labels.max()))
        return self.kind != OWN and labels.shape[1:].numel() == outputs.shape[1:].numel()

    def check(self, labels: Tensor, rows: Tensor | None = None, total: int = 0) -> None:
        """Raise `InputError` unless the loss takes labels [n ...].

        Args:
            labels: of all rows, or of some.
            rows: which these are, int64 [n]; None: all.
            total: rows there are.
        """
        found = _Found(labels, torch.arange(len(labels)) if rows is None else rows, total or len(labels))
        if self.kind == CLASSES:
            self._check_classes(found)
        elif self.kind == INDEPENDENT:
            self._check_shape(found, "0 or 1 for each of them")
            found.refuse_nonfinite()
            found.refuse(
                (labels < 0) | (labels > 1),
                f"{self.loss} takes 0 or 1 for each output, or a probability between; labels outside 0 to 1",
                "encode them as 0 and 1",
            )
        elif self.kind == NUMBERS:
            self._check_shape(found, "a number for each of them")
            found.refuse_nonfinite()
        else:
            self._check_own(found)

    def _check_classes(self, found: _Found) -> None:
        labels, outputs = found.labels, self.row[0] if self.row else 1
        if outputs == 1:
            raise InputError(
                f"{self.loss} compares two outputs or more, and the network has 1 output: pass "
                "TorchTrainer(loss=nn.BCEWithLogitsLoss()) if its sigmoid is the probability of class 1, or a "
                "network with an output for each class"
            )
        if len(self.row) > 1:  # a class at every position
            if not labels.is_floating_point():
                self._check_numbers(labels, outputs)
        elif labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
            if labels.is_floating_point():
                found.refuse_nonfinite()
                raise InputError(
                    f"labels are {_kind(labels)}, one number per row, and {self.loss} wants numbers of classes: pass "
                    f"integers (y.astype(int)){', or soft targets [n c]' if self.soft else ''}"
                )
            self._check_numbers(labels, outputs)
        else:
            self._check_targets(found, outputs)

    def _check_numbers(self, labels: Tensor, outputs: int) -> None:
        if self.ignored is not None:
            labels = labels[labels != self.ignored]
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or high >= outputs:
            raise InputError(
                f"labels {low}..{high} found, the network has {outputs} outputs (labels 0..{outputs - 1}): "
                "re-encode the labels, or widen the network's last layer"
            )

    def _check_targets(self, found: _Found, outputs: int) -> None:
        """Raise unless there is a probability for every class, or 1 for one class and 0 for the others."""
        labels = found.labels
        if labels.shape[1:] != self.row:
            raise InputError(
                f"labels have shape {_rows_of(labels.shape[1:])} and the network's outputs {_rows_of(self.row)}: "
                f"{self.loss} takes the number of a class for each row{', or soft targets' * self.soft}"
            )
        found.refuse_nonfinite()
        off = (labels.double().sum(1) - 1).abs() > _SUM
        if zeros_and_ones(labels):
            found.refuse(
                off,
                f"{self.loss} takes one class for each row, and rows of 0 and 1 that do not sum to 1",
                _ONE_LOSS,
            )
        elif not self.soft or not labels.is_floating_point():
            raise InputError(
                f"labels are {_kind(labels)} {_rows_of(labels.shape[1:])}, and {self.loss} takes the number of a class "
                "for each row, [n]: pass y.argmax(1), if the largest is the class"
            )
        found.refuse(labels < 0, "soft targets below 0", "they must be probabilities")
        found.refuse(off, "soft targets that do not sum to 1", f"they must be probabilities; {_ONE_LOSS}")

    def _check_shape(self, found: _Found, needed: str) -> None:
        own = tuple(found.labels.shape[1:])
        if [size for size in own if size > 1] != [size for size in self.row if size > 1]:
            raise InputError(
                f"labels have shape {_rows_of(own)} and the network's outputs {_rows_of(self.row)}: {self.loss} takes "
                f"{needed}, in the shape of the outputs"
            )

    def _check_own(self, found: _Found) -> None:
        labels, outputs = found.labels, self.row[0] if self.row else 1
        if labels.ndim == 1:
            found.refuse_nonfinite()
            if outputs > 1 and len(self.row) == 1 and not labels.is_floating_point():
                self._check_numbers(labels, outputs)
        elif not self.stated and labels.shape[1:] == self.row and looks_independent(labels):
            raise InputError(
                f"labels {_rows_of(labels.shape[1:])} are 0 and 1 with rows that do not sum to 1, and nothing says "
                f"what outputs {self.loss} takes: pass TorchTrainer(outputs='sigmoid') if the labels are independent, "
                "so that they are scored so, or 'softmax' for classes of which a sample has one"
            )

    def numbers(self, labels: Tensor | None) -> Tensor | None:
        """Return the number of each row's class, int64 [n], of checked labels of all rows; None where there is none."""
        return None if labels is None else class_numbers(labels, independent=self.kind == INDEPENDENT)

    def aligned(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """Return checked labels [b ...] as the loss takes them beside outputs [b ...], so that it mixes no rows.

        Numbers of classes become int64 [b], rows with a single 1 among them; what is given for every output gets the
        shape of the outputs, and for independent labels their type.
        """
        exact = not labels.is_floating_point()
        if self.kind == OWN:
            column = exact and labels.ndim == outputs.ndim == 2 and labels.shape[1] == 1 < outputs.shape[1]
            return labels[:, 0] if column else labels
        if self.kind == CLASSES:
            if not exact:
                return labels
            if labels.ndim == outputs.ndim == 2:
                return labels[:, 0].long() if labels.shape[1] == 1 else labels.long().argmax(1)
            return labels.long()
        labels = labels.reshape(outputs.shape)
        return labels.to(outputs.dtype) if exact or self.kind == INDEPENDENT else labels


@dataclass(frozen=True, eq=False)
class _Found:
    """Labels [n ...], which rows they are of, and how many there are."""

    labels: Tensor
    rows: Tensor
    total: int

    def refuse(self, bad: Tensor, what: str, remedy: str) -> None:
        """Raise `InputError` if any of `bad` [n ...] is true, naming those rows."""
        wrong = bad.reshape(len(bad), -1).any(1).nonzero().flatten().cpu()
        if len(wrong):
            first = self.labels[int(wrong[0])].tolist()
            raise InputError(
                f"{what} are in {describe_rows(self.rows[wrong], self.total)}, for example {_short(first)}: {remedy}"
            )

    def refuse_nonfinite(self) -> None:
        """Raise `InputError` if any label is NaN or infinite."""
        if not self.labels.is_floating_point() or bool(self.labels.isfinite().all()):
            return
        bad = (~self.labels.isfinite()).reshape(len(self.labels), -1).any(1).nonzero().flatten().cpu()
        raise InputError(
            f"{len(bad):,} of {self.total:,} labels are NaN or infinite, the first in row {int(self.rows[bad[0]]):,}: "
            "train only on labelled rows"
        )


def zeros_and_ones(labels: Tensor) -> bool:
    """Tell whether all labels [n ...] are 0 or 1; on a device this waits for it."""
    return bool(((labels == 0) | (labels == 1)).all())


def class_numbers(labels: Tensor, *, independent: bool = False) -> Tensor | None:
    """Return the number of each row's class, int64 [n], in labels [n ...]; None where rows have none.

    Rows with a single 1 among zeros stand for its place. With `independent` one label of 0 or 1 a row is one of two
    classes, whatever its type and shape, and several are none.
    """
    if independent:
        hard = labels.shape[1:].numel() == 1 and zeros_and_ones(labels)
        return labels.reshape(len(labels)).long() if hard else None
    if labels.is_floating_point() or labels.ndim > 2:
        return None
    if labels.shape[1:].numel() == 1:
        return labels.reshape(len(labels)).long()
    one_hot = zeros_and_ones(labels) and bool((labels.sum(1) == 1).all())
    return labels.long().argmax(1) if one_hot else None


def looks_independent(labels: Tensor) -> bool:
    """Tell whether labels [n c] are 0 and 1, two or more a row, with rows that do not sum to 1."""
    if labels.ndim != 2 or labels.shape[1] < 2 or not zeros_and_ones(labels):
        return False
    return bool((labels.sum(1) != 1).any())


def _rows_of(shape: Any) -> str:
    return str(["n", *shape]).replace("'", "")


def _kind(labels: Tensor) -> str:
    return str(labels.dtype).removeprefix("torch.")


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
