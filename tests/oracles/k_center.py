"""Sener & Savarese 2018, greedy: always the point farthest from its nearest centre, every distance computed."""

from __future__ import annotations

import math


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def pick(points, k, labelled=(), others=(), rank=None):
    """Rows of `points`; `others` are centres that are not in it; `rank` says who comes first among ties."""
    rank = range(len(points)) if rank is None else rank
    taken = list(labelled)
    picked = []
    for _ in range(k):
        centres = [points[i] for i in taken] + list(others)
        left = [i for i in range(len(points)) if i not in taken]
        farness = {i: min((squared(points[i], c) for c in centres), default=math.inf) for i in left}
        best = max(left, key=lambda i: (farness[i], -rank[i]))
        taken.append(best)
        picked.append(best)
    return picked
