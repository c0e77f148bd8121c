"""A file of JSON lines, one for each arm, seed and round, that several processes and machines add to at once.

What was added is on the disk. A line that a kill cut short counts for nothing: the next starts on a line of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from prunefuse_al.data import replacing, sync_folder

Cell = tuple[str, int, int]  # an arm's name, a seed, a round from 0


class Lines:
    """Such a file; whoever adds to it or puts it in order holds the lock of its folder.

    Attributes:
        path: where it is, or will be.
        differing: cells that stand there more than once, with different content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.differing: set[Cell] = set()
        self._state: tuple[int, int, int] | None = None  # of the file when it was read
        self._texts: dict[Cell, str] = {}

    def texts(self) -> dict[Cell, str]:
        """Return the line of each cell, the last one where there are several; read again only if the file changed.

        Raises:
            ValueError: a whole line that is not of an arm, a seed and a round.
        """
        if not self.path.exists():
            self._state, self._texts, self.differing = None, {}, set()
            return self._texts
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            state = found.st_ino, found.st_size, found.st_mtime_ns
            if state != self._state:
                self._parse(file.read().decode(errors="replace"))
                self._state = state
        return self._texts

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """Return what the line of a cell holds, None if there is none."""
        text = self.texts().get(cell)
        return None if text is None else json.loads(text)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        line = json.dumps(entry).encode() + b"\n"
        new = not self.path.exists()
        with self.path.open("ab+", buffering=0) as file:
            rest = memoryview(line if ends_a_line(file) else b"\n" + line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path.parent)

    def put_in_order(self, more: Mapping[Cell, str] | None = None) -> None:
        """Sort the lines by arm, seed and round, and leave out what does not count: the same cells, the same bytes.

        Args:
            more: lines to take in, of cells that are not there yet.
        """
        texts = {**(more or {}), **self.texts()}
        content = "".join(f"{texts[cell]}\n" for cell in sorted(texts))
        if texts and not (self.path.exists() and self.path.read_bytes() == content.encode()):
            replace_text(self.path, content)

    def _parse(self, content: str) -> None:
        self._texts, self.differing = {}, set()
        for number, line in enumerate(content.split("\n"), start=1):
            try:
                entry = json.loads(line)
            except ValueError:  # cut short: no part of an object is one
                continue
            cell, text = cell_of(entry, f"{self.path}, line {number}"), line.strip()
            if self._texts.get(cell, text) != text:
                self.differing.add(cell)
            self._texts[cell] = text


def cell_of(entry: Any, where: str) -> Cell:
    """Return the cell that an entry is of.

    Raises:
        ValueError: it does not say.
    """
    cell = tuple(entry.get(key) for key in ("arm", "seed", "round")) if isinstance(entry, dict) else ()
    if [type(part) for part in cell] != [str, int, int]:
        raise ValueError(f'{where} is no record: {str(entry)[:80]}; an object with "arm", "seed" and "round" is needed')
    return cell


def ends_a_line(file: FileIO) -> bool:
    """Return whether what is added next starts on a line of its own."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return True
    file.seek(size - 1)
    return file.read(1) == b"\n"


def put_or_print(path: Path | None, text: str) -> None:
    """Put a text into a file, as `replace_text` does, or print it where there is none."""
    if path is None:
        print(text, end="")
    else:
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Put a text in the place of a file, so that no one ever reads half of it; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
