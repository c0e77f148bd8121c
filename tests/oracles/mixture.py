"""The first scorer's best, then the second's best of what is left."""

from __future__ import annotations


def select(first, second, k, share):
    count = int(share * k + 0.5)
    picked = sorted(range(len(first)), key=lambda i: (-first[i], i))[:count]
    rest = [i for i in range(len(first)) if i not in picked]
    return picked + sorted(rest, key=lambda i: (-second[i], i))[: k - count]
