"""What reports are written with: Markdown tables, and numbers as they stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from significance import Difference, mean_penalty


def shown(d: Difference) -> str:
    """Return a difference in points."""
    if not d.n:
        return "-"
    if d.n == 1:
        return f"{100 * d.mean:+.1f} (1 seed)"
    return f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}" + ("" if d.significant else " n.s.")


def spread(values: Iterable[float]) -> str:
    """Return mean ± standard deviation in percent."""
    percent = 100 * np.array(list(values), dtype=float)
    if not len(percent):
        return "-"
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def points(d: Difference, sign: str = "+") -> str:
    """Return a mean in points with its interval."""
    if not d.n:
        return "-"
    return f"{100 * d.mean:{sign}.1f}" + (f" ± {100 * d.half:.1f}" if d.n > 1 else "")


def probability(p: float) -> str:
    """Return a p value; in bold below 0.05, nothing where there is none."""
    if np.isnan(p):
        return ""
    text = "<0.001" if p < 0.001 else f"{p:.3f}"
    return f"**{text}**" if p < 0.05 else text


def matrix(arms: Sequence[str], penalty: np.ndarray) -> str:
    """Return a penalty matrix, its columns by number, with the column means below."""
    rows = [
        [f"{i + 1}. {arm}", *("" if i == j else share(value) for j, value in enumerate(penalty[i]))]
        for i, arm in enumerate(arms)
    ]
    means = ["**beaten, mean**", *map(share, mean_penalty(penalty))]
    return markdown(["ahead of", *(str(number) for number in range(1, len(arms) + 1))], [*rows, means])


def share(value: float) -> str:
    """Return a penalty; "-" where there is none."""
    return "-" if np.isnan(value) else f"{value:.2f}".replace("0.00", "0")


def giga(value: float) -> str:
    """Return billions, whole from ten."""
    billions = value / 1e9
    return f"{billions:,.0f}" if billions >= 10 or not billions else f"{billions:.2g}"
