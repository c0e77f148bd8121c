"""The second scorer's best among the best keep * k of the first."""

from __future__ import annotations

import math


def select(first, second, k, keep):
    left = sorted(range(len(first)), key=lambda i: (-first[i], i))[: math.ceil(keep * k)]
    return sorted(sorted(left), key=lambda i: (-second[i], i))[:k]
