"""Yang et al. 2023, by the code: how far a sample's loss is from 1, as l - ln(l + 1e-5) measures it."""

from __future__ import annotations

import math


def score(logits, labels):
    found = []
    for row, label in zip(logits, labels, strict=True):
        top = max(row)
        loss = math.log(sum(math.exp(z - top) for z in row)) + top - row[label]
        found.append(math.log(loss + 1e-5) - loss)
    return found
