"""What docs/hosts.md says about the hosts' own tests, so that a run can be held against it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"


class Counts(NamedTuple):
    """How a host's own tests end."""

    passed: int
    not_applicable: int
    failed: int


def documented(suite: str, distribution: str) -> Counts | None:
    """Return what the page's row that begins with `suite` says, or None if it is about another version.

    Args:
        suite: the first column.
        distribution: what pip calls it.

    Raises:
        LookupError: there is not exactly one such row.
    """
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {suite} |")]
    if len(rows) != 1:
        raise LookupError(f"{PAGE.name} has {len(rows)} rows that begin with '| {suite} |'; one is needed")
    version, *counts = [cell.strip() for cell in rows[0].strip("| ").split("|")[1:5]]
    return Counts(*map(int, counts)) if metadata.version(distribution) == version else None
