"""Tables of labels as spreadsheets write them, and `next.csv`, in which labels are asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from picture_files import Problem, plain

from prunefuse_al.data import replacing

FILE = ("file", "filename", "file name", "name", "photo", "picture", "image", "path")
LABEL = ("label", "labels", "class", "category")
SKIP = "skip"  # never used, never asked for again
UNSURE = "unsure"  # not used; asked for again where `next --unsure` says so
COLUMNS = ("file", "label", "number", "guess", "sure", "why")


@dataclass(frozen=True)
class Row:
    """One line of a table: a photograph, and what was written beside it, "" where nothing was."""

    file: str
    label: str
    where: str
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        rows: its lines, in order.
        delimiter: between its cells.
        said: what a user should know of how it was read.
    """

    rows: list[Row]
    delimiter: str = ","
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Labels:
    """All labels that there are.

    Attributes:
        of: of each photograph its label; neither `SKIP` nor `UNSURE`; in the order in which they were written.
        skipped: photographs to be left out for good.
        unsure: photographs whose label nobody knows yet.
        conflicts: of each photograph with labels that disagree what they are, and where.
        gone: names with a label for which there is no photograph.
        open: photographs that were offered and have no answer, with the line of the table that offers them.
        answered: lines of `next.csv` with an answer that the user's own table has not.
        said: what a user should know.
        delimiter: between the cells of the user's own table.
    """

    of: dict[str, str]
    skipped: set[str]
    unsure: set[str]
    conflicts: dict[str, str]
    gone: list[str]
    open: dict[str, Row]
    answered: list[Row]
    said: list[str]
    delimiter: str

    @property
    def settled(self) -> set[str]:
        """Photographs that are not to be offered: there is something about each of them."""
        return {*self.of, *self.skipped, *self.unsure, *self.conflicts, *self.open}


def gather(labels: Path, offers: Path, names: Iterable[str], others: Iterable[str] = ()) -> Labels:
    """Return what two tables say about photographs.

    Args:
        labels: the user's table; it need not be there.
        offers: `next.csv`, whose filled lines count as well; it need not be there.
        names: of the photographs.
        others: names of files that are there and cannot be read.

    Raises:
        Problem: a table cannot be read.
    """
    tables = [read_table(path, names) for path in (labels, offers)]
    known, unread = _by_name(names), {plain(name).casefold() for name in others}
    answers: dict[str, list[Row]] = {}
    gone: dict[str, None] = {}
    for row in (row for table in tables for row in table.rows):
        if name := known(row.file):
            answers.setdefault(name, []).append(row)
        elif row.file.casefold() not in unread and row.label:
            gone[row.file] = None
    of, conflicts = _agreed(answers)
    skipped, unsure = ({name for name, label in of.items() if label.lower() == word} for word in (SKIP, UNSURE))
    own, offered = {(row.file, row.label) for row in tables[0].rows}, tables[1].rows
    waiting = {name: row for row in offered if (name := known(row.file))}
    return Labels(
        of={name: label for name, label in of.items() if name not in skipped | unsure},
        skipped=skipped,
        unsure=unsure,
        conflicts=conflicts,
        gone=list(gone),
        open={name: row for name, row in waiting.items() if name not in {*of, *conflicts}},
        answered=[row for row in offered if row.label and (row.file, row.label) not in own],
        said=[words for table in tables for words in table.said] + _spellings(of.values()),
        delimiter=tables[0].delimiter if tables[0].rows else tables[1].delimiter,
    )


