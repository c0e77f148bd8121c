"""The separation of labels found from labels not found, inverted, to the power b, times the cardinality's rest."""

from __future__ import annotations

from . import label_cardinality


def score(logits, labelled_labels, weight=0.5):
    off = label_cardinality.score(logits, labelled_labels)
    return [(1 / separation(row)) ** weight * e ** (1 - weight) for row, e in zip(logits, off, strict=True)]


def separation(row):
    found, others = [z for z in row if z > 0], [z for z in row if not z > 0]
    return max((min(found) if found else 0.0) - (max(others) if others else 0.0), 1e-30)
