"""1 - min_j |2 p_j - 1|, with p_j the probability of label j alone: the largest of 2 min(p_j, 1 - p_j)."""

from __future__ import annotations

from ._sigmoid import both, digits


@digits
def score(logits):
    return [float(max(2 * min(both(z)) for z in row)) for row in logits]
