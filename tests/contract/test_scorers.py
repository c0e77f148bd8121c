"""Every scorer of the table keeps the contract that is shipped to users, and none can be forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pytest
import torch

import prunefuse_al.scorers as scorers
from prunefuse_al.scorers import (
    SCORERS,
    ClassBalanced,
    ClassStandardised,
    CostAware,
    LeastConfidence,
    Margin,
    Mixture,
    Random,
    TwoStage,
    get_scorer,
)
from prunefuse_al.testing.contracts import check_scorer, example_signals, unchanged_global_rng
from prunefuse_al.testing.scorer_checks import CHECKS
from prunefuse_al.types import PointScorer, Selection

ORACLES = Path(__file__).parents[1] / "oracles"


NO_DEFAULT = {"cost_aware": CostAware}  # what labels cost has to be said
COMBINED = [
    TwoStage("least_confidence", "bald", keep=3),
    TwoStage("entropy", ClassBalanced("random"), keep=2.5),
    Mixture("bald", "entropy", share=0.3),
    Mixture(share=1),
    ClassBalanced("random"),
    ClassBalanced(Mixture("margin", "random")),
    CostAware("entropy", [2.0] * 400),
    ClassStandardised("entropy"),
]


@pytest.mark.parametrize("name", SCORERS)
def test_contract(name):
    assert check_scorer(get_scorer(name)) == list(CHECKS)


@pytest.mark.parametrize("scorer", COMBINED, ids=repr)
def test_combined_scorers_keep_the_contract(scorer):
    assert check_scorer(scorer) == list(CHECKS)


def test_costs_belong_to_indices():
    """So renaming the candidates changes what they cost, and nothing else may fail."""
    costs = np.random.default_rng(0).uniform(1, 9, 400)
    check_scorer(CostAware("margin", costs), expected_failed_checks={"renaming_renames": "costs are per index"})


def test_every_scorer_class_is_in_the_table_exported_and_has_an_oracle():
    modules = [
        importlib.import_module(f"prunefuse_al.scorers.{m.name}") for m in pkgutil.iter_modules(scorers.__path__)
    ]
    classes = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and hasattr(cls, "select")
        if not issubclass(cls, Protocol) and not inspect.isabstract(cls)
    }
    assert classes == {*SCORERS.values(), *NO_DEFAULT.values()}
    for name, cls in {**SCORERS, **NO_DEFAULT}.items():
        assert getattr(scorers, cls.__name__) is cls
        assert name.replace("_", "") == cls.__name__.lower()
        assert (ORACLES / f"{name}.py").exists(), f"no oracle for {name}"


def test_a_scorer_is_found_by_name_and_passed_through():
    assert get_scorer("margin") == Margin()
    own = LeastConfidence()
    assert get_scorer(own) is own


@pytest.mark.parametrize(
    ("asked", "phrase"),
    [
        ("entrophy", r"unknown scorer 'entrophy'; did you mean 'entropy'\? known: .*entropy, .*random"),
        ("zzz", "unknown scorer 'zzz'; known: "),
        (Margin, r"pass an instance: Margin\(\)"),
        ("cost_aware", r"'cost_aware' cannot go by name alone: .* CostAware\('entropy', costs\)"),
        (3, "scorer=3 has no usable `needs` and `select"),
    ],
)
def test_unknown_scorers_are_refused(asked, phrase):
    with pytest.raises(ValueError, match=phrase):
        get_scorer(asked)


@dataclass(frozen=True)
class Broken:
    """A least-confidence scorer with one fault at a time, to show that each check can fail."""

    fault: str
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals):
        scores = LeastConfidence().score(signals)
        if self.fault == "scores_rank":
            return -scores
        if self.fault == "scores_are_of_the_row_alone":
            return scores - scores.mean()
        return scores + torch.arange(len(scores)) if self.fault == "row_order_is_irrelevant" else scores

    def select(self, signals, k, *, rng=None):
        fault = self.fault
        if fault == "refuses_bad_budgets":
            k = min(max(k, 1), len(signals))
        if fault == "refuses_non_finite":
            signals = replace(signals, logits=signals.logits.nan_to_num())
        if fault == "reads_only_declared_needs" and signals.features is not None:
            signals = replace(signals, logits=signals.logits.flip(0))
        if fault == "leaves_inputs_alone":
            signals.logits.mul_(1.0)
        if fault == "accepts_read_only_inputs" and signals.logits.is_inference():
            signals.logits.mul_(1.0)
        if fault == "same_seed_same_picks":
            return Random().select(signals, k)
        if fault == "takes_any_rng" and not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(rng)
        if fault == "precisions_agree" and signals.logits.dtype == torch.float64:
            signals = replace(signals, logits=-signals.logits)
        picked = LeastConfidence().select(signals, k, rng=rng)
        if fault == "handles_degenerate_inputs":  # as code does that looks samples up by their score
            return Selection(picked.indices[: len(picked.scores.unique())])
        if fault in ("row_order_is_irrelevant", "scores_are_of_the_row_alone"):
            return Selection(signals.indices[self.score(signals).argsort(descending=True)[:k]])
        if fault == "picks_exactly_k":
            return Selection(picked.indices[:1].repeat(k))
        if fault == "renaming_renames":
            return Selection(picked.indices.sort().values)
        return picked

    def __repr__(self):
        return "<Broken>" if self.fault == "survives_pickle_and_repr" else f"Broken({self.fault!r})"


@pytest.mark.parametrize("fault", [name for name in CHECKS if name != "declares_known_needs"])
def test_each_check_can_fail(fault):
    assert isinstance(Broken(fault), PointScorer)
    with pytest.raises(AssertionError, match=rf"^{fault}: "):
        check_scorer(Broken(fault))


@dataclass(frozen=True)
class Fickle:
    """Draws, and always takes the first row too: a fault that shows only in how often rows are picked."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def select(self, signals, k, *, rng=None):
        picked = Random().select(signals, k, rng=rng).indices
        first = signals.indices[:1]
        return Selection(torch.cat([first, picked[picked != first]])[:k])


