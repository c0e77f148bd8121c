"""What a scorer made of other scorers takes from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..types import Scorer
from ._dynamics import dynamics_of
from ._select import logits_read


def part_of(scorer: str | Scorer) -> Any:
    """Return a combinator's part as a scorer; see `get_scorer`."""
    from . import get_scorer  # the table of names holds the combinators, so it is not there before they are

    return get_scorer(scorer)


class MadeOfScorers(ABC):
    """Reads what its parts read.

    Attributes:
        reads: what it reads besides.
    """

    reads: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def parts(self) -> tuple[Scorer, ...]:
        """The scorers that it is made of."""

    @property
    def needs(self) -> frozenset[str]:
        """What its parts read, and what it reads besides."""
        return self.reads.union(*(part.needs for part in self.parts))

    @property
    def outputs(self) -> str:
        """What logits its parts read, see `Scorer.needs`."""
        return logits_read(*self.parts)

    @property
    def dynamics(self) -> frozenset[str]:
        """The training dynamics that its parts read."""
        return dynamics_of(*self.parts)
