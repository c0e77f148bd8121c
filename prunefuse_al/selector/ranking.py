"""`Ranking`: what a scorer picks among candidates, by what the trained proxy says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..costs import CostLedger
from ..data import labels_of
from ..network import fold_batchnorm
from ..proxies import batchnorms
from ..scorers import ClassBalanced, ClassStandardised, Composed, checked_picks, dynamics_of, picks_of, select_top
from ..training import LOGITS, Known, Reader, refuse_unread
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, statement
from .answers import LABELLED, check_needs
from .options import Options
from .state import Trained

_BY_CLASS = (ClassBalanced, ClassStandardised)
"""Scorers of the scores that another one gives each sample, which are worked out first, part by part."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ranks rows of a dataset by what the proxy says of them, each step measured in a ledger.

    Attributes:
        options: see `Options`.
        ledger: gets the rows.
        state: with a trained proxy.
        data: dataset that the rows are of.
        labelled: dataset of what is labelled, for scorers that read about it; None: nothing is.
        known: what is known besides the proxy's answers: its training, given labels.
        stage: what the ledger calls ranking: "rank", or "coreset" of labelled data.
    """

    options: Options
    ledger: CostLedger
    state: Trained
    data: Any
    labelled: Any
    known: Known | None = None
    stage: str = "rank"

    def pick(self, scorer: Scorer, rows: Tensor, k: int, rng: RngLike) -> Selection:
        """Return the k of `rows`, int64 [m], that `scorer` picks.

        Raises:
            InputError: the scorer returned something else than k different ones of them.
            NonFiniteError: scores with NaN or infinity.
        """
        needs = check_needs(scorer)
        if isinstance(scorer, Composed):  # each stage reads what it needs, of the rows that it sees
            picked = checked_picks(scorer, scorer.compose(self.pick, rows, k, rng), rows, k)
        else:
            signals, scores = self._read(scorer, rows, needs)
            with self.ledger.stage(self.stage, round=self.state.round, network="proxy"):
                if scores is None:
                    shown = statement(self.options.trainer).progress is not False
                    picked = picks_of(scorer, signals, k, rng, progress=shown)
                elif isinstance(scorer, _BY_CLASS):
                    picked = scorer.select_scored(scores, signals, k, rng=rng)
                else:
                    picked = select_top(type(scorer).__name__, scores, signals, k, rng)
        if not needs & {"labels", "dynamics"}:
            return picked
        return replace(picked, labels="predicted" if self.known is None or self.known.labels is None else "given")

    def _read(self, scorer: Scorer, rows: Tensor, needs: frozenset[str]) -> tuple[Signals, Tensor | None]:
        """Return the signals of `rows` and None; or, of a scorer of single samples, labels alone and scores [m]."""
        point = scorer.scorer if isinstance(scorer, _BY_CLASS) else scorer
        if not needs:
            return Signals(rows), None
        # Before the stage: what a kind of proxy computes to be asked has a stage of its own.
        reader, about = self._asking(self.data, rows), self._about_labelled(needs)
        known = None if self.known is None else replace(self.known.asking(reader.network), names=dynamics_of(scorer))
        with self._scoring(reader, needs, known) as reader:
            beside = self._beside(reader, rows, about, needs)
            if known is not None:
                known = known.prepared(reader, rows)
            if isinstance(point, PointScorer):  # a score per row, and perhaps a label, is all that stays in memory
                scores, labels = reader.scores(point, rows, needs, known, beside)
                return Signals(rows, labels=labels), scores
            kept = {"features_dtype": self.options.features_dtype, "features_path": self.options.features_path}
            signals = replace(reader.signals(rows, needs, known, **kept), **beside)
            refuse_unread(scorer, signals)
            return signals, None

    def _asking(self, data: Any, rows: Tensor | None) -> Reader:
        """Return what asks the proxy about rows of a pool or of what is labelled; None: all of them."""
        task = self.options.task(self.ledger, self.state.dense, data, self.state.round)
        return self.options.kind.reader(task, self.state.proxy, rows, pool=data is self.data)

    @contextlib.contextmanager
    def _scoring(self, reader: Reader, needs: frozenset[str], known: Known | None) -> Iterator[Reader]:
        """Measure scoring, and yield what asks the proxy: BatchNorm folded where only logits are read."""
        with self.ledger.stage("score", round=self.state.round, network="proxy", dense=self.state.dense) as stage:
            if self.options.fold_batchnorm and needs == LOGITS and batchnorms(reader.network):
                reader = replace(reader, network=fold_batchnorm(reader.network, reader.example()) or reader.network)
            replay = None if known is None else known.replay
            reader.watched(stage, *([] if replay is None or replay.network is None else [replay.network]))
            yield reader

    def _about_labelled(self, needs: frozenset[str]) -> Any:
        """Return what is read about the labelled samples; None where nothing is read, or nothing is labelled."""
        wanted = self.labelled is not None and needs & LABELLED.keys()
        return self._asking(self.labelled, None).data if wanted else None

    def _beside(self, reader: Reader, rows: Tensor, about: Any, needs: frozenset[str]) -> dict[str, Any]:
        """Return those of the `needs` that are not of candidates: the head, and what is known of labelled samples.

        Where nothing is labelled, that is of no row.
        """
        found: dict[str, Any] = {"head": reader.head(rows)} if "head" in needs else {}
        if "labelled_labels" in needs:
            labels = None if self.labelled is None else labels_of(self.labelled)
            found["labelled_labels"] = torch.empty(0, 0) if labels is None else labels
        asked = {name: field for name, field in LABELLED.items() if name in needs}
        if not asked:
            return found
        nothing = about is None  # one row is asked all the same: it tells how wide the signals are
        reader = reader if nothing else replace(reader, data=about)
        some = rows[:1] if nothing else None
        signals = reader.signals(some, frozenset(asked.values()), features_dtype=self.options.features_dtype)
        return found | {name: getattr(signals, field)[: 0 if nothing else None] for name, field in asked.items()}
