"""k-means++ on the gradients (p - [p > 0.5]) outer h of binary cross entropy, each written out in full."""

from __future__ import annotations

import math

from . import badge


def gradient(logits, features):
    left = [1 / (1 + math.exp(abs(z))) for z in logits]  # of the answer that is not given
    return [(-p if z > 0 else p) * h for p, z in zip(left, logits, strict=True) for h in features]


def pick(logits, features, k, uniforms):
    gradients = [gradient(z, h) for z, h in zip(logits, features, strict=True)]
    return badge.spread(gradients, k, uniforms)
