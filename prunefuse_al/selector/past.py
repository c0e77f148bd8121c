"""What a network said while it was trained, asked again of any data with the states kept of it.

A pool is known only once it is asked about, so nothing can be recorded on it while the network trains. The states that
a `Recorder` keeps give the same: each answers for the pool, and labels are what the trained network predicts there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..network import predicted_classes
from ..scorers import EARLY, answers, gradient_norms, gradient_products, gradient_sum
from ..training import Snapshot, Tally
from ..types import Signals, Trainer
from .asking import ask

_LAST_LAYER = frozenset({"grand", "moso"})  # dynamics that read the input of the last layer
_OF_EARLY_STATES = frozenset({"el2n", "grand"})


@dataclass(frozen=True, eq=False)
class Past:
    """The training of a network, and labels where they are given.

    Attributes:
        network: a network of the same shape, into which the states are put in turn; None: none are asked.
        snapshots: the states.
        names: which training dynamics are asked for.
        labels: given labels of all rows of the data, int64 [n]; None: what the trained network predicts.
        recorded: dynamics that are known already, by row of the data.
        gradients: mean last-layer gradient at each state over all rows asked about, float64 [c d+1]; for moso.
        n: how many rows those are.
    """

    network: nn.Module | None = None
    snapshots: tuple[Snapshot, ...] = ()
    names: frozenset[str] = frozenset()
    labels: Tensor | None = None
    recorded: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: tuple[Tensor, ...] = ()
    n: int = 0

    def labels_of(self, rows: Tensor, said: Signals | None) -> Tensor:
        """Return labels, int64 [b], of `rows`: given ones, or the likeliest class in the logits of what was said."""
        if self.labels is not None:
            return self.labels[rows]
        assert said is not None  # it is asked for where labels are needed
        return predicted_classes(said).cpu()

    def dynamics(self, trainer: Trainer, data: Any, signals: Signals) -> dict[str, Tensor]:
        """Return the dynamics asked for, float64 [b] each, of the rows of `data` and with the labels in `signals`."""
        found = {name: self.recorded[name][signals.indices] for name in self.names & self.recorded.keys()}
        missing = self.names - found.keys()
        return found | (self._replay(trainer, data, signals, missing) if missing else {})

    def with_gradients(self, trainer: Trainer, model: nn.Module, data: Any, chunks: tuple[Tensor, ...]) -> Past:
        """Return the same with `gradients` over all rows in `chunks`, where moso is asked for.

        Args:
            trainer: who asks.
            model: the trained network, which predicts labels where none are given.
            data: the rows' dataset.
            chunks: row numbers, int64 [b] each, read at once.
        """
        if "moso" not in self.names - self.recorded.keys():
            return self
        sums: list[Any] = [0] * len(self.snapshots)
        for rows in chunks:
            said = ask(trainer, model, data, rows, frozenset({"logits"})) if self.labels is None else None
            labels = self.labels_of(rows, said)
            for position, (_, outputs, features) in enumerate(self._ask(trainer, data, rows, frozenset({"moso"}))):
                sums[position] += gradient_sum(outputs, features, labels)
        n = sum(map(len, chunks))
        return replace(self, gradients=tuple(total / n for total in sums), n=n)

    def _replay(self, trainer: Trainer, data: Any, signals: Signals, names: frozenset[str]) -> dict[str, Tensor]:
        rows, labels = signals.indices, signals.labels
        assert labels is not None
        tally, every = Tally(len(labels)), torch.arange(len(labels))
        norms, gains = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), dtype=torch.float64)
        early = early_ones(self.snapshots)
        for position, (snapshot, logits, features) in enumerate(self._ask(trainer, data, rows, names)):
            tally.add(every, answers(logits, labels), early=position < early)
            if "grand" in names and position < early:
                norms += gradient_norms(logits, features, labels) / early
            if "moso" in names:
                gains += snapshot.lr * gradient_products(logits, features, labels, self.gradients[position], self.n)
        found = {**tally.dynamics(), "grand": norms, "moso": gains}
        return {name: found[name] for name in names}

    def _ask(
        self, trainer: Trainer, data: Any, rows: Tensor, names: frozenset[str]
    ) -> Iterator[tuple[Snapshot, Tensor, Tensor]]:
        """Yield each state that `names` look at, with logits and, where they read them, features of the rows in it."""
        needs = frozenset({"logits", "features"} if names & _LAST_LAYER else {"logits"})
        assert self.network is not None
        count = early_ones(self.snapshots) if names <= _OF_EARLY_STATES else len(self.snapshots)
        for snapshot in self.snapshots[:count]:
            self.network.load_state_dict(snapshot.weights)
            said = ask(trainer, self.network, data, rows, needs)
            assert said.logits is not None
            logits = said.logits.cpu()
            yield snapshot, logits, logits if said.features is None else said.features.cpu()


def early_ones(snapshots: tuple[Snapshot, ...]) -> int:
    """Return how many of the states are early ones, for el2n and grand: of the first `EARLY` epochs, at least one."""
    return max(1, sum(snapshot.epoch <= EARLY for snapshot in snapshots))
