"""-sum q log q, with 0 log 0 = 0 and log q_1 taken as log(1 - the others)."""

from __future__ import annotations

import math

from ._softmax import softmax


def score(logits):
    scores = []
    for row in logits:
        *others, top = sorted(softmax(row))
        top_term = -top * math.log1p(-sum(others)) if sum(others) < 0.5 else -top * math.log(top)
        scores.append(top_term - sum(q * math.log(q) for q in others if q > 0))
    return scores
