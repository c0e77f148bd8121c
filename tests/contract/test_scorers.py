"""Every scorer of the table keeps the contract that is shipped to users, and none can be forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import prunefuse_al.scorers as scorers
from prunefuse_al.scorers import SCORERS, LeastConfidence, Margin, Random, get_scorer
from prunefuse_al.testing import check_scorer, example_signals, unchanged_global_rng
from prunefuse_al.types import PointScorer, Selection

ORACLES = Path(__file__).parents[1] / "oracles"


@pytest.mark.parametrize("name", SCORERS)
def test_contract(name):
    assert len(check_scorer(get_scorer(name))) == 12


def test_every_scorer_class_is_in_the_table_exported_and_has_an_oracle():
    modules = [
        importlib.import_module(f"prunefuse_al.scorers.{m.name}") for m in pkgutil.iter_modules(scorers.__path__)
    ]
    classes = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and hasattr(cls, "select")
    }
    assert classes == set(SCORERS.values())
    for name, cls in SCORERS.items():
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
        ("entrophy", r"unknown scorer 'entrophy'; did you mean 'entropy'\? known: .*entropy, .*least_confidence"),
        ("zzz", "unknown scorer 'zzz'; known: "),
        (Margin, r"pass an instance: Margin\(\)"),
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
        if fault == "same_seed_same_picks":
            return Random().select(signals, k)
        if fault == "precisions_agree" and signals.logits.dtype == torch.float64:
            signals = replace(signals, logits=-signals.logits)
        picked = LeastConfidence().select(signals, k, rng=rng)
        if fault == "row_order_is_irrelevant":
            return Selection(signals.indices[self.score(signals).argsort(descending=True)[:k]])
        if fault == "picks_exactly_k":
            return Selection(picked.indices[:1].repeat(k))
        if fault == "renaming_renames":
            return Selection(picked.indices.sort().values if signals.indices.min() < 1_000 else picked.indices)
        return picked

    def __repr__(self):
        return "<Broken>" if self.fault == "survives_pickle_and_repr" else f"Broken({self.fault!r})"


@pytest.mark.parametrize(
    "fault",
    [
        "picks_exactly_k",
        "renaming_renames",
        "same_seed_same_picks",
        "leaves_inputs_alone",
        "reads_only_declared_needs",
        "refuses_non_finite",
        "refuses_bad_budgets",
        "precisions_agree",
        "scores_rank",
        "row_order_is_irrelevant",
        "survives_pickle_and_repr",
    ],
)
def test_each_check_can_fail(fault):
    with pytest.raises(AssertionError, match=fault):
        check_scorer(Broken(fault))
    assert isinstance(Broken(fault), PointScorer)


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
