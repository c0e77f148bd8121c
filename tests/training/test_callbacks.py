"""Callbacks and metrics see a training and change nothing in it."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp
from sklearn.base import clone
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector
from prunefuse_al.errors import CheckpointError, InputError
from prunefuse_al.training import EarlyStopping, Recorder, TorchTrainer, TrainingHistory

X, Y = blobs(60)
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"}


class Noted:
    """Writes down what it is told, and does what it is asked to when it is told something."""

    def __init__(self, **does: Callable[[Any], Any]) -> None:
        self.does, self.told = does, []

    def begin(self, model: nn.Module, epochs: int) -> None:
        self.told.append(("begin", epochs))
        self.does.get("begin", id)(model)

    def end_epoch(self, model: nn.Module, row: Mapping[str, float]) -> None:
        self.told.append(("end_epoch", row))
        self.does.get("end_epoch", id)(model)

    def end(self, history: TrainingHistory | None) -> None:
        self.told.append(("end", history))
        self.does.get("end", id)(history)

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.told]


class Accuracy:
    """A metric in parts, as torchmetrics has them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.count = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        assert not logits.requires_grad
        self.right += int((logits.argmax(1) == labels).sum())
        self.count += len(labels)

    def compute(self) -> Tensor:
        return torch.tensor([self.right / self.count])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def drawing(*_: Any) -> float:
    """Draw random numbers from everywhere."""
    return random.random() + np.random.rand() + float(torch.rand(()))


def trained(**options: Any) -> tuple[nn.Module, TrainingHistory]:
    network = nn.Sequential(mlp(6, 8, 8), nn.Dropout(0.5), mlp(8, 8, 3))
    return network, TorchTrainer(**{**QUICK, **options}).fit(network, (X, Y), seed=0)


def rows_of(history: TrainingHistory, *names: str) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in names} for row in history.epochs]


def test_callbacks_hear_of_every_epoch_and_of_the_history() -> None:
    first, second = Noted(), Noted()
    _, history = trained(callbacks=[first, second])
    assert first.told == [("begin", 3), *(("end_epoch", row) for row in history.epochs), ("end", history)]
    assert second.told == first.told


def test_one_callback_sees_all_trainings_of_a_loop() -> None:
    noted = Noted()
    selector = PrunedProxySelector(mlp(6, 8, 3), trainer=TorchTrainer(**QUICK, callbacks=[noted]), random_state=0)
    selector.fit(X[:30], Y[:30]).fit(X, Y).fit_target()
    assert noted.words == ["begin", *["end_epoch"] * 3, "end"] * 3


@pytest.mark.parametrize("rule", [None, EarlyStopping(patience=1)])
def test_a_training_is_the_same_when_it_is_watched(rule: EarlyStopping | None) -> None:
    callback = Noted(begin=drawing, end_epoch=lambda model: (model.eval(), drawing()), end=drawing)
    metrics = {"drawn": drawing, "right": Accuracy()}
    plain, history = trained(early_stopping=rule)
    watched, seen = trained(early_stopping=rule, callbacks=[callback], metrics=metrics)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert rows_of(seen, "drawn", "right", "val_drawn", "val_right") == list(history.epochs)
    assert watched.training


def test_rows_are_copies() -> None:
    callback = Noted()
    callback.does["end_epoch"] = lambda _: callback.told[-1][1].clear()
    _, history = trained(callbacks=[callback])
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3]


class Broken(Exception):
    pass


def breaking(_: Any) -> None:
    raise Broken


@pytest.mark.parametrize("when", ["begin", "end_epoch", "end"])
def test_one_that_raises_ends_the_training_and_leaves_the_selector_as_it_was(when: str) -> None:
    good, bad = Noted(), Noted()
    trainer = TorchTrainer(**QUICK, callbacks=[good, bad])
    selector = PrunedProxySelector(mlp(6, 8, 3), trainer=trainer, random_state=0).fit(X[:30], Y[:30])
    before, rows = selector.query(X, 5), len(selector.costs)
    bad.does[when] = breaking
    with pytest.raises(Broken):
        selector.fit(X, Y)
    assert (selector.round, len(selector.costs)) == (1, rows)
    assert (selector.query(X, 5) == before).all()
    assert good.words.count("begin") == good.words.count("end") == 2
    assert good.told[-1] == ("end", None)
    assert bad.words.count("end") == (1 if when == "begin" else 2)


