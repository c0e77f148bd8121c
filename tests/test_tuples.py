"""What a tuple is: (X, y) where labelled data is asked for, several inputs of the network where it is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, seeded
from torch import Tensor, nn

from prunefuse_al.data.datasets import ArrayDataset, as_dataset, has_labels, labels_of, subset
from prunefuse_al.errors import InputError
from prunefuse_al.estimator import PruneFuseEstimator
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.training import FunctionTrainer, TorchTrainer

X, Y = blobs(90)
WEIGHTS = torch.linspace(0.5, 1.5, 90)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


class Pair(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(6, 8), mlp(16, 8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([self.left(a).relu(), self.right(b).relu()], 1))
        return logits


def trainer() -> TorchTrainer:
    return TorchTrainer(2, 16, transform=centred, eval_transform=centred, device="cpu", progress=False)


def selector(model: nn.Module | None = None, **options: Any) -> PrunedProxySelector:
    return PrunedProxySelector(model or mlp(6, 16, 3), 0.5, **{"trainer": trainer(), "random_state": 0, **options})


def weights(chosen: PrunedProxySelector) -> dict[str, Tensor]:
    return dict(chosen.model.state_dict())


@pytest.mark.parametrize(
    ("pair", "apart"),
    [
        (lambda s: s.fit((X, Y)), lambda s: s.fit(X, Y)),
        (lambda s: s.fit((X.numpy(), Y.numpy())), lambda s: s.fit(X, Y)),
        (lambda s: s.fit((X, Y, WEIGHTS)), lambda s: s.fit(X, Y, WEIGHTS)),
        (lambda s: s.fit((X, Y), sample_weight=WEIGHTS), lambda s: s.fit(X, Y, WEIGHTS)),
        (lambda s: s.coreset((X, Y), 0.5), lambda s: s.coreset(X, 0.5, Y)),
        (lambda s: s.coreset((X, Y), 0.5, sample_weight=WEIGHTS), lambda s: s.coreset(X, 0.5, Y, WEIGHTS)),
    ],
)
def test_labelled_data_may_be_one_tuple_as_for_a_trainer(pair: Callable[..., Any], apart: Callable[..., Any]) -> None:
    one, other = selector(), selector()
    pair(one)
    apart(other)
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    torch.testing.assert_close(one.fit_target().state_dict(), other.fit_target().state_dict(), rtol=0, atol=0)


def test_so_it_may_for_the_target() -> None:
    chosen = selector().fit(X[:40], Y[:40])
    one, other = chosen.fit_target((X, Y)), chosen.fit_target(X, Y)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


REFUSED: dict[str, tuple[Callable[[PrunedProxySelector], Any], str]] = {
    "four": (lambda s: s.fit((X, Y, WEIGHTS, WEIGHTS)), r"tuple of 4; a tuple must be \(X, y\)"),
    "one": (lambda s: s.fit((X,)), r"tuple of 1; a tuple must be \(X, y\)"),
    "weights twice": (lambda s: s.fit((X, Y, WEIGHTS), None, WEIGHTS), r"fit: the tuple of 3 .* twice"),
    "lengths": (lambda s: s.fit((X, Y[:7])), "X has 90 rows and y has 7 rows"),
    "two inputs, no labels": (lambda s: s.fit(ArrayDataset((X, X))), r"fit: the data has no labels; pass y"),
    "two inputs, no labels, target": (lambda s: s.fit_target(ArrayDataset((X, X))), r"fit_target: the data has no"),
    "pool with its labels": (
        lambda s: s.query((X, Y), 3),
        r"transform failed on a batch of 2 inputs, float32 \[90, 6\] and int64 \[90\].*fit\(X, y\).*query\(X, k\)",
    ),
    "prediction with labels": (lambda s: s.predict_proba((X, Y)), "transform failed on a batch of 2 inputs"),
    "labels beside a tuple that holds them": (
        lambda s: s.coreset((X, Y), 0.5, Y),
        r"transform failed on a batch of 2 inputs, float32 \[2, 6\] and int64 \[2\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_tuples_are_refused_in_words_and_nothing_is_lost(name: str) -> None:
    call, message = REFUSED[name]
    chosen = selector().fit(X, Y)
    before, picked, rows = copy.deepcopy(weights(chosen)), chosen.query(X, 5), chosen.costs.rows()
    with pytest.raises(InputError, match=message):
        call(chosen)
    assert chosen.round == 1
    assert chosen.costs.rows() == rows
    torch.testing.assert_close(weights(chosen), before, rtol=0, atol=0)
    np.testing.assert_array_equal(chosen.query(X, 5), picked)
    assert len(chosen.fit_target().state_dict()) == 4  # the labelled data is still there too


def test_a_first_fit_that_fails_leaves_nothing_behind() -> None:
    chosen = selector()
    with pytest.raises(InputError, match="no labels"):
        chosen.fit(ArrayDataset((X, X)))
    assert (chosen.round, len(chosen.costs), chosen.history) == (0, 0, None)


def test_a_transform_of_one_tensor_fails_as_ever() -> None:
    broken = TorchTrainer(1, transform=lambda x: x.nothing, device="cpu", progress=False)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        selector(trainer=broken).fit(X, Y)


def test_several_inputs_come_with_labels_beside_them_and_pools_without() -> None:
    plain = TorchTrainer(2, 16, device="cpu", progress=False)
    chosen = selector(seeded(Pair), trainer=plain).fit((X, X.flip(0)), Y)
    again = selector(seeded(Pair), trainer=plain).fit(((X, X.flip(0)), Y))
    np.testing.assert_array_equal(chosen.query((X, X.flip(0)), 5), again.query((X, X.flip(0)), 5))


def test_inputs_of_arrays_without_labels_have_none() -> None:
    """Their second input stands where a pair has its label."""
    bare = as_dataset((X, X.flip(0)))
    for dataset in (bare, subset(bare, [3, 1]), subset(subset(bare, range(9)), [2])):
        assert not has_labels(dataset)
        assert labels_of(dataset) is None
    paired = as_dataset(bare, Y)
    assert has_labels(paired)
    (a, b), y = paired[4]
    assert torch.equal(a, X[4])
    assert torch.equal(b, X[85])
    assert y == Y[4]


def test_a_function_that_reads_a_pool_gets_all_inputs_of_a_row() -> None:
    seen: list[Any] = []

    def infer(model: nn.Module, data: Any) -> Tensor:
        seen.append(data[0])
        a, b = (torch.stack(column) for column in zip(*(data[row] for row in range(len(data))), strict=True))
        logits: Tensor = model(a, b)
        return logits

    chosen = FunctionTrainer(lambda model, data: None, infer)
    logits = chosen.infer(seeded(Pair), as_dataset((X, X.flip(0))), {"logits"}).logits
    assert logits is not None
    assert logits.shape == (90, 3)
    assert torch.equal(seen[0][1], X[89])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.fit((X, Y)), r"fit: X is a tuple of 2 and y is None.*fit\(X, y\)"),
        (lambda e: e.partial_fit((X.numpy(), Y.numpy())), r"partial_fit: X is a tuple of 2 and y is None"),
        (lambda e: e.fit_target((X.numpy(), Y.numpy())), r"fit_target: X is a tuple of 2 and y is None"),
    ],
)
@pytest.mark.parametrize("module", [None, mlp(6, 16, 3)])
def test_the_estimator_asks_for_y_as_scikit_learn_does(call: Any, message: str, module: Any) -> None:
    est = PruneFuseEstimator(module, trainer=TorchTrainer(1, device="cpu", progress=False), random_state=0)
    est.fit(X.numpy(), Y.numpy())
    before = est.predict_proba(X.numpy())
    with pytest.raises(InputError, match=message):
        call(est)
    np.testing.assert_array_equal(est.predict_proba(X.numpy()), before)


@pytest.mark.parametrize("call", [lambda e, x: e.query(x, 3), lambda e, x: e.predict(x), lambda e, x: e.fit(x, Y)])
def test_a_table_is_one_array(call: Any) -> None:
    est = PruneFuseEstimator(trainer=TorchTrainer(1, device="cpu", progress=False), random_state=0)
    est.fit(X.numpy(), Y.numpy())
    with pytest.raises(InputError, match=r"X is a tuple of arrays \[90, 6\] and \[90\].*pass an array \[n d\]"):
        call(est, (X.numpy(), Y.numpy()))
    rows = tuple(X[:4].tolist())
    np.testing.assert_array_equal(est.predict(rows), est.predict(X[:4].numpy().astype(float)))
