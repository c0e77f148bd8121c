"""Class probabilities of one row, in fractions of whole-precision floats."""

from __future__ import annotations

import math


def softmax(row):
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]
