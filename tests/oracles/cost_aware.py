"""Score over cost."""

from __future__ import annotations


def score(scores, costs):
    return [s / c for s, c in zip(scores, costs, strict=True)]