def _agreed(answers: Mapping[str, list[Row]]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what was written beside each photograph, and where different things were, what and where."""
    of, conflicts = {}, {}
    for name, rows in answers.items():
        given = {row.label: row for row in reversed(rows) if row.label}
        if len(given) > 1:  # somebody found out
            given = {label: row for label, row in given.items() if label.lower() != UNSURE}
        if len(given) > 1:
            conflicts[name] = ", ".join(f"{label!r} ({row.where})" for label, row in sorted(given.items()))
        elif given:
            of[name] = next(iter(given))
    return of, conflicts


def read_table(path: Path, names: Iterable[str] = ()) -> Table:
    """Return what a table holds; nothing of one that is not there.

    Args:
        path: a text with a line for each photograph, as any spreadsheet saves it; the first line names the columns,
            or is about a photograph, with its label second.
        names: of the photographs there are.

    Raises:
        Problem: it is no such table.
    """
    if not path.exists():
        return Table([])
    try:
        text, said = _decoded(path)
        delimiter = _delimiter(text)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        numbered = [(lines.line_num, [cell.strip() for cell in line]) for line in lines if "".join(line).strip()]
    except (OSError, csv.Error) as error:
        raise Problem(f"{path} cannot be read: {error}") from error
    if not numbered:
        return Table([], delimiter, said)
    head = [cell.lower() for cell in numbered[0][1]]
    if _by_name(names)(plain(numbered[0][1][0])):
        head = ["file", "label"]
    else:
        numbered = numbered[1:]
    file, label = _column(path, head, FILE), _column(path, head, LABEL)
    width = max([len(head), *(len(cells) for _, cells in numbered)])
    head += [f"column {number}" for number in range(len(head) + 1, width + 1)]  # cells under no name stay as well
    rows = []
    for number, cells in numbered:
        cells = [*cells, *[""] * (width - len(cells))]
        if cells[file]:
            every = {**dict(zip(head, cells, strict=True)), "file": cells[file], "label": cells[label]}
            rows.append(Row(plain(cells[file]), cells[label], f"{path.name}, line {number}", every))
        elif cells[label]:
            said.append(f"{path.name}, line {number}: the label {cells[label]!r} stands beside no file")
    return Table(rows, delimiter, said)


def write_table(path: Path, columns: Iterable[str], rows: Sequence[Mapping[str, str]], delimiter: str) -> None:
    """Write a table, whole or not at all, as spreadsheets read it with any letters; columns of the user's own last."""
    text = io.StringIO(newline="")
    every = dict.fromkeys([*columns, *(name for row in rows for name in row if name)])
    writer = csv.DictWriter(text, list(every), restval="", extrasaction="ignore", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    written(path, text.getvalue().encode("utf-8-sig"))


def written(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        Problem: it cannot be written; what was there is still there.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        hint = "; if it is open in a spreadsheet, close it there" if path.exists() else ""
        raise Problem(
            f"{path} cannot be written ({error.strerror or error}){hint}; what was there is as it was"
        ) from error


def _decoded(path: Path) -> tuple[str, list[str]]:
    """Return the text of a table, and a word about it where its letters may be others."""
    content = path.read_bytes()
    if content[:4] == b"PK\x03\x04" or content[:4] == b"\xd0\xcf\x11\xe0":
        raise Problem(f"{path} is a workbook; save it as CSV (in the spreadsheet: Save as, CSV)")
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16"), []
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        said = f"{path.name} is not in UTF-8; it was read as Windows-1252: look whether accents came out right"
        return content.decode("cp1252", errors="replace"), [said]


def _delimiter(text: str) -> str:
    """Return what stands between the cells of the first line that has any: the one that is there most often."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t|", key=line.count)


def _column(path: Path, head: Sequence[str], known: Sequence[str]) -> int:
    for name in known:
        if name in head:
            return head.index(name)
    columns = ", ".join(map(repr, head))
    raise Problem(f"{path} has the columns {columns}, and none is called {known[0]!r} (or {', '.join(known[1:])})")


def _by_name(names: Iterable[str]) -> Callable[[str], str | None]:
    """Return what tells which photograph a table means; capital letters count where two differ in nothing else."""
    exact = {plain(name): name for name in names}
    alike: dict[str, list[str]] = {}
    for name in exact:
        alike.setdefault(name.casefold(), []).append(exact[name])

    def find(name: str) -> str | None:
        found = alike.get(name.casefold(), [])
        return exact.get(name) or (found[0] if len(found) == 1 else None)

    return find


def _spellings(labels: Iterable[str]) -> list[str]:
    """Return a word about labels that differ in nothing but capital letters."""
    spelt: dict[str, dict[str, int]] = {}
    for label in labels:
        counts = spelt.setdefault(label.casefold(), {})
        counts[label] = counts.get(label, 0) + 1
    found = (" and ".join(f"{label!r} ({n})" for label, n in c.items()) for c in spelt.values() if len(c) > 1)
    return [f"{words} count as different labels: write them alike if they mean the same" for words in found]
