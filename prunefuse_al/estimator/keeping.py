"""An estimator's file: that of its selector, with the labels' names, what the rows look like, and the target beside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from .. import checks
from ..data import isolated_rng
from ..errors import CheckpointError, PruneFuseError
from ..network import check_model
from ..selector import (
    Beside,
    PrunedProxySelector,
    SelectorFile,
    check_names,
    decode,
    encodable,
    opened,
    restored,
)
from .starting import SELECTOR_OPTIONS, built, default_trainer
from .tabular import mlp

if TYPE_CHECKING:
    from .estimator import PruneFuseEstimator

_ELSEWHERE = ("module", "dataset", "unlabelled", "random_state", "classes", "features_path")
"""Parameters that are data, or have a place of their own, or name what is written to."""
_LABELS = "iufbUSO"  # kinds of arrays of labels: numbers, and texts


def beside_of(estimator: PruneFuseEstimator) -> Beside:
    """Return what an estimator keeps in its selector's file.

    Raises:
        CheckpointError: its labels are neither numbers nor texts.
    """
    parameters = estimator.get_params(deep=False)
    plain, missing = encodable((name, value) for name, value in parameters.items() if name not in _ELSEWHERE)
    setup = estimator._setup
    words = {
        "parameters": plain,
        "missing": missing,
        "classes": _labels_as_words(estimator.classes_),
        "told": estimator.classes is not None,
        "multilabel": estimator.multilabel_,
        "dataset": estimator.dataset is not None,
        "perceptron": estimator.module is None,
        "columns": getattr(estimator, "n_features_in_", None),
        "names": getattr(estimator, "feature_names_in_", np.empty(0)).tolist() or None,
        "shape": None if setup["shape"] is None else list(setup["shape"]),
        "outputs": setup["outputs"],
        "fixed": setup["fixed"],
    }
    return Beside(words, getattr(estimator, "target_", None))


def _labels_as_words(classes: np.ndarray[Any, Any]) -> dict[str, Any]:
    values = classes.tolist()
    if classes.dtype.kind not in _LABELS or not all(isinstance(value, int | float | str) for value in values):
        raise CheckpointError(f"save: labels of {classes.dtype} are neither numbers nor texts; nothing was written")
    return {"dtype": classes.dtype.str, "values": values}


def _labels_of_words(words: Any) -> np.ndarray[Any, Any]:
    dtype = np.dtype(words["dtype"])
    if dtype.kind not in _LABELS or not all(isinstance(value, int | float | str) for value in words["values"]):
        raise ValueError(f"labels {words!r:.200}")
    return np.array(words["values"], dtype=dtype)


def load_estimator(
    kind: type[PruneFuseEstimator],
    path: str | os.PathLike[str],
    module: Any,
    dataset: Any,
    options: Mapping[str, Any],
    *,
    accept_changes: bool,
) -> PruneFuseEstimator:
    """Return the estimator that a file holds; see `PruneFuseEstimator.load`."""
    check_names(kind, "load", options)
    if module is not None and not isinstance(module, nn.Module):
        checks.function("module", module, "a network, a function (input_shape, n_classes) -> network, or None")
    file = opened(path)
    if "beside" not in file.config:
        raise CheckpointError(f"{file.where}: the file is of a selector; PrunedProxySelector.load reads it")
    try:
        words = dict(file.config["beside"]["words"])
        _check_given(file.where, words, module, dataset, options)
        dense = _network(file, words, module)
        found = restored(
            PrunedProxySelector, path, dense, _given(words, module, options), accept_changes=accept_changes
        )
        return _made(kind, words, found.selector, found.beside, module, dataset, options)
    except PruneFuseError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{file.where}: the file does not describe an estimator ({error!r:.300})") from error


def _check_given(where: str, words: Mapping[str, Any], module: Any, dataset: Any, options: Mapping[str, Any]) -> None:
    """Raise unless what the file lacks was given."""
    lacking = [name for name in words["missing"] if name not in options]
    if words["dataset"] and dataset is None:
        lacking.append("dataset")
    if module is None and not words["perceptron"]:
        lacking.append("module")
    if lacking:
        calls = ", ".join(f"{name}=..." for name in lacking)
        raise CheckpointError(f"{where}: the file does not hold {' and '.join(lacking)}; pass {calls} to load()")


def _given(words: Mapping[str, Any], module: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the selector is told: what was given, and the trainer that stands in where none was."""
    given = {name: value for name, value in options.items() if name in (*SELECTOR_OPTIONS, "trainer", "random_state")}
    if words["parameters"].get("trainer", "missing") is None:
        given.setdefault("trainer", default_trainer(module, words["multilabel"]))
    return given


def _network(file: SelectorFile, words: Mapping[str, Any], module: Any) -> nn.Module:
    """Return a network of the architecture that was saved, whose weights do not matter."""
    if isinstance(module, nn.Module):
        return check_model(module)
    with isolated_rng(0):
        if module is None:
            columns, outputs = (file.forms[f"dense/{name}"].shape[0] for name in ("0.mean", "5.bias"))
            return mlp(np.zeros((1, columns)), outputs)
        shape, outputs = words["shape"], words["outputs"]
        if not all(type(size) is int and size > 0 for size in shape) or outputs != len(words["classes"]["values"]):
            raise ValueError(f"a network for {shape!r:.100} and {outputs!r:.100} classes")
        return built(module, tuple(shape), outputs)


def _made(
    kind: type[PruneFuseEstimator],
    words: Mapping[str, Any],
    selector: PrunedProxySelector,
    beside: Beside | None,
    module: Any,
    dataset: Any,
    options: Mapping[str, Any],
) -> PruneFuseEstimator:
    assert beside is not None  # the file has it
    classes = _labels_of_words(words["classes"])
    parameters = {name: decode(value) for name, value in words["parameters"].items()} | dict(options)
    parameters.setdefault("classes", classes if words["told"] else None)
    parameters.setdefault("random_state", selector.options.entropy)
    estimator = kind(module, dataset=dataset, **parameters)
    estimator.classes_, estimator.multilabel_, estimator.selector_ = classes, bool(words["multilabel"]), selector
    if words["columns"] is not None:
        estimator.n_features_in_ = int(words["columns"])
    if words["names"] is not None:
        estimator.feature_names_in_ = np.array(words["names"], dtype=object)
    if beside.target is not None:
        estimator.target_ = beside.target
    estimator._setup = {
        **estimator.get_params(deep=False),
        "shape": None if words["shape"] is None else tuple(words["shape"]),
        "outputs": words["outputs"],
        "several": bool(words["multilabel"]),
        "fixed": words["fixed"],
    }
    return estimator
