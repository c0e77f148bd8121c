"""Every option that can be plain goes into a file and comes back equal; the table of classes has them all."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunefuse_al.errors import CheckpointError
from prunefuse_al.fusing import Copy, Delta, Preserve
from prunefuse_al.proxies import Dense, Probe
from prunefuse_al.pruning import Activation, Gates, GlobalScope, Hessian, Imitation, LayerWidth, PruningReport, Taylor
from prunefuse_al.scorers import SCORERS, ClassBalanced, ClassStandardised, CostAware, Margin, Mixture, TwoStage
from prunefuse_al.selector import FallingRatio
from prunefuse_al.selector.encoding import KINDS, decode, encode
from prunefuse_al.training import Distillation, EarlyStopping, ProgressivePruning, ShrinkPerturb, TorchTrainer
from prunefuse_al.training.schedules import SCHEDULES, Constant, Cosine, Steps
from prunefuse_al.training.transforms import Compose, Normalize, PerSample, RandomCropFlip

FACES = (
    "",
    ".scorers",
    ".training",
    ".training.schedules",
    ".training.transforms",
    ".pruning",
    ".proxies",
    ".selector",
)
NO_OPTIONS = {
    *("Selection", "Signals", "ChannelMap", "Proxy", "PruneFuseEstimator"),
    *("Recorder", "Snapshot", "TrainingHistory", "Scorer"),
    *("Another", "Pruned", "Task", "Training", "Prepared"),  # a network; said by the options themselves; of a round
    *("Marks", "Mixes", "Normalises", "OperationCall", "Reduces", "RepairReport"),  # of the tracer, and what was done
    "CostAware",  # holds an array, and is asked for
    "Removal",  # what was found
}
"""What is public, and not written: what is neither given to a selector nor reported by pruning, or holds arrays."""
INSTANCES: list[Any] = [
    *(kind() for kind in SCORERS.values()),
    TorchTrainer(3, lr=0.1, distillation=Distillation(), early_stopping=EarlyStopping(2), class_weight={"a": 2.0}),
    TorchTrainer(transform=Compose((Normalize((0.5,), (0.2,)), RandomCropFlip())), scheduler=Cosine(2)),
    Distillation(0.1, 2.0, "cosine"),
    EarlyStopping(3, monitor="accuracy"),
    ProgressivePruning(4, 2, "cubic"),
    ShrinkPerturb(0.5, 0.1, epochs=1 / 3),
    FallingRatio(0.7, 0.4, labels=(10, 90)),
    GlobalScope(),
    Dense(),
    Imitation(2),
    Probe(),
    Probe("float16", head="logistic", dropout=0.25, refresh=0.9),
    Preserve(),
    Copy(0.5),
    Delta(0.5),
    Activation([[1.0, 2.0], [3.0, 4.0]]),
    Taylor([[1.0, 2.0], [3.0, 4.0]], [0, 1]),
    Hessian([[1.0, 2.0], [3.0, 4.0]], [0, 1]),
    Gates([[1.0, 2.0], [3.0, 4.0]], [0, 1], epochs=3),
    *(schedule for schedule in SCHEDULES.values() if not isinstance(schedule, str)),
    Constant(),
    Steps(((1, 0.5), (2, 1.0))),
    PerSample(RandomCropFlip(2, 0.1)),
    PruningReport(0.5, 9, 4, 9, 4, (LayerWidth("0.weight", 4, 2, 2),), {"a": "why"}, True, 1e-7),
]


def again(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


def public_classes() -> set[type]:
    modules = [importlib.import_module(f"prunefuse_al{face}") for face in FACES]
    named = [getattr(module, name) for module in modules for name in getattr(module, "__all__", vars(module))]
    found = {value for value in named if isinstance(value, type)}
    ours = {kind for kind in found if kind.__module__.startswith("prunefuse_al")}
    return {kind for kind in ours if dataclasses.is_dataclass(kind) or hasattr(kind, "get_params")}


def test_no_public_option_is_missing_from_the_table() -> None:
    missing = {kind.__name__ for kind in public_classes()} - KINDS.keys() - NO_OPTIONS
    assert not missing, f"{missing}: enter them in `encoding.KINDS`, or say in NO_OPTIONS that they are no options"
    assert {kind.__name__ for kind in SCORERS.values()} <= KINDS.keys()
    assert all(name == kind.__name__ for name, kind in KINDS.items())
    assert {type(value) for value in INSTANCES} >= {*KINDS.values()} - {Compose, Normalize, RandomCropFlip, LayerWidth}


@pytest.mark.parametrize("value", INSTANCES, ids=lambda value: type(value).__name__)
def test_every_option_comes_back_equal(value: Any) -> None:
    back = again(value)
    assert type(back) is type(value)
    if isinstance(value, TorchTrainer):
        assert back.get_params() == value.get_params()
    elif isinstance(value, Activation):
        assert back.inputs == value.inputs
    elif isinstance(value, Taylor | Hessian):
        assert (back.inputs, back.labels, back.loss) == (value.inputs, value.labels, value.loss)
    elif isinstance(value, Gates):
        assert vars(back) == vars(value)
    else:
        assert back == value


@pytest.mark.parametrize("inner", [kind() for kind in SCORERS.values()], ids=lambda value: type(value).__name__)
def test_every_scorer_comes_back_from_within_others(inner: Any) -> None:
    assert again(TwoStage(inner, Mixture("margin", inner))) == TwoStage(inner, Mixture("margin", inner))
    if hasattr(inner, "score"):
        for outer in (ClassBalanced(inner), ClassStandardised(inner)):
            assert again(outer) == outer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Margin", Margin),
        ("prunefuse_al.scorers:Margin", Margin),  # as files of version 1 say
        ("prunefuse_al:FallingRatio", None),
        ("prunefuse_al.wherever.it.was:Margin", Margin),
    ],
)
def test_old_names_are_found_in_the_same_table(name: str, kind: type | None) -> None:
    items = {} if kind else {"start": 0.5, "end": 0.1, "labels": [1, 9]}
    assert type(decode({"as": name, "items": items})) is (kind or FallingRatio)


@pytest.mark.parametrize("value", [np.float64(0.5), np.int64(3), np.bool_(True), np.float32(0.5), np.str_("x")])
def test_numbers_of_numpy_come_back_as_numbers(value: Any) -> None:
    assert again(value) == value
    assert type(again(value)) in (float, int, bool, str)


class Own(Margin.__mro__[0]):  # type: ignore[misc]
    """A user's own, made of one of ours."""


