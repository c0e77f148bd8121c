"""The norm of the gradient in the last layer's weights and bias, which is built entry by entry; mean over moments."""

from __future__ import annotations

import math

from ._softmax import softmax


def gradient(row, feature, label):
    """Return the gradient of the cross-entropy in weight and bias, one list per class."""
    q = softmax(row)
    errors = [-sum(q[:c] + q[c + 1 :]) if c == label else value for c, value in enumerate(q)]
    return [[e * h for h in [*feature, 1.0]] for e in errors]


def norm(matrix):
    return math.sqrt(sum(value**2 for line in matrix for value in line))


def score(logits, features, labels):
    times = len(logits)
    return [
        sum(norm(gradient(z[i], h[i], label)) for z, h in zip(logits, features, strict=True)) / times
        for i, label in enumerate(labels)
    ]
