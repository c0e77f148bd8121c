"""Options: numbers of NumPy are numbers, and what is wrong is found before anything is trained."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import PlainTrainer, blobs, mlp
from sklearn.base import clone
from torch import Tensor, nn

from prunefuse_al import (
    Distillation,
    EarlyStopping,
    FallingRatio,
    FunctionTrainer,
    ProgressivePruning,
    PrunedProxySelector,
    PruneFuseEstimator,
    ShrinkPerturb,
    TorchTrainer,
    prune,
)
from prunefuse_al.advisor import LoopPlan
from prunefuse_al.errors import InputError
from prunefuse_al.estimator.starting import LEFT_OUT
from prunefuse_al.proxies import Probe
from prunefuse_al.pruning import GlobalScope
from prunefuse_al.scorers import CCS, D2, BatchBALD, Mixture, ProbCover, TwoStage, TypiClust
from prunefuse_al.selector.options import CHECKS, NAMES, Options
from prunefuse_al.training.checking import OPTIONS

X, Y = blobs(60)
QUICK = {"epochs": 2, "progress": False, "device": "cpu"}


def trainer(**options: Any) -> TorchTrainer:
    return TorchTrainer(**{**QUICK, **options})


def selector(model: nn.Module | None = None, **options: Any) -> PrunedProxySelector:
    network = mlp(6, 16, 3) if model is None else model
    return PrunedProxySelector(network, **{"trainer": trainer(), "random_state": 0, **options})


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- numbers of NumPy

I, F, B = np.int64, np.float32, np.bool_  # noqa: E741
NUMPY: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "FallingRatio": (FallingRatio, {"start": F(0.75), "end": F(0.5), "labels": np.array([10, 80]), "steps": I(2)}),
    "ShrinkPerturb": (ShrinkPerturb, {"shrink": F(0.5), "perturb": F(0.25), "epochs": I(2)}),
    "ShrinkPerturb, a share": (ShrinkPerturb, {"epochs": F(0.5)}),
    "Distillation": (Distillation, {"lambda_": F(0.5), "tau": I(2)}),
    "EarlyStopping": (EarlyStopping, {"patience": I(2), "validation_fraction": F(0.5), "min_delta": F(0.25)}),
    "ProgressivePruning": (ProgressivePruning, {"epochs": I(4), "steps": np.uint8(2)}),
    "GlobalScope": (GlobalScope, {"floor": F(0.25)}),
    "Probe": (Probe, {"dropout": F(0.25), "refresh": F(0.5)}),
    "LoopPlan": (
        LoopPlan,
        {"pool": I(1000), "rounds": I(2), "initial": I(20), "k": np.array([30, 30]), "epochs": I(3)},
    ),
    "BatchBALD": (BatchBALD, {"outcomes": I(8)}),
    "CCS": (CCS, {"mislabelled": F(0.25), "strata": I(5)}),
    "D2": (D2, {"mislabelled": F(0.25), "n_neighbors": I(5), "gamma": F(0.5)}),
    "Mixture": (Mixture, {"share": F(0.25)}),
    "TwoStage": (TwoStage, {"keep": F(2.5)}),
    "ProbCover": (ProbCover, {"delta": F(0.5), "classes": I(3), "purity": F(0.5)}),
    "TypiClust": (TypiClust, {"max_clusters": I(5), "n_neighbors": I(3)}),
}


def plain(value: Any) -> Any:
    """Return a number of NumPy, or an array of them, as Python's."""
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value.item()


@pytest.mark.parametrize("name", NUMPY)
def test_numbers_of_numpy_become_those_of_python(name: str) -> None:
    make, options = NUMPY[name]
    made, wanted = make(**options), make(**{key: plain(value) for key, value in options.items()})
    assert made == wanted
    assert repr(made) == repr(wanted)
    assert hash(made) == hash(wanted)


SELECTOR: dict[str, Any] = {
    "pruning_ratio": F(0.5),
    "sync_every": I(3),
    "cross": F(0.5),
    "fine_tune_lr_scale": F(0.5),
    "recalibrate": B(True),
    "fold_batchnorm": B(False),
    "round_to": I(4),
    "candidate_fraction": F(0.5),
    "warm_start": B(True),
}


