"""Gupte et al. 2024: rows whose class changes under dropout of the features, then the middle of each cluster."""

from __future__ import annotations

import math


def best(row):
    return row.index(max(row))


def flips(logits, features, head, masks, dropout):
    """`masks` [n t d] say which features stay; kept ones are divided by the share that stays."""
    found = []
    for row, h, passes in zip(logits, features, masks, strict=True):
        changed = 0
        for mask in passes:
            kept = [value / (1 - dropout) if stays else 0.0 for value, stays in zip(h, mask, strict=True)]
            z = [sum(w * x for w, x in zip(line[:-1], kept, strict=True)) + line[-1] for line in head]
            changed += best(z) != best(row)
        found.append(changed)
    return found


def candidates(counts, passes, k, oversampling):
    threshold = passes // 2
    while sum(d > threshold for d in counts) < oversampling * k and threshold > 0:
        threshold -= 1
    return [i for i, d in enumerate(counts) if d > threshold], threshold


def middles(points, clusters):
    """The nearest row to the mean of each cluster, of points at length 1; ties go to the lower row."""
    points = [[x / (math.hypot(*p) or 1.0) for x in p] for p in points]
    found = []
    for c in sorted(set(clusters)):
        rows = [i for i, own in enumerate(clusters) if own == c]
        mean = [sum(points[i][j] for i in rows) / len(rows) for j in range(len(points[0]))]
        found.append(min(rows, key=lambda i: (round(math.dist(points[i], mean), 9), i)))
    return found
