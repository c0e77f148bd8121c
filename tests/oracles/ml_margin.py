"""1 - mean_j |2 p_j - 1|, over all labels or over those for which it is least."""

from __future__ import annotations

from ._sigmoid import both, digits


@digits
def score(logits, top=None):
    scores = []
    for row in logits:
        unsure = sorted((2 * min(both(z)) for z in row), reverse=True)[:top]  # 1 - |2 p - 1|
        scores.append(float(sum(unsure) / len(unsure)))
    return scores
