"""Uniform sampling: the baseline every other scorer has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..types import RngLike, Selection, Signals, as_rng
from ._select import check_k_of


@dataclass(frozen=True)
class Random:
    """Picks uniformly without replacement and looks at nothing; `rng=None` takes fresh entropy."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in random order, without scores."""
        k = check_k_of("Random", k, signals)
        positions = as_rng(rng).choice(len(signals), size=k, replace=False)
        return Selection(signals.indices.cpu()[torch.from_numpy(positions)])
