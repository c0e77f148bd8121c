"""What a trainer states about itself, and how others ask it to be otherwise: by methods, or by attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp
from torch import nn

from prunefuse_al import Distillation, PrunedProxySelector, ShrinkPerturb, TorchTrainer
from prunefuse_al.errors import InputError
from prunefuse_al.types import Statement, alterable, altered, epochs_of, statement

X, Y = blobs(60)


class Stating:
    """Trains as a `TorchTrainer` does, and has none of its attributes."""

    alterable = frozenset({"epochs", "lr_scale", "distillation"})

    def __init__(self, inner: TorchTrainer) -> None:
        self.__inner = inner
        self.asked: list[dict[str, Any]] = []

    def fit(self, model: nn.Module, data: Any, **options: Any) -> Any:
        return self.__inner.fit(model, data, **options)

    def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Any:
        return self.__inner.infer(model, data, needs)

    def statement(self) -> Statement:
        return replace(statement(self.__inner), batch_size=7)

    def altered(self, **changes: Any) -> Stating:
        self.asked.append(changes)
        other = Stating(altered(self.__inner, **changes))
        other.asked = self.asked
        return other


def test_attributes_are_a_statement() -> None:
    said = statement(TorchTrainer(4, batch_size=9, loss="cross_entropy"))
    assert (said.epochs, said.batch_size, said.loss, said.accelerator) == (4, 9, "cross_entropy", None)
    assert statement(object()).epochs is None
    assert (epochs_of(TorchTrainer(4)), epochs_of(object())) == (4, None)


def test_a_method_goes_before_attributes() -> None:
    own = Stating(TorchTrainer(4))
    assert (statement(own).batch_size, epochs_of(own)) == (7, 4)
    assert alterable(own, "epochs")
    assert not alterable(own, "mc_samples")


def test_what_is_no_statement_is_refused() -> None:
    class Wrong(Stating):
        def statement(self) -> Any:
            return {"epochs": 3}

    with pytest.raises(InputError, match=r"Wrong\.statement\(\)={'epochs': 3}; pass a Statement"):
        PrunedProxySelector(mlp(6, 16, 3), trainer=Wrong(TorchTrainer(2)))


def test_a_trainer_that_states_is_as_good_as_one_with_attributes() -> None:
    inner = TorchTrainer(4, progress=False, device="cpu")
    options: dict[str, Any] = {"warm_start": ShrinkPerturb(epochs=2), "distillation": Distillation(0.3)}
    options |= {"random_state": 0, "scorer": "margin"}
    plain = PrunedProxySelector(mlp(6, 16, 3), trainer=inner, **options)
    own = Stating(inner)
    stating = PrunedProxySelector(mlp(6, 16, 3), trainer=own, **options)
    for chosen in (plain, stating):
        chosen.fit(X[:40], Y[:40]).fit(X, Y)
    np.testing.assert_array_equal(plain.query(X, 9), stating.query(X, 9))
    pairs = zip(plain.fit_target().state_dict().values(), stating.fit_target().state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert [set(changes) for changes in own.asked] == [{"epochs"}, {"distillation", "lr_scale"}]
