"""When labelling could have stopped, by what can be seen without labels: predictions that no longer change.

Bloodgood & Vijay-Shanker (2009): Cohen's kappa between the predictions of the networks of successive rounds, on samples
that are never labelled; stop once the mean of the last three is above 0.99.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from compare import Results
from sklearn.metrics import cohen_kappa_score
from wording import markdown

THRESHOLD, WINDOW = 0.99, 3


def kappas(predicted: Sequence[Sequence[int]]) -> list[float]:
    """Return how far each round's predictions agree with those of the round before, beyond chance; 1 is all alike."""
    return [
        1.0 if list(one) == list(other) else float(cohen_kappa_score(one, other)) for one, other in pairwise(predicted)
    ]


def stops_at(kappa: Sequence[float], threshold: float = THRESHOLD, window: int = WINDOW) -> int | None:
    """Return the round, from 0, at which the rule stops; None if it does not. `kappa[i]` is of rounds i and i + 1."""
    means = (float(np.mean(kappa[end - window : end])) for end in range(window, len(kappa) + 1))
    return next((end for end, mean in enumerate(means, start=window) if mean > threshold), None)


def stopped(results: Results) -> str:
    """Return how stable predictions of targets are, and where the rule would have stopped."""
    plan, rows = results.plan, []
    for arm in plan.parsed:
        probes = [results.values(arm.name, r, "probes", results.seeds(arm.name)) for r in range(plan.rounds)]
        if not probes[0] or not all("predicted" in each for one in probes for each in one):
            continue
        found = np.array([kappas([each["predicted"] for each in seed]) for seed in zip(*probes, strict=True)])
        rounds = [stops_at(row) for row in found.tolist()]
        accuracy = np.array(list(results.accuracies(arm.name, 0).values()))
        at = [(row[r], row[-1], results.labels(0)[r]) for row, r in zip(accuracy, rounds, strict=True) if r is not None]
        row = [arm.name, *(f"{value:.2f}" for value in found.mean(0)), f"{len(at)} of {len(rounds)}", "-", "-"]
        if at:
            early, end, labels = np.mean(at, axis=0)
            row[-2:] = [f"{labels:,.0f}", f"{100 * (early - end):+.1f}"]
        rows.append(row)
    if not rows:
        return ""
    head = ["arm", *(f"to {n:,}" for n in results.labels()), "stopped", "labels, mean", "accuracy, minus the end's"]
    caption = (
        "Cohen's kappa of the predictions of each budget's target and the one before, on samples that are never "
        f"labelled, the mean over seeds. The rule (Bloodgood & Vijay-Shanker, 2009) stops once the mean of the last "
        f"{WINDOW} is above {THRESHOLD}; nothing is taken from it, all budgets were run."
    )
    return f"## Stopping without labels\n\n{caption}\n\n{markdown(head, rows)}"
