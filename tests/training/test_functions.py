"""A user's own functions in the place of a trainer."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from fakes import PlainTrainer, assert_same_picks, blobs, mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prunefuse_al import Distillation, FunctionTrainer, PrunedProxySelector, TorchTrainer
from prunefuse_al.errors import FallbackWarning, InputError, NoEffectWarning
from prunefuse_al.network.signals import collect
from prunefuse_al.types import Signals, Trainer

X, Y = blobs(90)


def plain(model: nn.Module, data: Any) -> float:
    """A loop as people have it: shuffles by torch's global state, leaves the network in train mode."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()
    for _ in range(5):
        for x, y in DataLoader(data, 16, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
    return float(loss.detach())


def logits(model: nn.Module, data: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x) for x in DataLoader(data, 32)])


def signals(model: nn.Module, data: Any, needs: frozenset[str]) -> Signals:
    return collect(model, data, needs)


def selector(trainer: Any, **options: Any) -> PrunedProxySelector:
    rest = {"random_state": 0, "fine_tune_lr_scale": None, **options}
    return PrunedProxySelector(mlp(6, 16, 16, 3), 0.5, trainer=trainer, **rest)


def of_another(model: nn.Module, data: Any) -> None:
    """The optimiser was made for the network that was there before: a common slip."""
    x, y = next(iter(DataLoader(data, 16)))
    nn.functional.cross_entropy(model(x), y).backward()
    torch.optim.SGD(mlp(6, 16, 16, 3).parameters(), 0.1).step()


@pytest.mark.parametrize(
    "trainer",
    [
        FunctionTrainer(lambda model, data: None),
        FunctionTrainer(of_another),
        FunctionTrainer(lambda model, data: plain(copy.deepcopy(model), data)),
        PlainTrainer(epochs=1, lr=0.0),
    ],
)
def test_a_training_that_changes_nothing_is_said(trainer: Any) -> None:
    with pytest.warns(NoEffectWarning, match=rf"{type(trainer).__name__}.fit left all 6 trainable weights") as caught:
        selector(trainer).fit(X, Y)
    assert [warning.filename for warning in caught] == [__file__]


def test_of_frozen_weights_nothing_is_said() -> None:
    def head_alone(model: nn.Module, data: Any) -> None:
        with torch.no_grad():
            model[-1].bias.add_(0.1)  # type: ignore[index, union-attr]

    network = mlp(6, 16, 16, 3).requires_grad_(False)
    network[-1].requires_grad_(True)
    PrunedProxySelector(network, 0.5, trainer=FunctionTrainer(head_alone), random_state=0).fit(X, Y)


@pytest.mark.parametrize("infer", [None, logits, signals])
def test_the_whole_method_with_functions(infer: Any) -> None:
    chosen = selector(FunctionTrainer(plain, infer, device="cpu")).fit(X[:40], Y[:40])
    assert isinstance(chosen.history, float)
    picked = chosen.query(X, 5, candidates=range(40, 90))
    with torch.no_grad():
        best = chosen.model.eval()(X).softmax(1).topk(2).values
    margin = best[:, 0] - best[:, 1]
    assert_same_picks(picked, 40 + margin[40:].argsort()[:5], margin)
    target = chosen.fit_target()
    assert float((target(X).argmax(1) == Y).double().mean()) > 0.8
    assert [row.stage for row in chosen.costs.rows()] == [
        "prune",
        "train_proxy",
        "score",
        "rank",
        "fuse",
        "train_target",
    ]


