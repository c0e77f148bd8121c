"""What a Recorder keeps is what an oracle computes that stores every output of every epoch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp
from hypothesis import given
from hypothesis import strategies as st
from oracles import aum, el2n, forgetting
from torch import Tensor, nn

from prunefuse_al.errors import NotFittedError
from prunefuse_al.scorers._dynamics import Answers
from prunefuse_al.training import EarlyStopping, Recorder, TorchTrainer
from prunefuse_al.training.recording import Tally

N = 33  # the last batch of 16 would hold one row, so it joins the one before
X, Y = blobs(N, 5, 3)
X[:, 0] = torch.arange(N) / 100  # says which row a batch holds
Y[::3] = torch.randint(3, (11,), generator=torch.Generator().manual_seed(0))  # not all of it is learnt at once


class Remembers(nn.Module):
    """Keeps every row and output of training, for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = mlp(5, 8, 3, seed=1), []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        if self.training:
            self.seen += zip((x[:, 0] * 100).round().int().tolist(), logits.detach().double().tolist(), strict=True)
        return logits

    def by_row(self) -> dict[int, list[list[float]]]:
        found: dict[int, list[list[float]]] = {}
        for row, logits in self.seen:
            found.setdefault(row, []).append(logits)
        return found


def trained(recorder: Recorder | None, epochs: int = 14, y: Any = Y, **options: Any) -> Remembers:
    model = Remembers()
    trainer = TorchTrainer(epochs, 16, device="cpu", progress=False, lr=0.3, **options)
    trainer.fit(model, (X, y), seed=3, **({} if recorder is None else {"recorder": recorder}))
    return model


@pytest.mark.parametrize(
    "rule", [None, EarlyStopping(patience=50), EarlyStopping(patience=50, validation_fraction=0.5)]
)
def test_the_statistics_are_those_of_everything_that_was_seen(rule: EarlyStopping | None) -> None:
    recorder = Recorder()
    seen = trained(recorder, early_stopping=rule).by_row()
    rows = sorted(seen)
    assert len(rows) == N if rule is None else len(rows) < N
    assert {len(epochs) for epochs in seen.values()} == {14}
    logits = [[seen[row][t] for row in rows] for t in range(14)]
    labels = Y[rows].tolist()
    right = [[max(range(3), key=z.__getitem__) == y for z, y in zip(epoch, labels, strict=True)] for epoch in logits]
    want = {
        "forgetting": forgetting.score(right),
        "aum": aum.score(logits, labels),
        "el2n": el2n.score(logits, labels),
        "correct": np.mean(right, axis=0).tolist(),
    }
    assert recorder.dynamics.keys() == want.keys()
    for name, values in want.items():
        got = recorder.dynamics[name]
        torch.testing.assert_close(got[rows], torch.tensor(values).double(), rtol=1e-5, atol=1e-5)
        held_out = [row for row in range(N) if row not in seen]
        assert got[held_out].isnan().all()
    assert recorder.presented.tolist() == [14 if row in seen else 0 for row in range(N)]
    assert len(set(want["forgetting"])) > 1


@given(correct=st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=15))
def test_forgetting_is_counted_without_keeping_the_presentations(correct: list[list[bool]]) -> None:
    tally = Tally(2)
    for presentation in correct:
        right = torch.tensor(presentation)
        tally.add(torch.arange(2), Answers(right, right.float(), right.float()), early=True)
    assert tally.dynamics()["forgetting"].tolist() == forgetting.score(correct)


def test_training_goes_on_as_without() -> None:
    watched, alone = trained(Recorder()), trained(None)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))


def test_memory_does_not_grow_with_the_epochs() -> None:
    def held(epochs: int) -> int:
        recorder = Recorder(snapshots=2)
        trained(recorder, epochs)
        tensors = [value for value in vars(recorder._tally).values() if isinstance(value, Tensor)]
        assert not recorder._batches
        return sum(t.numel() for t in tensors) + sum(t.numel() for s in recorder.snapshots for t in s.weights.values())

    assert held(4) == held(40)