@pytest.mark.parametrize(
    "value",
    [
        lambda: None,
        torch.zeros(2),
        np.zeros(2),
        Own(),
        CostAware("margin", [1.0]),
        object(),
        torch.device("cpu"),
        {1: 2},
        {"a": print},
    ],
)
def test_what_cannot_be_plain_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="cannot be written as JSON"):
        encode(value)


def test_a_file_of_features_is_not_taken_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"features='.*f.npy' is not taken from a file; pass proxy= to load"):
        encode(Probe(tmp_path / "f.npy"))
    with pytest.raises(CheckpointError, match="is not taken from a file"):
        decode({"as": "Probe", "items": {"features": str(tmp_path / "f.npy")}})


def test_options_of_a_compiler_are_not_taken_from_a_file() -> None:
    assert again(TorchTrainer(compile=True)).compile is True
    with pytest.raises(CheckpointError, match="is not taken from a file; pass the trainer to load"):
        encode(TorchTrainer(compile={"options": {"trace.debug_dir": "/tmp"}}))


def test_no_file_asks_for_work_without_end() -> None:
    endless = {"as": "ProgressivePruning", "items": {"epochs": 10**12, "steps": 10**12}}
    with pytest.raises(CheckpointError, match="steps=1000000000000 is not taken from a file; pass progressive="):
        decode(endless)
