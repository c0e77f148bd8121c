"""Scores in standard deviations above the mean of their class, with the library of statistics."""

from __future__ import annotations

from statistics import fmean, pstdev


def score(scores, labels):
    found = []
    for own, label in zip(scores, labels, strict=True):
        peers = [s for s, other in zip(scores, labels, strict=True) if other == label]
        found.append((own - fmean(peers)) / pstdev(peers) if len(set(peers)) > 1 else 0.0)
    return found
