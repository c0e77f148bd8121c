"""Where a `fit` starts: the labels there are, the dense network, and the selector around it, made or gone on with."""

from __future__ import annotations

from typing import Any

from torch import nn

from .. import checks
from ..errors import InputError
from ..rng import isolated_rng
from ..selector.options import check_trainer, check_warm, entropy_of
from ..selector.selector import PrunedProxySelector
from ..training.trainer import TorchTrainer
from ..types import Trainer
from .inputs import count_outputs, row_shape
from .tabular import mlp, table_trainer
from .targets import known_classes

SELECTOR_OPTIONS = (
    "pruning_ratio",
    "scorer",
    "importance",
    "cross",
    "distillation",
    "target_trainer",
    "fine_tune_lr_scale",
    "sync_every",
    "sync_importance",
    "recalibrate",
    "recalibration_data",
    "progressive",
    "keep",
    "scope",
    "round_to",
    "candidate_fraction",
    "features_dtype",
    "features_path",
)


def start(estimator: Any, data: Any, labels: Any, weights: Any, classes: Any) -> None:
    """Set `classes_`, and a `selector_`: the present one if it was made with the same options."""
    given: Any = estimator.module
    previous: PrunedProxySelector | None = getattr(estimator, "selector_", None)
    trainer: Trainer = _default_trainer(given) if estimator.trainer is None else estimator.trainer
    check_trainer("trainer", trainer)
    check_warm(estimator.warm_start, trainer)
    if given is not None and not isinstance(given, nn.Module):
        checks.function("module", given, "a network, a function (input_shape, n_classes) -> network, or None")
    entropy = entropy_of(estimator.random_state)
    outputs = count_outputs(trainer, given, data) if isinstance(given, nn.Module) else None
    estimator.classes_ = known_classes(labels, classes, outputs)
    n_classes = len(estimator.classes_)
    shape = None if isinstance(given, nn.Module) else row_shape(data)  # a network's texts may vary in length
    setup = {**estimator.get_params(deep=False), "shape": shape, "outputs": n_classes}
    if previous is not None and given is not None and _same(estimator._setup, setup):
        return
    with isolated_rng(entropy % 2**63):
        dense = _build(given, data, weights, n_classes)
    options = {name: getattr(estimator, name) for name in SELECTOR_OPTIONS}
    estimator.selector_ = PrunedProxySelector(dense, trainer=trainer, random_state=entropy, **options)
    if previous is not None:
        estimator.selector_.follow(previous)
    estimator._setup = setup


def _build(module: Any, data: Any, weights: Any, n_classes: int) -> nn.Module:
    """Return the dense network."""
    if isinstance(module, nn.Module):
        return module
    if module is None:
        return mlp(data, n_classes, weights)
    shape = row_shape(data)
    built = module(shape, n_classes)
    if not isinstance(built, nn.Module):
        raise InputError(
            f"module={module!r} was called with the shape {shape} of an input and {n_classes} classes, and returned a "
            f"{type(built).__name__}; it must return an nn.Module (or pass an instance of one)"
        )
    return built


def _default_trainer(module: Any) -> Trainer:
    return table_trainer() if module is None else TorchTrainer()


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether two sets of options are the same objects or equal plain values; what data X indexes may differ."""
    plain = (str, int, float, bool, tuple, type(None))
    free = {"dataset", "classes", "warm_start"}
    return all(
        now[name] is before[name] or (isinstance(now[name], plain) and now[name] == before[name])
        for name in now.keys() - free
    )
