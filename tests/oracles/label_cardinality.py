"""How far the number of labels found lies from the mean number among the labelled (Li & Guo, 2013)."""

from __future__ import annotations


def score(logits, labelled_labels):
    mean = sum(map(sum, labelled_labels)) / len(labelled_labels)
    return [abs(len([z for z in row if z > 0]) - mean) for row in logits]
