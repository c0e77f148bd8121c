"""Message passing on a full matrix of neighbours, then the greedy loop over all samples, written out."""

from __future__ import annotations

import math


def nearest(features, k):
    """Return for each row its k nearest others; equal distances in the order of the rows."""
    found = []
    for i, own in enumerate(features):
        others = [j for j in range(len(features)) if j != i]
        found.append(sorted(others, key=lambda j: (math.dist(own, features[j]), j))[:k])
    return found


def start(difficulty, features, n_neighbours):
    """Return scores after the forward pass, and the neighbours of each row in the symmetric graph."""
    one_way = nearest(features, n_neighbours)
    n = len(features)
    graph = [[j for j in range(n) if j in one_way[i] or i in one_way[j]] for i in range(n)]
    scores = [
        difficulty[i] + sum(math.exp(-math.dist(features[i], features[j])) * max(difficulty[j], 1e-7) for j in graph[i])
        for i in range(n)
    ]
    return scores, graph


def explains(picks, difficulty, features, n_neighbours, gamma, tolerance):
    """Return whether each pick had the highest score of what was left, up to rounding, when it was taken."""
    scores, graph = start(difficulty, features, n_neighbours)
    left = set(range(len(scores)))
    for pick in picks:
        if pick not in left or scores[pick] < max(scores[i] for i in left) - tolerance:
            return False
        left.remove(pick)
        taken = scores[pick]
        for j in graph[pick]:
            scores[j] -= math.exp(-gamma * math.dist(features[pick], features[j])) * taken
    return True
