"""What a scorer of a user's own returns is looked at, wherever it is asked, and a wrong answer changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from fakes import blobs, mlp
from torch import Tensor

from prunefuse_al import PrunedProxySelector, Selection, Signals, TorchTrainer
from prunefuse_al.errors import InputError, NonFiniteError
from prunefuse_al.scorers import (
    CCS,
    ClassBalanced,
    ClassStandardised,
    CostAware,
    LeastConfidence,
    Mixture,
    TwoStage,
)
from prunefuse_al.testing.contracts import example_signals

X, Y = blobs(60)
K = 5
Answer = Callable[[Tensor, int], Any]


@dataclass(frozen=True)
class Own:
    """Picks by a function of (indices of the candidates, k), and looks at nothing."""

    answer: Answer
    needs: ClassVar[frozenset[str]] = frozenset()

    def select(self, signals: Signals, k: int, *, rng: Any = None) -> Any:
        return self.answer(signals.indices, k)


@dataclass(frozen=True)
class OwnScore:
    """Scores by a function of the logits."""

    answer: Callable[[Tensor], Any]
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals: Signals) -> Any:
        return self.answer(signals.logits)

    def select(self, signals: Signals, k: int, *, rng: Any = None) -> Selection:
        return Selection(signals.indices[:k])


WRONG_PICKS: dict[str, tuple[Answer, str]] = {
    "nothing": (lambda rows, k: None, "Own.*select returned None, a NoneType; it must return a Selection of k="),
    "a tensor": (lambda rows, k: rows[:k], r"select returned tensor\(\[.*, a Tensor; it must return a Selection"),
    "too few": (
        lambda rows, k: Selection(rows[: k - 1]),
        "gave 4 indices; it must return a Selection of k=5 different",
    ),
    "too many": (lambda rows, k: Selection(rows[: k + 1]), "gave 6 indices; .* of k=5 different"),
    "twice": (lambda rows, k: Selection(rows[:1].repeat(k)), r"gave 1 index \(\d+\) more than once; .*signals.indices"),
    "outside": (lambda rows, k: Selection(rows[:k] + 10**6), r"gave 5 indices \(1000\d+, .*\), which are no candid"),
    "below 0": (lambda rows, k: Selection(-1 - rows[:k]), r"gave 5 indices \(-\d+, .*which are no candidates"),
    "floats": (lambda rows, k: Selection(rows[:k].float()), r"Selection: indices=.*; pass whole numbers \[k\]"),
    "flags": (lambda rows, k: Selection(rows[:k] > 0), r"Selection: indices=.*; pass whole numbers \[k\]"),
    "two columns": (lambda rows, k: Selection(rows[:k, None]), r"Selection: indices=.*\[5, 1\].*; pass whole numbers"),
    "scores of all": (
        lambda rows, k: Selection(rows[:k], torch.zeros(len(rows))),
        r"Selection: scores=.* for 5 indices; pass one for each",
    ),
    "words as scores": (lambda rows, k: Selection(rows[:k], "high"), "Selection: scores='high'; pass floats"),  # type: ignore[arg-type]
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "first of two stages": lambda own: TwoStage(own, "random", keep=1),
    "second of two stages": lambda own: TwoStage("margin", own, keep=3),
    "part of a mixture": lambda own: Mixture(own, "margin", share=1),
    "within a class": lambda own: ClassBalanced(own),
    "within both": lambda own: TwoStage("margin", Mixture("random", own, share=0), keep=3),
}


@pytest.fixture(scope="module")
def fitted() -> PrunedProxySelector:
    trainer = TorchTrainer(1, progress=False, device="cpu")
    return PrunedProxySelector(mlp(6, 16, 3), trainer=trainer, random_state=0).fit(X, Y)


def unchanged(selector: PrunedProxySelector, call: Callable[[], Any], error: type[Exception], message: str) -> None:
    before = selector.round, selector.costs.rows(), selector._state
    with pytest.raises(error, match=message):
        call()
    assert (selector.round, selector.costs.rows(), selector._state) == before


@pytest.mark.parametrize("name", WRONG_PICKS)
def test_wrong_picks_are_refused_by_name(fitted: PrunedProxySelector, name: str) -> None:
    answer, message = WRONG_PICKS[name]
    unchanged(fitted, lambda: fitted.select(X, K, scorer=Own(answer)), InputError, message)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["nothing", "too few", "twice", "outside"])
def test_they_are_refused_within_every_other_scorer(fitted: PrunedProxySelector, place: str, name: str) -> None:
    scorer, said = PLACES[place](Own(WRONG_PICKS[name][0])), {"nothing": "returned None", "too few": "gave .* indices"}
    message = {**said, "twice": "more than once", "outside": "which are no candidates"}[name]
    unchanged(fitted, lambda: fitted.select(X, 12, scorer=scorer), InputError, f"^Own.*select.*{message}")
    with pytest.raises(InputError, match=f"^Own.*select.*{message}"):
        scorer.select(example_signals(frozenset({"logits", "labels"})), 12, rng=0)


@pytest.mark.parametrize("name", WRONG_PICKS)
def test_they_are_refused_of_a_core_set(fitted: PrunedProxySelector, name: str) -> None:
    answer, message = WRONG_PICKS[name]
    unchanged(fitted, lambda: fitted.coreset(X, K / 60, Y, scorer=Own(answer)), InputError, message)


WRONG_SCORES: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "nothing": (lambda z: None, InputError, r"OwnScore.*\.score returned None, a NoneType; it must return one finite"),
    "a number": (lambda z: 3.0, InputError, r"score returned 3\.0, a float; it must"),
    "one": (
        lambda z: z.sum(),
        InputError,
        r"score returned float32 \[\]; it must return one finite float for each of 60",
    ),
    "a column": (lambda z: z[:, :1], InputError, r"score returned float32 \[60, 1\]"),
    "whole numbers": (lambda z: z.argmax(1), InputError, r"score returned int64 \[60\]"),
    "too few": (lambda z: z[1:, 0], InputError, r"score returned float32 \[59\]"),
    "NaN": (lambda z: z[:, 0].index_fill(0, torch.tensor([7]), torch.nan), NonFiniteError, r"scores of 1 of 60.*\[7\]"),
    "infinity": (lambda z: z[:, 0] / 0, NonFiniteError, "scores of 60 of 60 samples are NaN or infinite"),
}
SCORED: dict[str, Callable[[Any], Any]] = {
    "alone": lambda own: own,
    "by class": lambda own: ClassBalanced(own),
    "standardised": lambda own: ClassStandardised(own),
    "per cost": lambda own: CostAware(own, np.ones(400)),
    "as difficulty": lambda own: CCS(own),
}


@pytest.mark.parametrize("place", SCORED)
@pytest.mark.parametrize("name", WRONG_SCORES)
def test_wrong_scores_are_refused(fitted: PrunedProxySelector, name: str, place: str) -> None:
    answer, error, message = WRONG_SCORES[name]
    scorer = SCORED[place](OwnScore(answer))
    unchanged(fitted, lambda: fitted.select(X, K, scorer=scorer), error, message)
    if place == "alone":  # its own `select` does not look at them
        return
    with pytest.raises(error, match=message.replace("60", r"\d+").replace("59", r"\d+").replace(r"\[7\]", "")):
        scorer.select(example_signals(frozenset({"logits", "labels"})), K, rng=0)


def test_scores_with_nan_that_come_with_picks_are_refused(fitted: PrunedProxySelector) -> None:
    own = Own(lambda rows, k: Selection(rows[:k], torch.full((k,), torch.nan)))
    unchanged(fitted, lambda: fitted.select(X, K, scorer=own), NonFiniteError, "scores of picks of 5 of 5 samples")


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64])
def test_whole_numbers_of_any_kind_are_picks(fitted: PrunedProxySelector, kind: Any) -> None:
    own = Own(lambda rows, k: Selection(rows[:k].numpy().astype(kind), np.linspace(1, 0, k)))  # type: ignore[arg-type]
    picked = fitted.select(X, K, scorer=own)
    assert picked.indices.dtype == torch.int64
    assert picked.indices.tolist() == list(range(K))
    assert fitted.select(X, K, scorer=Own(lambda rows, k: Selection(rows[:k].tolist()))).indices.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]  # type: ignore[arg-type]


def test_right_answers_pass_untouched(fitted: PrunedProxySelector) -> None:
    own = OwnScore(lambda z: LeastConfidence().score(Signals(torch.arange(len(z)), z)))
    ours, plain = (fitted.select(X, K, scorer=scorer) for scorer in (own, "least_confidence"))
    assert torch.equal(ours.indices, plain.indices)
    assert torch.equal(fitted.select(X, K, scorer=OwnScore(lambda z: own.answer(z).numpy())).indices, plain.indices)


def test_needs_that_nothing_gives_are_found_before_anything_is_trained() -> None:
    @dataclass(frozen=True)
    class Letters(Own):
        needs: Any = "logits"

    with pytest.raises(InputError, match="needs='logits'; give it a frozenset of the names"):
        PrunedProxySelector(mlp(6, 16, 3), scorer=Letters(lambda rows, k: None))
    with pytest.raises(InputError, match="Letters needs pixels, which a pool cannot be asked for here"):
        PrunedProxySelector(mlp(6, 16, 3), scorer=Letters(lambda rows, k: None, frozenset({"pixels"})))
