"""Ash et al. 2020: k-means++ on the gradients of the last layer, each of them written out in full."""

from __future__ import annotations

from ._softmax import softmax


def gradient(logits, features):
    q = softmax(logits)
    top = logits.index(max(logits))
    q[top] = -sum(value for c, value in enumerate(q) if c != top)  # q - 1, without rounding it away
    return [p * h for p in q for h in features]


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def pick(logits, features, k, uniforms):
    return spread([gradient(z, h) for z, h in zip(logits, features, strict=True)], k, uniforms)


def spread(gradients, k, uniforms):
    """The first is the longest; the next is where a running sum of squared distances passes uniform x total."""
    lengths = [squared(g, [0.0] * len(g)) for g in gradients]
    picked = [lengths.index(max(lengths))]
    for uniform in uniforms[: k - 1]:
        weights = [min(squared(g, gradients[p]) for p in picked) for g in gradients]
        if sum(weights) == 0:
            weights = [float(i not in picked) for i in range(len(gradients))]
        running = 0.0
        target = uniform * sum(weights)
        for i, weight in enumerate(weights):
            running += weight
            if running > target:
                picked.append(i)
                break
    return picked
