"""Sort all samples by distance to the median of their class; keep k ranks in the middle."""

from __future__ import annotations

import math
from statistics import median


def distances(features, labels):
    centres = {}
    for label in set(labels):
        members = [row for row, own in zip(features, labels, strict=True) if own == label]
        centres[label] = [median(column) for column in zip(*members, strict=True)]
    return [math.dist(row, centres[label]) for row, label in zip(features, labels, strict=True)]


def select(features, labels, k):
    """Return the positions kept, nearest to the median first."""
    away = distances(features, labels)
    order = sorted(range(len(away)), key=lambda i: (away[i], i))
    start = (len(order) - k) // 2
    return order[start : start + k]