def test_all_that_began_are_told_of_a_training_that_fails() -> None:
    callback = Noted()
    network = mlp(6, 8, 3)
    with pytest.raises(InputError, match=r"metric 'wrong' failed on outputs .*and labels"):
        TorchTrainer(**QUICK, callbacks=[callback], metrics={"wrong": lambda z, y: z @ y}).fit(network, (X, Y), seed=0)
    assert callback.told == [("begin", 3), ("end", None)]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), mlp(6, 8, 3).parameters(), strict=True))


@torch.no_grad()
def spoil(model: nn.Module) -> None:
    next(model.parameters()).add_(1)


@pytest.mark.parametrize("when", ["begin", "end_epoch"])
def test_one_that_changes_the_weights_is_refused_and_they_are_put_back(when: str) -> None:
    network = mlp(6, 8, 3)
    with pytest.raises(InputError, match=f"Noted.{when} changed the weights"):
        TorchTrainer(**QUICK, callbacks=[Noted(**{when: spoil})]).fit(network, (X, Y), seed=0)
    same = [torch.equal(a, b) for a, b in zip(network.parameters(), mlp(6, 8, 3).parameters(), strict=True)]
    assert all(same) == (when == "begin")
    assert all(bool((p.abs() < 3).all()) for p in network.parameters())


def test_metrics_are_of_whole_epochs_in_parts_or_at_once() -> None:
    given = Accuracy()
    rule = EarlyStopping(validation_fraction=0.3, patience=9)
    _, history = trained(metrics={"parts": given, "once": accuracy}, early_stopping=rule)
    for row in history.epochs:
        for prefix in ("", "val_"):
            assert row[f"{prefix}parts"] == pytest.approx(row[f"{prefix}accuracy"])
            assert row[f"{prefix}once"] == pytest.approx(row[f"{prefix}accuracy"])
    assert given.count == 0


def test_functions_see_all_rows_once_an_epoch() -> None:
    sizes: list[tuple[int, ...]] = []
    trained(metrics={"n": lambda z, y: sizes.append((*z.shape, len(y))) or 0})
    assert sizes == [(60, 3, 60)] * 3


@pytest.mark.parametrize("value", [torch.ones(3), "high", None, True, {"a": 1.0}], ids=str)
def test_a_metric_gives_one_number(value: Any) -> None:
    with pytest.raises(InputError, match=r"metrics\['m'\]: what it returned"):
        trained(metrics={"m": lambda z, y: value})


def test_a_recorder_and_metrics_go_together() -> None:
    recorder = Recorder()
    trainer = TorchTrainer(**QUICK, metrics={"m": accuracy})
    assert trainer.fit(mlp(6, 8, 3), (X, Y), seed=0, recorder=recorder).epochs[-1]["m"] >= 0
    assert recorder.presented.tolist() == [3] * 60


def test_they_are_cloned_and_pickled_with_the_trainer_and_asked_for_at_load(tmp_path: Any) -> None:
    trainer = TorchTrainer(**QUICK, callbacks=[Noted()], metrics={"m": accuracy, "parts": Accuracy()})
    for other in (clone(trainer), pickle.loads(pickle.dumps(trainer)), copy.deepcopy(trainer)):
        other.fit(mlp(6, 8, 3), (X, Y), seed=0)
        assert other.callbacks[0].words == ["begin", *["end_epoch"] * 3, "end"]
    selector = PrunedProxySelector(mlp(6, 8, 3), trainer=trainer, random_state=0).fit(X, Y)
    selector.save(tmp_path / "file")
    with pytest.raises(CheckpointError, match="trainer"):
        PrunedProxySelector.load(tmp_path / "file", mlp(6, 8, 3))
    loaded = PrunedProxySelector.load(tmp_path / "file", mlp(6, 8, 3), trainer=trainer)
    assert (loaded.query(X, 5) == selector.query(X, 5)).all()
