"""Numbers and lines of cells as text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text, every column as wide as its widest cell.

    Example:
        >>> print(aligned([("p", "MACs"), ("0.25", "1k")]))
           p  MACs
        0.25    1k
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table)


def si(value: float) -> str:
    """Return a number >= 0 with three digits and the prefix of its unit.

    Example:
        >>> si(125_747_840), si(12), si(0.00042)
        ('126M', '12', '420u')
    """
    prefixes = ["u", "m", "", "k", "M", "G", "T", "P"]
    position = 2
    while value >= 999.5 and position < len(prefixes) - 1:
        value, position = value / 1000, position + 1
    while 0 < value < 0.9995 and position > 0:
        value, position = value * 1000, position - 1
    return f"{value:.3g}{prefixes[position]}"
