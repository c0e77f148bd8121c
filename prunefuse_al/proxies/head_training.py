"""Who trains a head on features: the selector's trainer without what is for inputs, or a solver of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ..data import ArrayDataset, batches
from ..errors import InputError
from ..network import collect, of_trainer
from ..types import Signals, Statement, Trainer, alterable, altered, statement

OF_INPUTS = ("transform", "eval_transform", "collate")
"""What a trainer states for inputs of the network, and not for features."""
_ROWS = 4096
_RARE = 5.0


def on_features(trainer: Trainer) -> Trainer:
    """Return a trainer as it is, without what it does to inputs."""
    said = statement(trainer)
    changes = {name: None for name in OF_INPUTS if getattr(said, name) is not None and alterable(trainer, name)}
    changed: Trainer = altered(trainer, **changes) if changes else trainer
    return changed


def with_labels(features: ArrayDataset, data: Any) -> ArrayDataset:
    """Return features [m d] with the labels, and weights, of the data that they are of."""
    read = [(y, w) for _, _, y, w in batches(data, _ROWS, collate=_no_inputs)]
    labels, weights = (torch.cat(part) if part[0] is not None else None for part in zip(*read, strict=True))
    return ArrayDataset(features.x, labels, weights)


def _no_inputs(inputs: list[Any]) -> Tensor:
    return torch.zeros(len(inputs))


@dataclass(frozen=True, eq=False)
class FeatureAsker:
    """Asks a head about features, as `signals.collect` asks networks; trains nothing.

    Attributes:
        trainer: of the network: states what its outputs are, where networks work, and the passes with dropout.
    """

    trainer: Trainer

    def statement(self) -> Statement:
        """Return what the trainer states, but for what is done to inputs."""
        return replace(statement(self.trainer), **dict.fromkeys(OF_INPUTS))

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> Any:
        """Raise `InputError`: it is there to ask."""
        raise InputError("a head on features is trained by Probe; ask for fit of the trainer itself")

    def infer(self, model: nn.Module, data: Any, needs: Iterable[str]) -> Signals:
        """Return the signals in `needs` for every row of `data`."""
        said = statement(self.trainer)
        place = said.device if said.accelerator is None else said.accelerator.device
        passes = {} if said.mc_samples is None else {"mc_samples": said.mc_samples}
        device = "auto" if place is None else place
        return collect(model, data, needs, batch_size=_ROWS, device=device, outputs=of_trainer(self.trainer), **passes)


@dataclass(frozen=True, eq=False)
class LogisticTrainer:
    """Fits a linear layer by multinomial logistic regression of scikit-learn, on features brought to one scale.

    Classes without labels get a logit below all others of the labelled rows.

    Attributes:
        trainer: of the network: its loss must be cross entropy.
        C: as of `LogisticRegression`, of features with deviation 1.
    """

    trainer: Trainer
    C: float = 0.01

    def __post_init__(self) -> None:
        loss = statement(self.trainer).loss
        plain = isinstance(loss, nn.CrossEntropyLoss) and loss.weight is None and not loss.label_smoothing
        if loss not in (None, "cross_entropy") and not plain:
            raise InputError(
                f"head='logistic' minimises cross entropy of classes, and the trainer's loss is {loss!r}: pass "
                "head='linear', or a trainer with loss='cross_entropy'"
            )

    def statement(self) -> Statement:
        """Return what the trainer states, but for what is done to inputs."""
        return replace(statement(self.trainer), **dict.fromkeys(OF_INPUTS))

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> Any:
        """Set the weights of a linear layer to what fits features and labels; returns the solver.

        Raises:
            InputError: labels are no numbers of classes, or not at least two classes.
        """
        assert isinstance(model, nn.Linear)
        X, y, w = _columns(data, model.out_features)
        scaler = StandardScaler().fit(X, sample_weight=w)
        weight = getattr(self.trainer, "class_weight", None)
        weight = dict(enumerate(weight)) if isinstance(weight, list | tuple | np.ndarray | Tensor) else weight
        solver = LogisticRegression(C=self.C, max_iter=5000, class_weight=weight).fit(scaler.transform(X), y, w)
        coefficients, biases = _of_classes(solver)
        coefficients = coefficients / scaler.scale_
        biases = biases - coefficients @ scaler.mean_
        rare = float((X @ coefficients.T + biases).min()) - _RARE
        found, offsets = np.zeros((model.out_features, X.shape[1])), np.full(model.out_features, rare)
        found[solver.classes_], offsets[solver.classes_] = coefficients, biases
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(found))
            if model.bias is not None:
                model.bias.copy_(torch.from_numpy(offsets))
        return solver

    def infer(self, model: nn.Module, data: Any, needs: Iterable[str]) -> Signals:
        """Return the signals in `needs` for every row of `data`."""
        return FeatureAsker(self.trainer).infer(model, data, needs)


def fits(y: Tensor | None, classes: int) -> TypeGuard[Tensor]:
    """Tell whether labels are numbers of classes, 0 to `classes` - 1, and more than one of them."""
    if y is None or y.is_floating_point() or y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= classes:
        return False
    return len(y.unique()) > 1


def _of_classes(solver: LogisticRegression) -> tuple[Any, Any]:
    """Return coefficients [c d] and offsets [c] of each class; of two, the solver has those of the second alone."""
    if len(solver.classes_) > 2:
        return solver.coef_, solver.intercept_
    sides = np.array([-0.5, 0.5])
    return sides[:, None] * solver.coef_, sides * solver.intercept_


def _columns(data: ArrayDataset, classes: int) -> tuple[Any, Any, Any]:
    """Return features, labels and weights of each row as arrays."""
    X, y, w = data.x.double().numpy(), data.y, data.sample_weight
    if y is None or y.is_floating_point() or y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= classes:
        raise InputError(
            f"head='logistic' takes labels that are the number of a class, 0 to {classes - 1}; pass head='linear' for "
            "others"
        )
    if len(y.unique()) < 2:
        raise InputError(
            f"head='logistic' tells classes apart, and all {len(y):,} labels are {int(y[0])}: pass head='linear', or "
            "label another class first"
        )
    return X, y.numpy(), None if w is None else w.numpy()
