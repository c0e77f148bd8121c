"""Where a `fit` starts: the labels there are, the dense network, and the selector around it, made or gone on with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .. import checks
from ..data import isolated_rng
from ..errors import InputError
from ..network import SIGMOID, of_trainer
from ..selector import NAMES, PrunedProxySelector, check_trainer, check_warm, entropy_of
from ..training import TorchTrainer
from ..types import Trainer
from .conversion import count_outputs, row_shape
from .tabular import mlp, table_trainer
from .targets import ONE_OUTPUT, known_classes

ModuleFactory = Callable[[tuple[int, ...], int], nn.Module]
LEFT_OUT = ("example_inputs", "fold_batchnorm")
"""Options of a selector that the estimator does not have: it knows the rows, and folds where that is exact."""
_MADE_HERE = ("trainer", "random_state", "warm_start")
"""Options that `start` works out, or `fit` gives."""
SELECTOR_OPTIONS = tuple(name for name in NAMES if name not in LEFT_OUT + _MADE_HERE)


def start(estimator: Any, data: Any, labels: Any, weights: Any, classes: Any) -> None:
    """Set `classes_`, and a `selector_`: the present one if it was made with the same options."""
    given: Any = estimator.module
    previous: PrunedProxySelector | None = getattr(estimator, "selector_", None)
    several = labels.ndim == 2
    trainer: Trainer = default_trainer(given, several) if estimator.trainer is None else estimator.trainer
    check_trainer("trainer", trainer)
    check_warm(estimator.warm_start, trainer)
    if given is not None and not isinstance(given, nn.Module):
        checks.function("module", given, "a network, a function (input_shape, n_classes) -> network, or None")
    independent = _reads_independent(trainer)
    if several and not independent:
        raise InputError(
            f"y has {labels.shape[1]} columns of 0 and 1, several labels a row, and trainer={trainer!r} trains one "
            "class a row: pass trainer=TorchTrainer(loss=nn.BCEWithLogitsLoss()), or y.argmax(1) if every row has one 1"
        )
    entropy = entropy_of(estimator.random_state)
    outputs = fixed = _as_it_likes(estimator, previous)
    if isinstance(given, nn.Module):
        outputs = _fitting(trainer, given, data, several, "the network")
    estimator.classes_ = known_classes(labels, classes, outputs)
    estimator.multilabel_ = several
    n_classes = len(estimator.classes_)
    shape = None if isinstance(given, nn.Module) else row_shape(data)  # a network's texts may vary in length
    setup = {
        **estimator.get_params(deep=False),
        "shape": shape,
        "outputs": n_classes,
        "several": several,
        "fixed": fixed,
    }
    if previous is not None and given is not None and _same(estimator._setup, setup):
        return
    with isolated_rng(entropy % 2**63):
        dense = _build(given, data, weights, n_classes, single=independent and not several)
    if given is not dense and given is not None:
        found = _fitting(trainer, dense, data, several, f"the network of module={given!r}")
        if found != n_classes:
            estimator.classes_ = _classes_beyond(labels, classes, found, n_classes, given)
            setup |= {"outputs": found, "fixed": found}
    options = {name: getattr(estimator, name) for name in SELECTOR_OPTIONS}
    estimator.selector_ = PrunedProxySelector(dense, trainer=trainer, random_state=entropy, **options)
    if previous is not None:
        estimator.selector_.follow(previous)
    estimator._setup = setup


def _as_it_likes(estimator: Any, previous: PrunedProxySelector | None) -> int | None:
    """Return how many outputs the function `module` gave its network the last time, whatever it was told; or None."""
    before: dict[str, Any] = {} if previous is None else estimator._setup
    fixed: int | None = before.get("fixed") if before.get("module") is estimator.module else None
    return fixed


def _classes_beyond(labels: Any, classes: Any, found: int, told: int, module: Any) -> Any:
    """Return the label of each output of a network that has others than it was told: the numbers of the outputs.

    Raises:
        InputError: the labels are not among these, or the classes are given.
    """
    if classes is None and found > told:
        try:
            return known_classes(labels, None, found)
        except InputError:
            pass  # what was told and what came back says more
    raise InputError(
        f"module={module!r} was called with {told} classes and returned a network with {found} outputs; its last layer "
        f"must be as wide as it is told, or pass classes= with all {max(found, told)} labels{ONE_OUTPUT * (found == 1)}"
    )


def _build(module: Any, data: Any, weights: Any, n_classes: int, *, single: bool) -> nn.Module:
    """Return the dense network; one of ours has a single output where a sigmoid of it tells two classes."""
    if isinstance(module, nn.Module):
        return module
    if module is None:
        if single and n_classes > 2:
            raise InputError(
                f"y holds {n_classes} classes, and the loss of the trainer tells two: pass a trainer with the loss "
                "'cross_entropy', or leave trainer= out"
            )
        return mlp(data, 1 if single else n_classes, weights)
    return built(module, row_shape(data), n_classes)


def built(module: ModuleFactory, shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Return the network that a function makes.

    Raises:
        InputError: what it returns is none.
    """
    network = module(shape, n_classes)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"module={module!r} was called with the shape {shape} of an input and {n_classes} classes, and returned a "
            f"{type(network).__name__}; it must return an nn.Module (or pass an instance of one)"
        )
    return network


def _fitting(trainer: Trainer, network: nn.Module, data: Any, several: bool, name: str) -> int:
    """Return how many classes, or labels, a network has outputs for, of the kind that the labels are of."""
    outputs, independent = count_outputs(trainer, network, data)
    if independent and not several:
        raise InputError(
            f"y is one label a row, and {name} has {outputs} outputs whose labels are independent, as the loss says: "
            "pass a trainer with the loss 'cross_entropy', or a network with one output for two classes"
        )
    return outputs


def default_trainer(module: Any, several: bool) -> Trainer:
    """Return what trains where no trainer is given."""
    loss: Any = nn.BCEWithLogitsLoss() if several else "cross_entropy"
    return table_trainer(loss) if module is None else TorchTrainer(loss=loss)


def _reads_independent(trainer: Trainer) -> bool:
    outputs = of_trainer(trainer)
    return outputs is not None and outputs.kind == SIGMOID


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether two sets of options are the same objects or equal plain values; data that is read may differ."""
    plain = (str, int, float, bool, tuple, type(None))
    free = {"dataset", "unlabelled", "classes", "warm_start"}
    return all(
        now[name] is before[name] or (isinstance(now[name], plain) and now[name] == before[name])
        for name in now.keys() - free
    )
