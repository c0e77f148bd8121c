"""Long work is seen: one switch, the trainer's, for what is read, picked and pruned; nothing where nobody looks."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from fakes import blobs, mlp

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data import showing
from prunefuse_al.scorers import TwoStage

X, Y = blobs(60)


def seen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, **options: Any) -> str:
    """Return what a round writes to stderr where bars of work of any length are shown."""
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(showing, "SHOWN_AFTER", options.pop("after", 0))
    trainer = TorchTrainer(1, device="cpu", **options)
    selector = PrunedProxySelector(mlp(6, 8, 3), trainer=trainer, random_state=0)
    selector.fit(X, Y).select(X, 5, scorer=TwoStage("margin", "k_center"))
    return written.getvalue()


def test_scores_features_and_k_centre_are_followed_as_training_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = seen(monkeypatch, terminal=True)
    assert [word in written for word in ("epoch", "prune: ", "read: ", "k_center: ")] == [True] * 4


@pytest.mark.parametrize(("terminal", "options"), [(True, {"progress": False}), (False, {})])
def test_nothing_is_shown_where_it_was_not_asked_or_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, options: dict[str, Any]
) -> None:
    assert seen(monkeypatch, terminal=terminal, **options) == ""


def test_short_work_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    written = seen(monkeypatch, terminal=True, after=3600)
    assert not any(word in written for word in ("prune: ", "read: ", "k_center: "))