def test_the_seed_decides_and_global_states_modes_and_gradients_are_put_back() -> None:
    trained = []
    for seed in (1, 1, 2):
        model = mlp(6, 16, 3).eval()
        FunctionTrainer(plain).fit(model, torch.utils.data.TensorDataset(X, Y), seed=seed)
        assert not model.training
        assert all(p.grad is None for p in model.parameters())
        trained.append(model[0].weight.detach().clone())
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_function_is_given_what_it_has_parameters_for() -> None:
    calls: list[dict[str, Any]] = []

    def everything(model: nn.Module, data: Any, **given: Any) -> None:
        calls.append({"rows": len(data), **given})
        plain(model, data)

    def rate(model: nn.Module, data: Any, lr_scale: float) -> None:
        calls.append({"lr_scale": lr_scale})
        plain(model, data)

    selector(FunctionTrainer(everything), fine_tune_lr_scale=0.2).fit(X, Y).fit_target()
    first, second = calls
    assert (first["rows"], first["lr_scale"], first["teacher"]) == (90, 1.0, None)
    assert (second["lr_scale"], second["teacher"] is None) == (0.2, False)
    assert isinstance(first["seed"], int)
    selector(FunctionTrainer(rate), fine_tune_lr_scale=0.5).fit(X, Y).fit_target()
    assert [call["lr_scale"] for call in calls[2:]] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"pretrained": False}, 0.5),
        ({"pretrained": True}, 1.0),
        ({"pretrained": True, "fine_tune_lr_scale": 0.5}, 0.5),
        ({"pretrained": False, "fine_tune_lr_scale": 2}, 2.0),
        ({"pretrained": False, "fine_tune_lr_scale": None}, 1.0),
    ],
    ids=str,
)
def test_the_rate_of_a_target_depends_on_where_the_weights_come_from(options: dict[str, Any], scale: float) -> None:
    rates: list[float] = []

    def rate(model: nn.Module, data: Any, lr_scale: float) -> None:
        rates.append(lr_scale)
        plain(model, data)

    chosen = selector(FunctionTrainer(rate), **{"fine_tune_lr_scale": "auto", **options})
    chosen.fit(X, Y).fit_target()
    assert rates == [1.0, scale]
    with pytest.raises(InputError, match="fine_tune_lr_scale='half'; pass a finite factor above 0, 'auto' or None"):
        selector(FunctionTrainer(rate), fine_tune_lr_scale="half")


def test_what_a_function_cannot_take_is_said_and_not_lost() -> None:
    fitted = selector(FunctionTrainer(plain), fine_tune_lr_scale=0.2).fit(X, Y)
    with pytest.warns(FallbackWarning, match="FunctionTrainer has no `lr_scale`"):
        fitted.fit_target()
    with pytest.raises(InputError, match="FunctionTrainer has no `distillation`"):
        selector(FunctionTrainer(plain), distillation=Distillation()).fit(X, Y).fit_target()


def test_batchnorm_is_read_the_way_it_says() -> None:
    """`cross="copy"` estimates BatchNorm again: with the transform that the function's network was trained with."""

    def scaled(model: nn.Module, data: Any) -> None:
        plain(model, [(x * 10, y) for x, y in data])

    def network() -> nn.Module:
        inner = mlp(6, 16, 3)
        return nn.Sequential(inner[0], nn.BatchNorm1d(16), inner[1], inner[2])

    trainer = FunctionTrainer(scaled, eval_transform=lambda x: x * 10, device="cpu")
    chosen = PrunedProxySelector(network(), 0.5, trainer=trainer, cross="copy", random_state=0).fit(X, Y)
    target = chosen.fuse()
    mean = target[0](X * 10).mean(0)
    torch.testing.assert_close(target[1].running_mean, mean, rtol=1e-4, atol=1e-4)


def test_it_is_a_trainer_that_pickles_and_prints() -> None:
    trainer = FunctionTrainer(plain, logits)
    assert isinstance(trainer, Trainer)
    assert repr(pickle.loads(pickle.dumps(trainer))) == "FunctionTrainer(plain, logits)"
    assert pickle.loads(pickle.dumps(trainer)).fit_function is plain


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: FunctionTrainer("sgd"), "fit='sgd'; pass a function of"),  # type: ignore[arg-type]
        (lambda: FunctionTrainer(plain, TorchTrainer()), "infer=TorchTrainer.*; pass a function of"),  # type: ignore[arg-type]
        (
            lambda: FunctionTrainer(plain, logits).infer(mlp(6, 3), [(X[0], 0)], {"features"}),
            "and features are asked for",
        ),
        (lambda: FunctionTrainer(plain, lambda m, d: X[:3]).infer(mlp(6, 3), [0, 1]), r"shape \[3, 6\] for 2 rows"),
        (lambda: FunctionTrainer(plain, lambda m, d: None).infer(mlp(6, 3), [0]), "a NoneType for 1 rows"),
    ],
)
def test_what_cannot_work_is_said(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()
