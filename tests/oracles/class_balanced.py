"""As many from each class as the classes allow: give one more to the class with the fewest so far, again and again."""

from __future__ import annotations


def budget_multiset(sizes, k):
    """Return the numbers taken, sorted: they are the same whoever gets the remainder."""
    taken = [0] * len(sizes)
    for _ in range(k):
        open_ = [i for i in range(len(sizes)) if taken[i] < sizes[i]]
        taken[min(open_, key=lambda i: taken[i])] += 1
    return sorted(taken)


def select(scores, labels, budgets):
    """Return the picks of each class, best first, as sets by class."""
    picks = {}
    for label, budget in budgets.items():
        rows = [i for i in range(len(scores)) if labels[i] == label]
        picks[label] = sorted(rows, key=lambda i: (-scores[i], i))[:budget]
    return picks
