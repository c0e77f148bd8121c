"""Saran et al. 2023: streaming volume sampling, with trace and inverse worked out anew for each row."""

from __future__ import annotations

import numpy as np


def pick(rows, k, uniforms, damping=0.01, known=()):
    """Return which rows, in the order in which they stream by, and the probability of each; nothing is filled up."""
    rows = [np.asarray(row, float) for row in rows]
    counted = damping * np.eye(len(rows[0])) + sum((np.outer(x, x) for x in known), 0)
    seen = np.zeros_like(counted)
    picked, chances = [], []
    for t, x in enumerate(rows, start=1):
        inverse = np.linalg.inv(counted)
        seen += np.outer(x, x)
        rate = (k - len(picked)) / (len(rows) - t + 1)
        trace = np.trace(seen / t @ inverse)
        chances.append(min(1.0, rate * (x @ inverse @ x) / trace) if trace > 0 else rate)
        if uniforms[t - 1] < chances[-1]:
            picked.append(t - 1)
            counted += np.outer(x, x)
    return picked, chances


def over_root_mean_square(rows):
    rows = np.asarray(rows, float)
    return rows / (np.sqrt((rows**2).sum(1).mean()) or 1.0)