def test_a_selector_takes_them_keeps_and_saves_those_of_python(tmp_path: Path) -> None:
    numpy = selector(**SELECTOR, random_state=I(0)).fit(X, Y).fit(X, Y)
    python = selector(**{name: value.item() for name, value in SELECTOR.items()}).fit(X, Y).fit(X, Y)
    for name, value in SELECTOR.items():
        assert type(getattr(numpy.options, name)) is type(value.item())
    np.testing.assert_array_equal(numpy.query(X, I(5)), python.query(X, 5))
    assert same_weights(numpy.fit_target(), python.fit_target())
    numpy.save(tmp_path / "file")
    loaded = PrunedProxySelector.load(tmp_path / "file", mlp(6, 16, 3))
    np.testing.assert_array_equal(loaded.query(X, 5), python.query(X, 5))
    assert loaded.options.pruning_ratio == 0.5


@pytest.mark.parametrize("kind", [F, np.float64, torch.tensor])
def test_ratios_of_any_make_prune_alike(kind: Any) -> None:
    want = prune(mlp(6, 16, 3), X[:2], 0.5, round_to=4).module
    assert same_weights(prune(mlp(6, 16, 3), X[:2], kind(0.5), round_to=I(4)).module, want)
    ratio = selector(pruning_ratio=lambda n: kind(0.5)).fit(X, Y)
    assert same_weights(ratio.model, selector(pruning_ratio=0.5).fit(X, Y).model)


TRAINER: dict[str, Any] = {
    "epochs": I(3),
    "batch_size": I(16),
    "lr": F(0.25),
    "momentum": F(0.5),
    "weight_decay": F(0.0),
    "lr_scale": F(0.5),
    "num_workers": I(0),
    "grad_clip": F(1.0),
    "eval_batch_size": np.uint8(32),
    "mc_samples": I(2),
    "channels_last": B(False),
    "deterministic": B(True),
    "class_weight": np.array([1, 2, 1]),
}


def test_a_trainer_takes_them_and_keeps_its_parameters_as_they_were_given() -> None:
    numpy, python = trainer(**TRAINER), trainer(**{name: plain(value) for name, value in TRAINER.items()})
    networks = [mlp(6, 16, 3), mlp(6, 16, 3)]
    for each, network in zip((numpy, python), networks, strict=True):
        each.fit(network, (X, Y), seed=I(3))
    assert same_weights(*networks)
    assert torch.equal(numpy.infer(networks[0], X).logits, python.infer(networks[1], X).logits)  # type: ignore[arg-type]
    for name, value in TRAINER.items():
        assert getattr(numpy, name) is value
        assert type(getattr(clone(numpy), name)) is type(value)
    short = selector(trainer=numpy, warm_start=ShrinkPerturb(epochs=1)).fit(X, Y).fit(X, Y)
    assert len(short.history.epochs) == 1
    with pytest.raises(InputError, match="ends after 3 epochs, but TorchTrainer trains for 3"):
        selector(trainer=numpy, progressive=ProgressivePruning(I(3), 1))


def test_an_estimator_takes_them_and_is_cloned_with_what_it_was_given() -> None:
    options = {name: value for name, value in SELECTOR.items() if name != "fold_batchnorm"}
    estimator = PruneFuseEstimator(mlp(6, 16, 3), trainer=trainer(), **options, random_state=I(0))
    want = PruneFuseEstimator(mlp(6, 16, 3), trainer=trainer(), **options, random_state=0).fit(X.numpy(), Y.numpy())
    got = clone(estimator).fit(X.numpy(), Y.numpy())
    np.testing.assert_array_equal(got.query(X.numpy(), I(4)), want.query(X.numpy(), 4))
    for name, value in options.items():
        assert estimator.get_params()[name] is value


# ---- found before anything is trained


class Counted(PlainTrainer):
    """Counts its trainings, and may check itself."""

    def __init__(self, complaint: str = "") -> None:
        super().__init__()
        self.trained, self.complaint = 0, complaint

    def fit(self, *args: Any, **options: Any) -> Any:
        self.trained += 1
        return super().fit(*args, **options)

    def check(self) -> None:
        if self.complaint:
            raise InputError(self.complaint)


def test_a_trainer_of_ones_own_is_asked_by_its_check() -> None:
    assert selector(trainer=Counted()).fit(X, Y).options.trainer.trained == 1  # type: ignore[attr-defined]
    for name in ("trainer", "target_trainer"):
        with pytest.raises(InputError, match=r"^speed=0; pass a speed above 0$"):
            selector(**{name: Counted("speed=0; pass a speed above 0")})


