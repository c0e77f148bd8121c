"""`Answers`: what a proxy said about rows, by their ids; all that travels from a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..types import Signals
from .ids import Ids, together

Columns = dict[str, np.ndarray[Any, Any]]
_PASSES = "mc_logits"


@dataclass(frozen=True, eq=False)
class Answers:
    """What was said about rows.

    Attributes:
        ids: of these rows, [n].
        columns: by name, each [n ...]: "score", or fields of `Signals` with rows first; features are half precision.
        seen: ids of all rows that were looked at, of which some may have been left out; None: those of these rows.
        outputs: what the logits are, see `Signals.outputs`.
    """

    ids: Ids
    columns: Columns = field(default_factory=dict)
    seen: Ids | None = None
    outputs: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def looked_at(self) -> Ids:
        """The ids of all rows that were looked at."""
        return self.ids if self.seen is None else self.seen

    def take(self, rows: Any) -> Answers:
        """Return those of some rows, by position or mask."""
        return Answers(self.ids[rows], {name: v[rows] for name, v in self.columns.items()}, outputs=self.outputs)

    def signals(self, beside: Mapping[str, Any]) -> Signals:
        """Return them as scorers read them, called by position; `beside` are fields about what is labelled."""
        names = [name for name in self.columns if name != "score"]
        fields: dict[str, Any] = {name: torch.from_numpy(self.columns[name]) for name in names}
        if _PASSES in fields:
            fields[_PASSES] = fields[_PASSES].transpose(0, 1)
        return Signals(torch.arange(len(self)), **fields, **beside, outputs=self.outputs)


def columns_of(signals: Signals, names: Iterable[str], n: int) -> Columns:
    """Return the first `n` rows of some fields of signals as arrays with rows first."""
    found = {}
    for name in sorted(names):
        values = getattr(signals, name)
        values = (values.transpose(0, 1) if name == _PASSES else values)[:n].detach().cpu()
        found[name] = np.ascontiguousarray((values.half() if name == "features" else values).numpy())
    return found


def joined(parts: Iterable[Answers]) -> Answers:
    """Return the answers of several parts as one, ordered by id.

    Raises:
        InputError: ids occur more than once, or their types differ.
    """
    given = list(parts)
    seen = together([part.looked_at for part in given])
    some = [part for part in given if len(part)]
    if not some:
        return Answers(seen[:0], seen=seen)
    ids = np.concatenate([part.ids for part in some])
    order = np.argsort(ids, kind="stable")
    columns = {name: np.concatenate([part.columns[name] for part in some])[order] for name in some[0].columns}
    return Answers(ids[order], columns, seen, some[0].outputs)
