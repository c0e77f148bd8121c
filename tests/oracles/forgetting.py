"""Walk through each sample's presentations and count the steps from right to wrong; never right counts as them all."""

from __future__ import annotations

import itertools


def score(correct):
    scores = []
    for presentations in zip(*correct, strict=True):
        events = sum(1 for before, after in itertools.pairwise(presentations) if before and not after)
        scores.append(events if any(presentations) else len(presentations))
    return scores
