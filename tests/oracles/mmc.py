"""Maximum loss reduction with maximal confidence (Yang et al., 2009), label by label."""

from __future__ import annotations

import math

from sklearn.linear_model import LogisticRegression


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def score(logits, counts):
    """Return the scores of logits [n][c], of samples that have `counts` labels, the likeliest ones."""
    scores = []
    for row, count in zip(logits, counts, strict=True):
        likeliest = sorted(range(len(row)), key=lambda j: (-row[j], j))[:count]
        scores.append(sum(1 - sigmoid(z) if j in likeliest else sigmoid(z) for j, z in enumerate(row)))
    return scores


def counts(logits, labelled_logits, labelled_labels):
    """Return how many labels each sample has, told by its sorted probabilities, which sum to 1."""
    known = [sum(row) for row in labelled_labels]
    if len(set(known)) == 1:
        return [known[0]] * len(logits)
    model = LogisticRegression(max_iter=1000).fit([shares(row) for row in labelled_logits], known)
    return [int(model.predict([shares(row)])[0]) for row in logits]


def shares(row):
    p = sorted(map(sigmoid, row), reverse=True)
    return [value / sum(p) for value in p]
