"""Drop the hardest, cut the range of the rest into strata in exact fractions, share the budget from the emptiest on."""

from __future__ import annotations

from fractions import Fraction


def dropped(n, k, mislabelled):
    """Return how many of the hardest are dropped: floor(share * n), but k must be left."""
    return min(int(mislabelled * n), n - k)


def stratum(value, values, strata):
    low, high = Fraction(min(values)), Fraction(max(values))
    width = (high - low) / strata
    for number in range(strata):
        if Fraction(value) < low + (number + 1) * width or number == strata - 1 or width == 0:
            return number
    raise AssertionError("every value lies in a stratum")


def shares(sizes, k):
    """Return how many each stratum gives."""
    given = [0] * len(sizes)
    left, to_visit = k, len(sizes)
    for number in sorted(range(len(sizes)), key=lambda s: (sizes[s], s)):
        given[number] = min(sizes[number], left // to_visit)
        left -= given[number]
        to_visit -= 1
    return given


def expected_counts(values, k, mislabelled, strata):
    """Return, of the values that are not dropped, stratum of each and how many each stratum gives."""
    kept = sorted(values)[: len(values) - dropped(len(values), k, mislabelled)]
    strata_of = {value: stratum(value, kept, strata) for value in kept}
    sizes = [sum(1 for value in kept if strata_of[value] == s) for s in range(strata)]
    return strata_of, shares(sizes, k)
