"""What a plan has found so far, a line for each arm, seed and round; whole or not at all.

    OUT/plan.json        the set-up; plans that differ in arms and seeds alone share a folder
    OUT/records.jsonl    what the same plan gives again: labels, picks, accuracies, MACs, curves
    OUT/timings.jsonl    what it does not: seconds, memory, where it ran
    OUT/PLAN/            the report of a plan
    OUT/state/ARM/SEED/  the selector after the last round, and a lock; goes when the arm is done
    OUT/state/shared/SEED/  what several arms of a seed read, and a lock; goes when the plan is done
    OUT/.lock            held by whoever writes any of the others

Records are apart from timings so that a run that was killed and resumed ends in the same bytes: lines are added as
rounds get done, and sorted when a plan is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from checking import DETAILS, LOCK, RECORDS, REPORT, SETUP, STATE, TIMINGS
from filelock import FileLock, Timeout
from lines import Lines, cell_of, replace_text
from plan import BEFORE, Arm, Plan, slug

SHARED = "shared"  # no arm is called so


class Store:
    """The folder of a plan.

    Attributes:
        root: the folder.
        records: its lines of records.
        timings: its lines of timings.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records, self.timings = Lines(root / RECORDS), Lines(root / TIMINGS)

    def check(self, plan: Plan) -> bool:
        """Return whether plans were run there; writes nothing.

        Raises:
            ValueError: of another set-up.
        """
        was, now = read(self.root / SETUP), plan.setup()
        if was is None:
            return False
        was = {**BEFORE, **was}
        changed = [f"{name} was {was.get(name)}, is {now[name]}" for name in now if was.get(name) != now[name]]
        if changed:
            raise ValueError(f"{self.root} holds another plan: {'; '.join(changed)}. Give another --out")
        return True

    def open(self, plan: Plan) -> None:
        """Write the plan's set-up, or check that the folder is of the same one; sweep what died there.

        Raises:
            ValueError: a plan of another set-up was run there.
        """
        self.check(plan)
        with self.locked():
            self._sweep()
            if not self.check(plan):  # again: another process may have written its own since
                replace_text(self.root / SETUP, json.dumps(plan.setup(), indent=1) + "\n")
            take_over(self)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder, on this machine and on others."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / LOCK):
            yield

    def state(self, arm: Arm, seed: int) -> Path:
        """Return the folder for what is needed to go on."""
        return self.root / STATE / arm.slug / str(seed)

    def record(self, arm: Arm, seed: int, number: int) -> dict[str, Any] | None:
        """Return a record, `number` from 0; None if it is not there yet."""
        return self.records.get((arm.name, seed, number))

    def timing(self, arm: Arm, seed: int, number: int) -> dict[str, Any] | None:
        """Return a timing, None if it is not there."""
        return self.timings.get((arm.name, seed, number))

    def done(self, arm: Arm, seed: int, rounds: int) -> int:
        """Return how many rounds are there, from the first without a gap."""
        there = self.records.texts()
        return next((r for r in range(rounds) if (arm.name, seed, r) not in there), rounds)

    def write(self, arm: Arm, seed: int, number: int, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Write a round: the record last, as it says that the round is done.

        Raises:
            FileExistsError: it is there.
        """
        with self.locked():
            if (arm.name, seed, number) in self.records.texts():
                raise FileExistsError(
                    f"{self.records.path} has round {number} of {arm.name}, seed {seed}, already: two processes have "
                    "done the same round"
                )
            self.timings.add({"arm": arm.name, "seed": seed, "round": number, **timing})
            self.records.add(record)

    def finish(self, plan: Plan) -> None:
        """Put the lines in order if the plan is done, so that doing it again gives the same bytes."""
        if any(self.done(arm, seed, plan.rounds) < plan.rounds for arm in plan.parsed for seed in plan.seeds):
            return
        with self.locked():
            for lines in (self.records, self.timings):
                lines.put_in_order()
        for seed in plan.seeds:
            self._forget(seed)
        for cell in sorted(self.records.differing):
            print(f"{self.records.path}: {cell} stood there twice, not the same; the later counted", file=sys.stderr)
        remove_empty([*self.root.glob(f"{STATE}/*"), self.root / STATE])

    @contextmanager
    def claimed(self, arm: Arm, seed: int, rounds: int) -> Iterator[bool]:
        """Yield whether this process may work on an arm and seed; a process that dies gives its claim back.

        What dead processes left of it goes at the start, and all that is kept to go on once no round is left.
        """
        folder = self.state(arm, seed)
        make_folder(folder)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):  # another's; or it was done and goes right now
            yield False
            return
        try:
            remove_files(folder, but=("lock", f"{self.done(arm, seed, rounds) - 1}.safetensors"))
            yield True
        finally:
            lock.release()
            if self.done(arm, seed, rounds) == rounds:
                # Who gets hold of the lock meanwhile finds nothing left to do.
                remove_files(folder)
                remove_empty([folder])

    @contextmanager
    def shared(self, seed: int) -> Iterator[Path | None]:
        """Yield the folder of what several arms of a seed read; None where another process is at it."""
        folder = self.root / STATE / SHARED / str(seed)
        make_folder(folder)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):  # another's; or it goes right now
            yield None
            return
        try:
            yield folder
        finally:
            lock.release()

    def _forget(self, seed: int) -> None:
        """Remove what arms of a seed shared, unless another process is at it."""
        folder = self.root / STATE / SHARED / str(seed)
        if not folder.exists():
            return
        with self.shared(seed) as mine:
            if mine is None:
                return
            remove_files(folder, but=("lock",))
        remove_files(folder)
        remove_empty([folder])

    def _sweep(self) -> None:
        """Remove what was being written when its process died; whoever writes holds the lock, and we do."""
        for pattern in (f".{SETUP}.*", f".{RECORDS}.*", f".{TIMINGS}.*", f"*/.{REPORT}.*", f"*/.{DETAILS}.*"):
            for path in self.root.glob(pattern):
                path.unlink(missing_ok=True)


def take_over(store: Store) -> None:
    """Take in what an earlier version kept as records/ARM/SEED/ROUND.json and timings/...; then remove it."""
    old = {kind: store.root / kind for kind in ("records", "timings")}
    if not any(folder.is_dir() for folder in old.values()):
        return
    records = {cell_of(read(path), str(path)): path.read_text().strip() for path in old["records"].glob("*/*/*.json")}
    store.records.put_in_order(records)
    timings = {}
    for arm, seed, number in store.records.texts():
        timing = read(old["timings"] / slug(arm) / str(seed) / f"{number}.json")
        if timing is not None:
            timings[arm, seed, number] = json.dumps({"arm": arm, "seed": seed, "round": number, **timing})
    store.timings.put_in_order(timings)
    for folder in old.values():
        for unit in folder.glob("*/*"):
            remove_files(unit)
        remove_empty([*folder.glob("*/*"), *folder.glob("*"), folder])


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object in a file, None if there is none.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: a JSON object is needed, it holds {str(found)[:80]}")
    return found


def make_folder(folder: Path) -> None:
    """Make a folder, also while another process removes the empty ones above it."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def remove_files(folder: Path, but: tuple[str, ...] = ()) -> None:
    """Remove the files of a folder, but for those names; folders in it stay."""
    for path in folder.glob("*"):  # nothing where the folder is gone
        if path.name not in but and not path.is_dir():
            path.unlink(missing_ok=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, inner ones first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
