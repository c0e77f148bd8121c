"""Margatina et al. 2021: mean divergence from the nearest labelled samples, the least and the most that ties allow."""

from __future__ import annotations

import math

from ._softmax import softmax


def divergence(a, b):
    """KL(a || b) of the softmax of logits, with logarithms taken before anything can underflow."""
    log_a, log_b = ([z - max(row) - math.log(sum(math.exp(y - max(row)) for y in row)) for z in row] for row in (a, b))
    return sum(p * (x - y) for p, x, y in zip(softmax(a), log_a, log_b, strict=True))


def bounds(logits, features, known_logits, known_features, count, from_neighbours=False):
    low, high = [], []
    for z, h in zip(logits, features, strict=True):
        distances = [math.dist(h, other) for other in known_features]
        edge = sorted(distances)[count - 1]
        gaps = [divergence(o, z) if from_neighbours else divergence(z, o) for o in known_logits]
        sure = [g for g, d in zip(gaps, distances, strict=True) if d < edge - 1e-9]
        tied = sorted(g for g, d in zip(gaps, distances, strict=True) if abs(d - edge) <= 1e-9)
        missing = count - len(sure)
        low.append((sum(sure) + sum(tied[:missing])) / count)
        high.append((sum(sure) + sum(tied[len(tied) - missing :])) / count)
    return low, high
