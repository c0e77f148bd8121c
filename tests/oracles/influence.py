"""Yang et al. 2023: by what each row's removal moves the last layer, and the group whose moves cancel best."""

from __future__ import annotations

import itertools

import numpy as np

from ._softmax import softmax


def vectors(logits, features, labels, damping, bias, centre):
    rows = [np.append(h, 1.0) if bias else np.array(h, float) for h in features]
    qs = [np.array(softmax(z)) for z in logits]
    n = len(rows)
    hessian = sum(np.kron(np.diag(q) - np.outer(q, q), np.outer(h, h)) for q, h in zip(qs, rows, strict=True)) / n
    hessian += damping * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    gradients = [np.kron(q - np.eye(len(q))[y], h) for q, y, h in zip(qs, labels, rows, strict=True)]
    found = np.array([np.linalg.solve(hessian, g) / n for g in gradients])
    return found - found.mean(0) if centre else found


def norm(vectors, group):
    return float(np.linalg.norm(np.asarray(vectors)[list(group)].sum(0)))


def smallest(vectors, size):
    """The best of all groups."""
    return min(
        itertools.combinations(range(len(vectors)), size), key=lambda group: (round(norm(vectors, group), 9), group)
    )


def largest(vectors, tolerance, keep):
    """The size of the largest group within the tolerance."""
    sizes = range(len(vectors) - keep, 0, -1)
    return next((size for size in sizes if norm(vectors, smallest(vectors, size)) <= tolerance + 1e-9), 0)
