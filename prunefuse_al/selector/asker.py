"""`Asker`: what the proxy of a selector says about rows that come part by part, in whatever parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..costs import CostLedger
from ..network import fold_batchnorm, predicted_classes
from ..proxies import batchnorms
from ..training import INFERRED, LOGITS, Reader
from ..types import Signals, statement
from .holding import Holder


class Asker:
    """Asks a trained proxy about parts of a pool, so that it does not matter how the pool was parted.

    A row's last bits depend, on some processors, on the shape of the batch that it goes through the network in. Here
    every batch has the same: the one that the trainer reads by (`eval_batch_size`), filled up with copies of the part's
    last row. The network is made ready once.

    Args:
        selector: with a trained proxy; not changed, and its ledger gets no rows.

    Raises:
        NotFittedError: nothing has been trained yet.
    """

    def __init__(self, selector: Holder) -> None:
        self._options, self._state = selector.options, selector._fitted("select")
        self._readers: dict[bool, Reader] = {}
        said = statement(self._options.trainer)
        self._states_batches = (said.eval_batch_size or said.batch_size) is not None
        self.batch_size = int(said.eval_batch_size or max(256, said.batch_size or 0))

    def ask(self, data: Any, needs: frozenset[str]) -> Signals:
        """Return the signals in `needs` of every row of a dataset, followed by those of the rows that fill it up.

        Args:
            data: dataset of n rows.
            needs: names among "logits", "features", "mc_logits" and "labels" (those that the proxy predicts).

        Raises:
            NonFiniteError: NaN or infinity, in inputs or answers.
            InputError: the data cannot be read, or not by this network.
        """
        asked = needs & INFERRED | (LOGITS if "labels" in needs else frozenset())
        reader, n = self._reader(data, fold=needs == LOGITS), len(data)
        rows = torch.arange(-(-n // self.batch_size) * self.batch_size).clamp_max(n - 1)
        # A trainer that does not say by how many rows it reads gets as many at once as it should read.
        parts = rows.split(len(rows) if self._states_batches else self.batch_size)
        said = _joined([reader.ask(part, asked) for part in parts])
        return replace(said, labels=predicted_classes(said).cpu()) if "labels" in needs else said

    def _reader(self, data: Any, *, fold: bool) -> Reader:
        """Return what asks the proxy about a dataset; BatchNorm is folded as a query folds it."""
        fold = fold and self._options.fold_batchnorm
        if fold in self._readers:
            return replace(self._readers[fold], data=data)
        task = self._options.task(CostLedger(), self._state.dense, data, self._state.round)
        reader = self._options.kind.reader(task, self._state.proxy)
        if type(reader) is not Reader:  # it asks about what was computed of these rows beforehand
            return reader
        if fold and batchnorms(reader.network):
            reader = replace(reader, network=fold_batchnorm(reader.network, reader.example()) or reader.network)
        self._readers[fold] = reader
        return reader


def _joined(parts: list[Signals]) -> Signals:
    """Return signals of several parts as those of one."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str, dim: int = 0) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found, dim)

    indices = torch.cat([part.indices for part in parts])
    passes = joined("mc_logits", 1)
    return Signals(indices, joined("logits"), joined("features"), passes, outputs=parts[0].outputs)
