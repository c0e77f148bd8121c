"""Gupte et al. 2024: the first labels are those of the middle of each of k clusters of features at length 1."""

from __future__ import annotations

from .dropquery import middles


def pick(points, clusters):
    return sorted(middles(points, clusters))
