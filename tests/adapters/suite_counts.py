"""What docs/hosts.md says about the hosts' own tests, so that a run can be held against it."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"


def documented(suite: str) -> tuple[int, int, int]:
    """Return (passed, not applicable, failed) of the table's row that begins with `suite`.

    Raises:
        LookupError: there is not exactly one such row.
    """
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {suite} |")]
    if len(rows) != 1:
        raise LookupError(f"{PAGE.name} has {len(rows)} rows that begin with '| {suite} |'; one is needed")
    passed, not_applicable, failed = map(int, rows[0].strip("| ").split("|")[2:5])
    return passed, not_applicable, failed
