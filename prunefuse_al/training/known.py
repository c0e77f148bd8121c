"""What is known of rows besides what a network says now: given labels, and what it said while it was trained.

A pool is known only once it is asked about, so nothing can be recorded on it while the network trains. The states that
a `Recorder` keeps give the same: each answers for the pool, and labels are what the trained network predicts there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..network import copied, predicted_classes
from ..scorers import EARLY, answers, gradient_norms, gradient_products, gradient_sum
from ..types import Signals
from .recording import Snapshot, Tally

if TYPE_CHECKING:
    from .reader import Reader

PART = 16_384
"""Rows whose gradients are summed at once."""
_LAST_LAYER = frozenset({"grand", "moso"})  # dynamics that read the input of the last layer
_OF_EARLY_STATES = frozenset({"el2n", "grand"})


@dataclass(frozen=True, eq=False)
class Replay:
    """The training of a network, asked again of any data.

    Attributes:
        network: a network of the same shape, into which the states are put in turn; None: not known yet.
        snapshots: the states.
        gradients: mean last-layer gradient at each state over all rows asked about, float64 [c d+1]; for moso.
        n: how many rows those are.
    """

    network: nn.Module | None
    snapshots: tuple[Snapshot, ...]
    gradients: tuple[Tensor, ...] = ()
    n: int = 0

    def dynamics(self, reader: Reader, signals: Signals, names: frozenset[str]) -> dict[str, Tensor]:
        """Return the dynamics `names`, float64 [b] each, of the rows and with the labels in `signals`."""
        rows, labels = signals.indices, signals.labels
        assert labels is not None
        tally, every = Tally(len(labels)), torch.arange(len(labels))
        norms, gains = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), dtype=torch.float64)
        early = self._early()
        for position, (snapshot, logits, features) in enumerate(self._ask(reader, rows, names)):
            tally.add(every, answers(logits, labels), early=position < early)
            if "grand" in names and position < early:
                norms += gradient_norms(logits, features, labels) / early
            if "moso" in names:
                gains += snapshot.lr * gradient_products(logits, features, labels, self.gradients[position], self.n)
        found = {**tally.dynamics(), "grand": norms, "moso": gains}
        return {name: found[name] for name in names}

    def with_gradients(self, reader: Reader, rows: Tensor, known: Known) -> Replay:
        """Return the same with `gradients` over all `rows`, as moso compares with them."""
        sums: list[Tensor | int] = [0] * len(self.snapshots)
        for part in rows.split(PART):
            said = Signals(part) if known.labels is not None else reader.ask(part, frozenset({"logits"}))
            labels = known.labels_of(said)
            for position, (_, outputs, features) in enumerate(self._ask(reader, part, frozenset({"moso"}))):
                sums[position] += gradient_sum(outputs, features, labels)
        means = tuple(total / len(rows) for total in sums if isinstance(total, Tensor))
        return replace(self, gradients=means, n=len(rows))

    def _ask(self, reader: Reader, rows: Tensor, names: frozenset[str]) -> Iterator[tuple[Snapshot, Tensor, Tensor]]:
        """Yield each state that `names` look at, with logits and, where they read them, features of the rows in it."""
        needs = frozenset({"logits", "features"} if names & _LAST_LAYER else {"logits"})
        assert self.network is not None
        asked = replace(reader, network=self.network)
        count = self._early() if names <= _OF_EARLY_STATES else len(self.snapshots)
        for snapshot in self.snapshots[:count]:
            asked.network.load_state_dict(snapshot.weights)
            said = asked.ask(rows, needs)
            assert said.logits is not None
            logits = said.logits.cpu()
            yield snapshot, logits, logits if said.features is None else said.features.cpu()

    def _early(self) -> int:
        """Return how many of the states are of the first `EARLY` epochs, for el2n and grand; at least one."""
        return max(1, sum(snapshot.epoch <= EARLY for snapshot in self.snapshots))


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the rows of a dataset besides what the network says of them.

    Attributes:
        labels: given labels of all rows, int64 [n]; None: what the network predicts stands for them.
        names: which training dynamics are asked for.
        recorded: dynamics that are known already, by row.
        replay: gives the others.
    """

    labels: Tensor | None = None
    names: frozenset[str] = frozenset()
    recorded: Mapping[str, Tensor] = field(default_factory=dict)
    replay: Replay | None = None

    def added_to(self, signals: Signals, needs: frozenset[str], reader: Reader) -> Signals:
        """Return signals with the labels and dynamics of their rows, where they are needed."""
        if not needs & {"labels", "dynamics"}:
            return signals
        signals = replace(signals, labels=self.labels_of(signals))
        return replace(signals, dynamics=self._dynamics(signals, reader)) if "dynamics" in needs else signals

    def labels_of(self, said: Signals) -> Tensor:
        """Return labels, int64 [b], of the rows of what was said: given ones, or the likeliest class of its logits."""
        return predicted_classes(said).cpu() if self.labels is None else self.labels[said.indices]

    def asking(self, network: nn.Module) -> Known:
        """Return the same, with the states of a training put into a copy of `network`, which was trained so."""
        return self if self.replay is None else replace(self, replay=replace(self.replay, network=copied(network)))

    def prepared(self, reader: Reader, rows: Tensor) -> Known:
        """Return the same, with what has to be known of all `rows` before the first of them is asked about."""
        if self.replay is None or "moso" not in self.names - self.recorded.keys():
            return self
        return replace(self, replay=self.replay.with_gradients(reader, rows, self))

    def _dynamics(self, signals: Signals, reader: Reader) -> dict[str, Tensor]:
        found = {name: self.recorded[name][signals.indices] for name in self.names & self.recorded.keys()}
        missing = self.names - found.keys()
        if not missing:
            return found
        assert self.replay is not None  # whoever asks for dynamics has looked
        return found | self.replay.dynamics(reader, signals, missing)
