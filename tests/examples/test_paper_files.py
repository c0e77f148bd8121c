"""The files and processes of a plan: several writers, kills in the middle of a line, litter, folders of before."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import run
from lines import Lines, replace_text
from plan import parse_arm
from records import Store

PAPER = Path(run.__file__).parent
ARMS = ("random", "prunefuse-v1", "prunefuse-v2:2")
TINY = ["digits", "--network", "mlp", "--epochs", "1", "--test", "150", "--pool", "300", "--budgets", "60", "80"]
TINY += ["--seeds", "0", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(PAPER.parents[1]), str(PAPER)])}


def main(folder: Path, *options: str) -> None:
    run.main([*TINY, "--out", str(folder), "--arms", *ARMS, *options])


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "out"
    main(folder)
    return folder


@pytest.fixture
def copied(done, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def entry(number: int, size: int = 1) -> dict:
    return {"arm": "random", "seed": number, "round": 0, "picked": list(range(size))}


# --- lines


def test_lines_of_several_processes_are_all_there_and_whole_without_a_lock(tmp_path):
    code = """if True:
        import sys
        from pathlib import Path
        from lines import Lines
        seed, lines = int(sys.argv[1]), Lines(Path("lines.jsonl"))
        for number in range(100):
            lines.add({"arm": "random", "seed": seed, "round": number, "picked": list(range(2000))})
    """
    command = [sys.executable, "-c", code]
    writers = [subprocess.Popen([*command, str(n)], cwd=tmp_path, env=ENVIRONMENT) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = Lines(tmp_path / "lines.jsonl")
    assert set(lines.texts()) == {("random", seed, number) for seed in range(3) for number in range(100)}
    assert sum(map(bool, lines.path.read_text().splitlines())) == 300


@pytest.mark.parametrize("kept", [0, 1, 20, -2, -1])
def test_a_line_that_a_kill_cut_short_counts_for_nothing_and_spoils_nothing(kept, tmp_path):
    lines = Lines(tmp_path / "lines.jsonl")
    for number in range(3):
        lines.add(entry(number))
    content = lines.path.read_bytes().splitlines(keepends=True)
    lines.path.write_bytes(b"".join(content[:2]) + content[2][:kept])
    whole = kept == -1  # only the end of the line is missing: nothing of the record
    assert set(lines.texts()) == {("random", number, 0) for number in range(2 + whole)}
    lines.add(entry(3, size=5))
    found = Lines(lines.path)
    assert set(found.texts()) == {("random", number, 0) for number in (0, 1, 3, *[2] * whole)}
    assert found.get(("random", 3, 0)) == entry(3, size=5)
    found.put_in_order()
    assert lines.path.read_text() == "".join(found.texts()[cell] + "\n" for cell in sorted(found.texts()))


def test_zeros_that_a_power_cut_leaves_count_for_nothing(tmp_path):
    lines = Lines(tmp_path / "lines.jsonl")
    lines.add(entry(0))
    with lines.path.open("ab") as file:
        file.write(b"\0" * 500)
    lines.add(entry(1))
    assert set(Lines(lines.path).texts()) == {("random", 0, 0), ("random", 1, 0)}


def test_of_a_cell_that_stands_there_twice_the_last_counts_and_it_is_said(copied, capsys):
    path = copied / "records.jsonl"
    before = path.read_text()
    record = json.loads(before.splitlines()[0])
    path.write_text(before + json.dumps({**record, "accuracy": 0.5}) + "\n" + before.splitlines()[1] + "\n")
    main(copied)
    assert Store(copied).record(parse_arm(record["arm"]), 0, record["round"])["accuracy"] == 0.5
    assert len(path.read_text().splitlines()) == len(before.splitlines())
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("('prunefuse-v1', 0, 0) stood there twice, not the same; the later counted")


def test_the_same_lines_in_any_order_end_in_the_same_bytes(done, copied):
    for name in ("records.jsonl", "timings.jsonl"):
        lines = (done / name).read_text().splitlines(keepends=True)
        (copied / name).write_text("".join(reversed(lines)))
    main(copied)
    for name in ("records.jsonl", "timings.jsonl"):
        assert (copied / name).read_bytes() == (done / name).read_bytes()


@pytest.mark.parametrize("line", ["[]", "3", "{}", '{"arm": "random", "seed": "../x", "round": 0}'])
def test_a_whole_line_that_is_no_record_is_refused(line, copied):
    path = copied / "records.jsonl"
    count = len(path.read_text().splitlines())
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"records\.jsonl, line {count + 1} is no record: "):
        main(copied)


def test_a_reader_sees_what_others_add_and_put_in_order(tmp_path):
    ours, theirs = Lines(tmp_path / "lines.jsonl"), Lines(tmp_path / "lines.jsonl")
    assert ours.texts() == {}
    for number in (2, 1):
        theirs.add(entry(number))
        assert ours.get(("random", number, 0)) == entry(number)
    theirs.put_in_order()
    theirs.add(entry(0))
    assert [json.loads(text)["seed"] for text in ours.texts().values()] == [1, 2, 0]


# --- kills and several writers


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cut", [0, 1, 200])
def test_a_run_that_dies_in_the_middle_of_a_line_goes_on_to_the_same_bytes(cut, done, tmp_path, monkeypatch):
    folder, whole, added = tmp_path / "torn", Lines.add, []

    def add(self: Lines, entry: dict) -> None:
        added.append(entry)
        if len(added) < 10:  # the fifth round's timing is there, and a part of its record
            return whole(self, entry)
        with self.path.open("a") as file:
            file.write(json.dumps(entry)[:cut])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "add", add)
        with pytest.raises(Killed):
            main(folder)
    assert list(folder.rglob("*.safetensors"))
    main(folder)
    assert (folder / "records.jsonl").read_bytes() == (done / "records.jsonl").read_bytes()
    assert names(folder) == names(done)


def test_files_of_two_machines_with_the_same_host_name_and_process_id_do_not_clash(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(platform, "node", lambda: "localhost")
    path = tmp_path / "report.md"
    texts = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: replace_text(path, texts[number % 8]), range(80)))
    assert path.read_text() in texts
    assert names(tmp_path) == {"report.md"}


def test_two_runners_with_the_same_host_name_and_process_id_lose_nothing(copied, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(platform, "node", lambda: "localhost")
    (plan,) = run.asked(run.arguments([*TINY, "--arms", *ARMS]))
    arm, before = parse_arm("random"), len(Store(copied).records.texts())

    def runner(number: int) -> None:
        store = Store(copied)
        for seed in range(1 + number, 41 + number, 2):
            with store.claimed(arm, seed, 3) as mine:
                assert mine
                store.write(arm, seed, 0, entry(seed), {"wall": 1.0})
                store.finish(plan)  # puts the lines in order while the other one adds to them

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(runner, range(2)))
    assert len(Store(copied).records.texts()) == len(Store(copied).timings.texts()) == before + 40


def test_what_one_is_at_no_other_may_work_on(copied):
    arm = parse_arm("random")
    with Store(copied).claimed(arm, 7, 3) as first, Store(copied).claimed(arm, 7, 3) as second:
        assert (first, second) == (True, False)
    with Store(copied).claimed(arm, 7, 3) as third:
        assert third


CHILD = """
import os, time
from processes import end_with_parent
end_with_parent()
os.write(1, b"up")
time.sleep(600)
"""
PARENT = """
import os, sys
from processes import run_side_by_side
run_side_by_side([sys.executable, "-c", sys.argv[1]], 2, os.environ)
"""
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(number):
    command = [sys.executable, "-c", PARENT, CHILD]
    ended(subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **PIPES), number, said=b"upup")


def test_no_worker_of_a_plan_outlives_the_command(tmp_path):
    """A plan that would take days; both workers are in the middle of a training."""
    options = [*TINY, "--epochs", "100000", "--arms", *ARMS]
    command = [sys.executable, str(PAPER / "run.py"), *options, "--out", str(tmp_path), "--jobs", "2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **PIPES)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("state/*/*/lock"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    ended(process, signal.SIGKILL, said=b"")
    assert len(list(tmp_path.glob("state/*/*/lock"))) == 2
    (plan,) = run.asked(run.arguments(options))
    for arm in plan.parsed:  # their claims went with them
        with Store(tmp_path).claimed(arm, 0, 3) as mine:
            assert mine


def ended(process: subprocess.Popen, number: int, said: bytes) -> None:
    """Send a signal once all this is said, and see that nobody holds the output open a little later."""
    try:
        assert process.stdout.read(len(said)) == said
        process.send_signal(number)
        process.communicate(timeout=30)  # the end of the output: it is every child's too
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# --- litter


def test_what_died_with_a_run_is_swept_by_the_next_and_nothing_else(done, copied):
    ours = ("random", "prunefuse-v1", "prunefuse-v2_2")
    litter = [f"state/{slug}/0/{name}" for slug in ours for name in ("lock", "0.safetensors", "2.safetensorsx7.part")]
    litter += [".plan.json.4711", ".records.jsonl.host.1.ab.part", ".timings.jsonl.host.1.ab.part"]
    litter += ["digits/.report.md.4711", "digits/.report.md.host.1.ab.part", "digits/.details.md.host.1.ab.part"]
    theirs = ["notes.txt", ".hidden", "digits/notes.txt", "state/dense-reinit/0/0.safetensors", "state/random/1/lock"]
    for name in (*litter, *theirs):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).write_text("x")
    main(copied)
    assert names(copied) == names(done) | set(theirs)


def test_what_is_needed_to_go_on_is_not_swept(copied):
    arm, lines = parse_arm("prunefuse-v1"), (copied / "records.jsonl").read_text().splitlines(keepends=True)
    (copied / "records.jsonl").write_text("".join(line for line in lines if json.loads(line)["round"] < 2))
    folder = Store(copied).state(arm, 0)
    folder.mkdir(parents=True)
    for name in ("0.safetensors", "1.safetensors", "2.safetensors", "1.safetensorsab.part"):
        (folder / name).write_text(name)
    with Store(copied).claimed(arm, 0, 3) as mine:
        assert mine
        assert {path.name for path in folder.iterdir()} == {"lock", "1.safetensors"}
    assert (folder / "1.safetensors").read_text() == "1.safetensors"


def test_where_the_selector_to_go_on_from_is_lost_it_is_said(copied):
    lines = (copied / "records.jsonl").read_text().splitlines(keepends=True)
    (copied / "records.jsonl").write_text("".join(line for line in lines if json.loads(line)["round"] < 2))
    with pytest.raises(FileNotFoundError, match=r"1\.safetensors is gone, .* remove its lines from .*records\.jsonl"):
        main(copied)


# --- folders of before


def as_before(folder: Path) -> None:
    """Write the folder as it was kept before: a file for each record and timing."""
    for kind in ("records", "timings"):
        for line in (folder / f"{kind}.jsonl").read_text().splitlines():
            entry = json.loads(line)
            where = [entry[key] if kind == "records" else entry.pop(key) for key in ("arm", "seed", "round")]
            path = folder / kind / parse_arm(where[0]).slug / str(where[1]) / f"{where[2]}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(entry) + "\n")
        (folder / f"{kind}.jsonl").unlink()


@pytest.mark.parametrize("killed", ["", "before anything was removed", "while it was removed", "with a timing missing"])
def test_a_folder_of_before_is_taken_over_once(killed, done, copied):
    report = {path.name: path.read_bytes() for path in (copied / "digits").iterdir()}
    as_before(copied)
    assert len(list(copied.rglob("*.json"))) == 1 + 2 * 9
    (copied / "records/random/0/.0.json.4711").write_text("half of a rec")
    shutil.rmtree(copied / "digits")
    if killed.startswith(("before", "while")):
        for name in ("records.jsonl", "timings.jsonl"):
            shutil.copy(done / name, copied / name)
    if killed.startswith("while"):
        shutil.rmtree(copied / "records" / "random")
    main(copied, "--report")
    assert names(copied) == names(done)
    assert not (copied / "records").exists()
    for name in ("plan.json", "records.jsonl", "timings.jsonl"):
        assert (copied / name).read_bytes() == (done / name).read_bytes()
    assert {path.name: path.read_bytes() for path in (copied / "digits").iterdir()} == report


def test_a_folder_of_before_that_is_not_done_goes_on(done, copied):
    as_before(copied)
    for path in (copied / "records" / "random" / "0").iterdir():
        path.unlink()
    (copied / "timings" / "random" / "0" / "2.json").unlink()  # the others are of rounds whose record was not written
    main(copied)
    assert (copied / "records.jsonl").read_bytes() == (done / "records.jsonl").read_bytes()
    assert names(copied) == names(done)


def test_a_folder_of_before_that_is_damaged_stays_as_it_is(copied):
    as_before(copied)
    (copied / "records" / "random" / "0" / "1.json").write_text('{"arm": "random", "se')
    before = names(copied)
    with pytest.raises(ValueError, match=r"random/0/1\.json is damaged"):
        main(copied)
    assert names(copied) == before
