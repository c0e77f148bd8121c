"""What every scorer of single samples does with its scores."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from ..types import RngLike, Selection, Signals
from ._select import check_k_of, select_top


class Ranker(ABC):
    """Picks the samples that it scores highest, whatever a subclass scores them by."""

    @abstractmethod
    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k best, best first; `rng` breaks ties (None: the lower row first)."""
        name = type(self).__name__
        check_k_of(name, k, signals)
        return select_top(name, self.score(signals), signals, k, rng)
