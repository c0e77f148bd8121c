"""The sum over epochs of the label's probability minus the largest of the others."""

from __future__ import annotations

from ._softmax import softmax


def margin(row, label):
    q = softmax(row)
    return q[label] - max(value for c, value in enumerate(q) if c != label)


def score(logits, labels):
    return [sum(margin(epoch[i], label) for epoch in logits) for i, label in enumerate(labels)]
