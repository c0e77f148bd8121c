"""Yang et al. 2023 (arXiv 2312.05599), by the code: the objective, and the mask's gradient by differences."""

from __future__ import annotations

import math


def objective(losses, mask, steepness, keep, weight):
    s = [1 / (1 + math.exp(-steepness * m)) for m in mask]
    mean = sum(s) / len(s)
    own = sum(loss * each for loss, each in zip(losses, s, strict=True)) / len(s)
    other = sum(-math.log(loss + 1e-5) * each for loss, each in zip(losses, s, strict=True)) / len(s)
    return own + other + weight * (mean - keep) ** 2


def gradient(losses, mask, steepness, keep, share, step=1e-5):
    weight = 1 + 50 * abs(share - keep)
    found = []
    for i in range(len(mask)):
        high, low = ([m + sign * step * (j == i) for j, m in enumerate(mask)] for sign in (1, -1))
        found.append(
            (objective(losses, high, steepness, keep, weight) - objective(losses, low, steepness, keep, weight))
            / (2 * step)
        )
    return found