def test_a_scorer_that_draws_must_draw_all_rows_alike():
    with pytest.raises(AssertionError, match=r"^row_order_is_irrelevant.* more often in one order of the rows"):
        check_scorer(Fickle())


@dataclass(frozen=True)
class Underflowing:
    """An entropy without a guard: 0 * log(0) is NaN, which is sorted somewhere and still gives k samples."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals):
        q = signals.logits.softmax(1)
        return -(q * q.log()).sum(1)

    def select(self, signals, k, *, rng=None):
        LeastConfidence().select(signals, k, rng=rng)  # refuses what has to be refused
        return Selection(signals.indices[self.score(signals).argsort(descending=True)[:k]])


def test_scores_must_be_finite_at_the_edges_too():
    with pytest.raises(
        AssertionError, match=r"^handles_degenerate_inputs: .*logits of \+-1e4: .* of \d+ samples are not finite"
    ):
        check_scorer(Underflowing())


@dataclass(frozen=True)
class Mislaid:
    """Gives scores with its picks that are not theirs."""

    changed: str
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, signals):
        return LeastConfidence().score(signals)

    def select(self, signals, k, *, rng=None):
        picked = LeastConfidence().select(signals, k, rng=rng)
        return replace(picked, scores=picked.scores.flip(0) if self.changed == "order" else picked.scores * torch.nan)


@pytest.mark.parametrize(("changed", "phrase"), [("order", "scores_rank.* are not those"), ("value", "must be finite")])
def test_scores_that_come_with_picks_must_be_theirs(changed, phrase):
    with pytest.raises(AssertionError, match=phrase):
        check_scorer(Mislaid(changed))


def test_the_rng_guard_and_undeclared_needs_can_fail():
    class Undeclared(LeastConfidence):
        needs = frozenset({"pixels"})

    with pytest.raises(AssertionError, match=r"declares_known_needs.*pixels"):
        check_scorer(Undeclared())
    generator = np.random.get_state()
    try:
        with pytest.raises(AssertionError, match="numpy was moved"), unchanged_global_rng():
            np.random.rand()
    finally:
        np.random.set_state(generator)


def test_expected_failures_must_fail_and_must_exist():
    with pytest.raises(AssertionError, match="was expected to fail"):
        check_scorer(Margin(), expected_failed_checks={"precisions_agree": "no reason"})
    with pytest.raises(AssertionError, match="names no check"):
        check_scorer(Margin(), expected_failed_checks={"precision": "typo"})


def test_a_signal_that_is_missing_is_asked_for():
    with pytest.raises(ValueError, match=r"Margin reads signals\.logits, but it is None; collect what scorer\.needs"):
        Margin().select(example_signals(frozenset()), 2)
