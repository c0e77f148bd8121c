"""Uniform without replacement: every candidate is picked with probability k / n."""

from __future__ import annotations


def inclusion_probability(n, k):
    return k / n
