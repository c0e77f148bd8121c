"""1 - (q_1 - q_2), with q_1 and q_2 the two largest probabilities."""

from __future__ import annotations

from ._softmax import softmax


def score(logits):
    scores = []
    for row in logits:
        *rest, second, _ = sorted(softmax(row))
        scores.append(sum(rest) + 2 * second)  # 1 - q_1 is the sum of all the others
    return scores
