"""Yehuda et al. 2022: balls of one radius on features of length 1; always the one that covers most anew."""

from __future__ import annotations

import math


def normalised(points):
    return [[x / (math.hypot(*p) or 1.0) for x in p] for p in points]


def ball(points, i, delta):
    """Open, but for what lies where the centre lies; what is on the edge but for rounding is outside."""
    distances = [math.dist(points[i], p) for p in points]
    return {j for j, d in enumerate(distances) if d < delta * (1 - 1e-9) or points[j] == points[i]}


def is_pure(points, clusters, i, delta):
    return all(math.dist(points[i], p) >= delta for j, p in enumerate(points) if clusters[j] != clusters[i])


def radius(points, clusters, purity):
    """The largest of all distances for which enough balls are pure; any radius if there is one cluster."""
    distances = {math.dist(a, b) for a in points for b in points} | {math.inf}
    enough = [
        delta
        for delta in distances
        if sum(is_pure(points, clusters, i, delta) for i in range(len(points))) >= purity * len(points) - 1e-9
    ]
    return max(enough)


def pick(points, labelled, candidates, k, delta):
    covered = set().union(*(ball(points, i, delta) for i in labelled))
    picked = []
    for _ in range(k):
        left = [i for i in candidates if i not in picked]
        best = max(left, key=lambda i: (len(ball(points, i, delta) - covered), -i))
        covered |= ball(points, best, delta)
        picked.append(best)
    return picked