def test_snapshots_are_the_network_at_the_ends_of_even_parts() -> None:
    recorder = Recorder(snapshots=4)
    model = trained(recorder, 20)
    assert [snapshot.epoch for snapshot in recorder.snapshots] == [5, 10, 15, 20]
    assert recorder.snapshots[0].lr > recorder.snapshots[-1].lr > 0
    last = recorder.snapshots[-1].weights
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())
    assert not torch.equal(recorder.snapshots[0].weights["net.0.weight"], last["net.0.weight"])
    assert trained(none := Recorder(snapshots=0), 2) is not None
    assert none.snapshots == ()


def test_a_recorder_starts_again_with_every_training() -> None:
    recorder = Recorder()
    trained(recorder, 5)
    trained(recorder, 3)
    assert recorder.presented.tolist() == [3] * N
    assert len(recorder.snapshots) == 3


def test_rows_that_the_loss_ignores_have_no_statistics() -> None:
    labels = Y.clone()
    labels[[4, 20]] = -100
    recorder = Recorder()
    trained(recorder, 2, labels)
    assert recorder.presented[[4, 20]].tolist() == [0, 0]
    assert recorder.dynamics["aum"].isnan().nonzero().flatten().tolist() == [4, 20]


def test_processes_add_up_and_a_row_that_fills_up_a_share_counts_once() -> None:
    """Two processes with rows 0, 1 and 2, 0: the sum over both reaches each, as accelerate's reduce has it."""
    logits, labels = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    network = nn.Identity()
    alone, first, second = Recorder(), Recorder(), Recorder()
    for recorder in (alone, first, second):
        recorder.begin(3, 2)
    for epoch, z in enumerate(logits, 1):
        alone.see(torch.arange(3), z, labels)
        alone.end_epoch(epoch, network, 0.1)
        sums: list[Tensor] = []
        for recorder, rows in ((first, [0, 1]), (second, [2, 0])):
            recorder.see(torch.tensor(rows), z[rows], labels[rows])
            copy.deepcopy(recorder).end_epoch(epoch, network, 0.1, lambda own, sums=sums: sums.append(own) or own)
        for recorder in (first, second):
            recorder.end_epoch(epoch, network, 0.1, lambda own, sums=sums: sums[0] + sums[1])
    for recorder in (first, second):
        assert recorder.presented.tolist() == [2, 2, 2]
        for name, values in alone.dynamics.items():
            torch.testing.assert_close(recorder.dynamics[name], values)


def test_what_cannot_be_recorded_is_refused_and_changes_nothing() -> None:
    model = Remembers()
    before = copy.deepcopy(model.state_dict())
    soft = torch.nn.functional.one_hot(Y, 3).float()
    with pytest.raises(ValueError, match=r"logits are \[16, 3\] and labels torch.float32 \[16, 3\]: train without"):
        TorchTrainer(2, 16, progress=False, device="cpu").fit(model, (X, soft), recorder=Recorder())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(NotFittedError, match="nothing has been trained with this Recorder"):
        _ = Recorder().dynamics
    with pytest.raises(
        NotFittedError, match=r"Recorder.see\(rows, logits, labels\) was called before begin\(n, epochs\)"
    ):
        Recorder().see(torch.arange(2), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(NotFittedError, match=r"Recorder.end_epoch\(epoch, model, lr\) was called before begin"):
        Recorder().end_epoch(1, model, 0.1)
    begun = Recorder()
    begun.begin(3, 2)
    with pytest.raises(ValueError, match=r"end_epoch: no batch was seen in epoch 1: call see"):
        begun.end_epoch(1, model, 0.1)
    with pytest.raises(ValueError, match="snapshots=-1; pass how many"):
        Recorder(snapshots=-1)
