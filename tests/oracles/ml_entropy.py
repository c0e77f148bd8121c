"""The mean over labels of -p ln p - (1 - p) ln(1 - p)."""

from __future__ import annotations

from ._sigmoid import both, digits, entropy


@digits
def score(logits):
    return [float(sum(entropy(both(z)) for z in row) / len(row)) for row in logits]
