"""Hacohen et al. 2022: the largest cluster without a label, in it the point with the nearest neighbours."""

from __future__ import annotations

import math


def mean_distance(points, i, count):
    distances = sorted(math.dist(points[i], p) for j, p in enumerate(points) if j != i)[:count]
    return sum(distances) / len(distances) if distances else 0.0


def pick(points, clusters, labelled, k, n_neighbors):
    """`labelled` rows and those picked count as labels of their clusters; the lower row wins a tie."""
    taken = set(labelled)
    picked = []
    for _ in range(k):
        candidates = {c: [i for i in range(len(points)) if clusters[i] == c and i not in taken] for c in set(clusters)}
        inside = {c: sum(clusters[i] == c for i in taken) for c in candidates}
        best = min((c for c in candidates if candidates[c]), key=lambda c: (inside[c], -clusters.count(c), c))
        typical = min(candidates[best], key=lambda i: (round(mean_distance(points, i, n_neighbors), 9), i))
        taken.add(typical)
        picked.append(typical)
    return picked