def test_distillation_that_nobody_does_is_refused_by_the_constructor() -> None:
    with pytest.raises(InputError, match="PlainTrainer has no `distillation` to set; pass a TorchTrainer"):
        selector(trainer=PlainTrainer(), distillation=Distillation())
    assert selector(trainer=PlainTrainer(), target_trainer=trainer(), distillation=Distillation()).round == 0
    with pytest.raises(InputError, match="FunctionTrainer has no `distillation`"):
        selector(target_trainer=FunctionTrainer(lambda model, data: None), distillation=Distillation())


def test_every_option_has_its_check() -> None:
    together = {"warm_start", "features_dtype"}  # with another option
    elsewhere = {"keep"}  # with the network
    assert {field.name for field in dataclasses.fields(Options)} == CHECKS.keys() | together | elsewhere
    assert TorchTrainer().get_params(deep=False).keys() == OPTIONS.keys() | {"optimizer"}  # with its settings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": lambda params: None}, "optimizer: what <function.*> returned=None; pass a factory that returns"),
        ({"optimizer": lambda params: torch.optim.SGD}, "the class SGD, not an instance"),
        ({"scheduler": lambda optimizer: None}, "scheduler: what <function.*> returned=None; pass a factory"),
        ({"loss": lambda logits, y: None}, "loss: what <lambda> returned=None; pass a loss that returns a tensor"),
        ({"loss": lambda logits, y: 0.5}, "loss: what <lambda> returned=0.5; pass"),
        ({"early_stopping": EarlyStopping(validation_data=X)}, "validation_data has no labels; pass"),
    ],
)
def test_what_factories_return_is_looked_at(options: dict[str, Any], says: str) -> None:
    network = mlp(6, 16, 3)
    with pytest.raises(InputError, match=says):
        trainer(**options).fit(network, (X, Y), seed=0)
    assert same_weights(network, mlp(6, 16, 3))
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_modules_to_keep_are_those_of_the_network_given(tmp_path: Path) -> None:
    """The selector works on a copy, in which a module is another object."""
    network = mlp(6, 16, 16, 3)
    by_name, by_module = (selector(network, keep=keep).fit(X, Y) for keep in ("0", network[0]))
    assert [layer.out_features for layer in by_module.model if isinstance(layer, nn.Linear)] == [16, 8, 3]
    assert same_weights(by_name.model, by_module.model)
    by_module.save(tmp_path / "file")
    assert PrunedProxySelector.load(tmp_path / "file", network).options.keep == ("0",)


def test_a_trainer_for_a_device_that_is_not_here_may_be_held_and_not_used() -> None:
    """A selector that was saved where there is one is loaded elsewhere, to be fused."""
    held = selector(trainer=trainer(device="cuda:99"))
    with pytest.raises(InputError, match=r"device='cuda:99' cannot be used here .*; pass 'auto' or 'cpu'"):
        held.fit(X, Y)


def test_a_failed_fit_with_other_parameters_leaves_an_estimator_as_it_was() -> None:
    estimator = PruneFuseEstimator(mlp(6, 16, 3), trainer=trainer(), random_state=0).fit(X.numpy(), Y.numpy())
    before = copy.deepcopy(estimator.selector_.model.state_dict())
    chosen, rows = estimator.selector_, estimator.costs_.rows()
    for name, value in {"pruning_ratio": True, "trainer": "sgd", "scorer": 3, "keep": 3, "warm_start": 1}.items():
        old = getattr(estimator, name)
        with pytest.raises(InputError, match=name):
            estimator.set_params(**{name: value}).fit(X.numpy(), Y.numpy())
        estimator.set_params(**{name: old})
        assert estimator.selector_ is chosen
        assert estimator.costs_.rows() == rows
    after: dict[str, Tensor] = estimator.selector_.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_estimator_has_every_option_of_a_selector_but_those_it_lists() -> None:
    given = inspect.signature(PruneFuseEstimator).parameters
    assert {*NAMES} - given.keys() == {*LEFT_OUT}
    own = inspect.signature(PrunedProxySelector).parameters
    assert {*NAMES} == own.keys() - {"model"}
    for name in {*NAMES} & given.keys():
        assert given[name].default is own[name].default is getattr(Options, name)
