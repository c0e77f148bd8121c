"""The k highest scores of a pool, from parts of it: exact, and of equal scores those with the lower ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from .answered import Answers

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def best_of(answers: Answers, k: int) -> Answers:
    """Return the `k` answers with the highest "score", highest first; of equal ones the lower id first.

    Args:
        answers: ordered by id.
        k: how many, at most as many as there are.
    """
    return answers.take(np.argsort(-answers.columns["score"], kind="stable")[:k])


class Best:
    """Knows the `k` highest scores of the batches that one worker has seen, and with them what is none of the pool's.

    A row is left out where `k` others score higher, so whichever batches went to this worker, and in whatever order,
    none of the pool's `k` best is. None leaves out nothing.
    """

    def __init__(self, k: int | None) -> None:
        self.k = k
        self._highest = np.empty(0, np.float32)

    def may_be(self, answers: Answers) -> Mask:
        """Return which rows of a batch may be among the best, bool [b]."""
        if self.k is None:
            return np.ones(len(answers), bool)
        scores = answers.columns["score"]
        together = np.concatenate([self._highest.astype(scores.dtype), scores])
        if len(together) < self.k:
            self._highest = together
            return np.ones(len(answers), bool)
        self._highest = np.partition(together, len(together) - self.k)[-self.k :]
        found: Mask = scores >= self._highest.min()
        return found
