"""Every sample's last-layer gradient g and their mean G; lr * <G - g / n, g>, summed over checkpoints."""

from __future__ import annotations

from .grand import gradient


def score(logits, features, labels, rates):
    n = len(labels)
    totals = [0.0] * n
    for z, h, rate in zip(logits, features, rates, strict=True):
        flat = [[v for line in gradient(z[i], h[i], label) for v in line] for i, label in enumerate(labels)]
        mean = [sum(column) / n for column in zip(*flat, strict=True)]
        for i, own in enumerate(flat):
            totals[i] += rate * sum((m - g / n) * g for m, g in zip(mean, own, strict=True))
    return totals
