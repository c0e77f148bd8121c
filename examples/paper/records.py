"""What a plan has found so far, one small file for each arm, seed and round; written once, whole or not at all.

    OUT/plan.json                       the set-up; plans that differ in arms and seeds alone share a folder
    OUT/records/ARM/SEED/ROUND.json     what the same plan gives again: labels, picks, accuracies, MACs, curves
    OUT/timings/ARM/SEED/ROUND.json     what it does not: seconds, memory, where it ran
    OUT/PLAN/                           the report of a plan
    OUT/state/ARM/SEED/                 the selector after the last round, and a lock; goes when the arm is done

Records are apart from timings so that a run that was killed and resumed ends in the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from plan import Arm, Plan


@dataclass(frozen=True)
class Store:
    """The folder of a plan."""

    root: Path

    def open(self, plan: Plan) -> None:
        """Write the plan's set-up, or check that the folder is of the same one.

        Raises:
            ValueError: a plan of another set-up was run there.
        """
        path, now = self.root / "plan.json", plan.setup()
        was = read(path)
        if was is None:
            replace_text(path, json.dumps(now, indent=1))
            return
        changed = [f"{name} was {was.get(name)}, is {now[name]}" for name in now if was.get(name) != now[name]]
        if changed:
            raise ValueError(f"{self.root} holds another plan: {'; '.join(changed)}. Give another --out")

    def cell(self, kind: str, arm: Arm, seed: int, number: int) -> Path:
        """Return where a record or a timing is, `number` from 0."""
        return self.root / kind / arm.slug / str(seed) / f"{number}.json"

    def state(self, arm: Arm, seed: int) -> Path:
        """Return the folder for what is needed to go on."""
        return self.root / "state" / arm.slug / str(seed)

    def record(self, arm: Arm, seed: int, number: int) -> dict[str, Any] | None:
        """Return a record, None if it is not there yet."""
        return read(self.cell("records", arm, seed, number))

    def timing(self, arm: Arm, seed: int, number: int) -> dict[str, Any] | None:
        """Return a timing, None if it is not there."""
        return read(self.cell("timings", arm, seed, number))

    def done(self, arm: Arm, seed: int, rounds: int) -> int:
        """Return how many rounds are there, from the first without a gap."""
        return next((r for r in range(rounds) if not self.cell("records", arm, seed, r).exists()), rounds)

    def write(self, arm: Arm, seed: int, number: int, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Write a round: the record last, as it says that the round is done."""
        replace_text(self.cell("timings", arm, seed, number), json.dumps(timing))
        write_once(self.cell("records", arm, seed, number), json.dumps(record))

    @contextmanager
    def claimed(self, arm: Arm, seed: int) -> Iterator[bool]:
        """Yield whether this process may work on an arm and seed; a process that dies gives its claim back."""
        folder = self.state(arm, seed)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON file, None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def write_once(path: Path, text: str) -> None:
    """Write a file that is not there yet.

    Raises:
        FileExistsError: it is there.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already: two processes have done the same round")
    replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there, so that no one ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
