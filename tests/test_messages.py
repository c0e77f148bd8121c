"""Bad input gets a sentence that says what was asked, what was found and what to do; and nothing is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import fakes
import numpy as np
import pytest
import scipy.sparse
import torch
from fakes import blobs, mlp, seeded
from torch import Tensor, nn

import prunefuse_al.errors as errors
from prunefuse_al.estimator import PruneFuseEstimator
from prunefuse_al.selector import PrunedProxySelector

X, Y = blobs(90)
BAD_X = X.clone()
BAD_X[[4, 71], 0] = torch.tensor([float("nan"), float("inf")])


trainer = partial(fakes.trainer, epochs=2, batch_size=64)
selector = partial(fakes.selector, trainer=trainer())


def fitted() -> PrunedProxySelector:
    return selector().fit(X, Y)


def convolution() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)))


def quantised() -> nn.Module:
    net = mlp(6, 16, 3)
    net[1] = torch.ao.nn.quantized.ReLU6()
    return net


PICTURES = torch.zeros(90, 1, 6, 6)

CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no prunable layer": (lambda: selector(mlp(6, 3)).fit(X, Y), errors.PruningError, r"nothing.*pruning_ratio=0"),
    "ratio of 1": (lambda: selector(pruning_ratio=1.0), errors.InputError, r"pruning_ratio=1\.0.*0 <= p < 1"),
    "ratio below 0": (lambda: selector(pruning_ratio=-0.5), errors.InputError, r"pruning_ratio=-0\.5"),
    "ratio as a word": (lambda: selector(pruning_ratio="half"), errors.InputError, "pruning_ratio='half'"),  # type: ignore[arg-type]
    "labels beyond the head": (lambda: selector().fit(X, Y + 9), errors.InputError, r"11.*3 outputs"),
    "labels below 0": (lambda: selector().fit(X, Y - 1), errors.InputError, "-1"),
    "empty pool": (lambda: fitted().query(X[:0], 1), errors.InputError, "0 rows"),
    "all labelled": (lambda: fitted().query(X, 1, np.zeros(90, bool)), errors.BudgetError, "nothing is left to label"),
    "k above the pool": (lambda: fitted().query(X, 91), errors.BudgetError, "k=91 but there are 90 candidates"),
    "k of 0": (lambda: fitted().query(X, 0), errors.BudgetError, "k=0.*ask for 1 to 90"),
    "NaN in labelled rows": (lambda: selector().fit(BAD_X, Y), errors.NonFiniteError, r"4, 71"),
    "NaN in the pool": (lambda: fitted().query(BAD_X, 3), errors.NonFiniteError, r"rows \[4, 71\]"),
    "NaN in what to predict": (lambda: fitted().predict_proba(BAD_X), errors.NonFiniteError, r"rows \[4, 71\]"),
    "channels": (lambda: selector(convolution()).fit(PICTURES, Y), errors.InputError, r"90|\[.*1, 6, 6\]"),
    "dtype": (lambda: selector(convolution()).fit(np.array([["a"]] * 90), Y), errors.InputError, "dtype"),
    "no labels": (lambda: selector().fit(X), errors.InputError, "no labels; pass y"),
    "no labels in a Dataset": (lambda: selector().fit(_Inputs()), errors.InputError, "no labels; pass y"),
    "lengths": (lambda: selector().fit(X, Y[:7]), errors.InputError, r"90.*7|7.*90"),
    "one class": (lambda: PruneFuseEstimator().fit(X, Y * 0), errors.InputError, "one class only"),
    "sparse": (lambda: selector().fit(scipy.sparse.eye(90, 6).tocsr(), Y), errors.InputError, r"Sparse.*toarray"),
    "TorchScript": (lambda: selector(_scripted()), errors.UnsupportedModelError, "TorchScript"),
    "quantised": (lambda: selector(quantised()), errors.UnsupportedModelError, "quantised"),
    "no module": (lambda: selector("resnet"), errors.UnsupportedModelError, "found str"),  # type: ignore[arg-type]
    "query before fit": (lambda: selector().query(X, 1), errors.NotFittedError, r"query: .*call fit"),
    "fuse before fit": (lambda: selector().fuse(), errors.NotFittedError, r"fuse: .*call fit"),
    "predict before fit": (lambda: selector().predict_proba(X), errors.NotFittedError, r"predict: .*call fit"),
    "estimator before fit": (lambda: PruneFuseEstimator().predict(X), errors.NotFittedError, r"call fit\(X, y\)"),
    "unknown scorer": (lambda: selector(scorer="entrophy"), errors.InputError, "did you mean 'entropy'"),
}


class _Inputs(torch.utils.data.Dataset[Tensor]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Tensor:
        return X[row]


def _scripted() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that scripting is going away
        return torch.jit.script(mlp(6, 16, 3))


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_words(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, errors.PruneFuseError)


BAD_CALLS: dict[str, Callable[[PrunedProxySelector], Any]] = {
    "labels": lambda s: s.fit(X, Y + 9),
    "NaN": lambda s: s.fit(BAD_X, Y),
    "shape": lambda s: s.fit(X[:, :4], Y),
    "no labels": lambda s: s.fit(X),
    "pool": lambda s: s.query(BAD_X, 3),
    "k": lambda s: s.query(X, 1000),
    "predict": lambda s: s.predict_proba(X[:, :4]),
    "target": lambda s: s.fit_target(BAD_X, Y),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_nothing_is_lost(name: str) -> None:
    chosen = fitted()
    weights, picked = copy.deepcopy(chosen.model.state_dict()), chosen.query(X, 5)
    rows = chosen.costs.rows()
    with pytest.raises(errors.PruneFuseError):
        BAD_CALLS[name](chosen)
    assert chosen.round == 1
    assert chosen.costs.rows() == rows
    torch.testing.assert_close(chosen.model.state_dict(), weights, rtol=0, atol=0)
    np.testing.assert_array_equal(chosen.query(X, 5), picked)
    assert len(chosen.fit_target().state_dict()) == 4  # the labelled data is still there too


class _Wrapped(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = mlp(6, 16, 3), kind

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return {"logits": logits, "hidden": x} if self.kind == "dict" else (logits, x)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_tuples_and_dicts_are_fine(kind: str) -> None:
    plain = fitted()
    wrapped = selector(_Wrapped(kind)).fit(X, Y)
    np.testing.assert_array_equal(wrapped.query(X, 7), plain.query(X, 7))
    np.testing.assert_allclose(wrapped.predict_proba(X), plain.predict_proba(X), atol=1e-6)
    target = wrapped.fit_target()
    assert isinstance(target(X), dict if kind == "dict" else tuple)


def test_a_loss_that_diverges_is_said_with_its_epoch() -> None:
    chosen = fitted()
    before = copy.deepcopy(chosen.model.state_dict())
    wild = selector(trainer=trainer(lr=1e30, epochs=5))
    with pytest.raises(errors.NonFiniteError, match=r"epoch [12]"):
        wild.fit(X, Y)
    assert wild.round == 0
    torch.testing.assert_close(chosen.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("data", "y", "message"),
    [
        (np.full((6, 2), np.nan), np.arange(6) % 2, "Input X contains NaN"),
        (np.zeros((6, 2)), np.arange(5) % 2, "inconsistent numbers of samples"),
        (np.zeros((6, 2)), None, "requires y to be passed"),
        (np.zeros((0, 2)), [], "0 sample"),
    ],
)
def test_the_estimator_speaks_scikit_learns_language(data: Any, y: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        PruneFuseEstimator().fit(data, y)
    with pytest.raises((ValueError, TypeError), match=message):
        PruneFuseEstimator(module=mlp(2, 8, 2)).fit(data, y)
