"""Files appear whole or not at all: saved selectors and features on disk alike, with the permissions of any file."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import mlp

from prunefuse_al.data import files
from prunefuse_al.data.files import replacing, reserve
from prunefuse_al.errors import InputError
from prunefuse_al.network.signals import collect
from prunefuse_al.selector import PrunedProxySelector

X = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))


def save(path: Path) -> None:
    PrunedProxySelector(mlp(6, 16, 12, 3), 0.5, random_state=1).save(path)


def features(path: Path) -> None:
    collect(mlp(6, 16, 12, 3), X, {"features"}, features_path=path)


def plain(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"new")


WRITERS: list[Callable[[Path], None]] = [save, features, plain]
each_writer = pytest.mark.parametrize("write", WRITERS)


@contextlib.contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@each_writer
@pytest.mark.parametrize("bits", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_any_new_file(write: Any, bits: int, tmp_path: Path) -> None:
    with umask(bits):
        write(tmp_path / "s.npy")
    assert (tmp_path / "s.npy").stat().st_mode & 0o777 == 0o666 & ~bits
    assert names(tmp_path) == ["s.npy"]


@each_writer
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_replaced_hands_on_its_permissions(write: Any, mode: int, tmp_path: Path) -> None:
    (tmp_path / "s.npy").write_bytes(b"old")
    (tmp_path / "s.npy").chmod(mode)
    write(tmp_path / "s.npy")
    assert (tmp_path / "s.npy").stat().st_mode & 0o777 == mode
    assert (tmp_path / "s.npy").read_bytes() != b"old"


@each_writer
@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_followed_and_stays(write: Any, there: bool, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    if there:
        (tmp_path / "there" / "real.npy").write_bytes(b"old")
    (tmp_path / "s.npy").symlink_to(Path("there") / "real.npy")
    write(tmp_path / "s.npy")
    assert (tmp_path / "s.npy").is_symlink()
    assert (tmp_path / "there" / "real.npy").read_bytes() != b"old"
    assert (names(tmp_path), names(tmp_path / "there")) == (["s.npy", "there"], ["real.npy"])


@each_writer
def test_nothing_but_a_regular_file_is_replaced(write: Any, tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "null.npy").symlink_to("/dev/null")
    for name in ("folder.npy", "pipe.npy", "null.npy"):
        with pytest.raises((OSError, InputError), match=name):
            write(tmp_path / name)
    assert names(tmp_path) == ["folder.npy", "null.npy", "pipe.npy"]
    assert (tmp_path / "pipe.npy").is_fifo()


@pytest.mark.parametrize(("write", "synced"), [(save, 2), (plain, 2), (features, 0)])
def test_what_lasts_is_on_the_disk_before_it_has_its_name(
    write: Any, synced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        seen.append((os.path.isdir(f"/dev/fd/{handle}"), (tmp_path / "s.npy").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path / "s.npy")
    assert seen == [(False, False), (True, True)][:synced]  # the file, then its folder


@each_writer
def test_what_dead_writers_left_is_swept_and_nothing_else(write: Any, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    node, token = files._NODE, "0123abcd.part"
    swept = [f"s.npy.{node}-{dead.pid}-{token}", f"s.npy.elsewhere-1-{token}"]
    stays = [
        f"s.npy.{node}-{os.getppid()}-{token}",  # alive
        f"s.npy.elsewhere-2-{token}",  # young, and nobody here can tell
        f"other.npy.{node}-{dead.pid}-{token}",  # of another place
        "s.npy.part",
        f"s.npy.{node}-{dead.pid}-notours.part",
    ]
    for name in swept + stays:
        (tmp_path / name).write_bytes(b"litter")
    os.utime(tmp_path / swept[1], (0, time.time() - files.STALE - 60))
    write(tmp_path / "s.npy")
    assert names(tmp_path) == sorted(["s.npy", *stays])


HARSH = """
import os, resource, signal, sys
from pathlib import Path
from test_files import WRITERS
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def killed(write, folder):
    os.replace = kill
    write(folder / "s.npy")
def full(write, folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
    try:
        write(folder / "s.npy")
    except Exception as error:
        os.write(1, f"{write.__name__} {type(error).__name__} {getattr(error, 'errno', None)} {error}\\n".encode())
for case in (killed, full):
    for write in WRITERS:
        folder = Path(sys.argv[1]) / case.__name__ / write.__name__
        child = os.fork()
        if not child:
            case(write, folder)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        os.write(1, f"{case.__name__} {write.__name__} {status}\\n".encode())
"""
"""What ends a process, done to children of one that has everything imported."""


@pytest.fixture(scope="module")
def harsh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a folder with a file of each writer, each written again by a process that fared ill; and words."""
    root, here = tmp_path_factory.mktemp("harsh"), Path(__file__).parent
    for case in ("killed", "full"):
        for write in WRITERS:
            (root / case / write.__name__).mkdir(parents=True)
            write(root / case / write.__name__ / "s.npy")
    paths = f"{here.parent}{os.pathsep}{here}"
    done = subprocess.run(
        [sys.executable, "-c", HARSH, str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return root, done.stdout.splitlines()


@each_writer
def test_a_kill_in_the_middle_leaves_what_was_there(write: Any, harsh: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = harsh[0] / "killed" / write.__name__
    assert f"killed {write.__name__} {signal.SIGKILL.value}" in harsh[1]
    write(tmp_path / "s.npy")  # what the one before it wrote
    assert (folder / "s.npy").read_bytes() == (tmp_path / "s.npy").read_bytes()
    assert len(names(folder)) == 2
    write(folder / "s.npy")
    assert names(folder) == ["s.npy"]  # the next one clears up


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (save, f"OSError {errno.EFBIG} [Errno {errno.EFBIG}]"),
        (features, "InputError None features_path="),
    ],
)
def test_no_room_is_an_error_with_numbers_and_no_signal(
    write: Any, words: str, harsh: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder = harsh[0] / "full" / write.__name__
    assert f"full {write.__name__} 0" in harsh[1]
    said = next(line for line in harsh[1] if line.startswith(write.__name__))
    assert said.startswith(f"{write.__name__} {words}")
    assert str(folder / "s.npy") in said
    if write is features:
        assert "it takes 1,104 bytes and its disk has" in said
    write(tmp_path / "s.npy")
    assert ((folder / "s.npy").read_bytes(), names(folder)) == ((tmp_path / "s.npy").read_bytes(), ["s.npy"])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_before_features_are_written(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"it takes 1,104 bytes and its disk has [\d,]+ free; name another place, or f"
    ):
        features(tmp_path / "s.npy")
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_cannot_reserve_is_written_to(
    code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(code, "unknown to this disk")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unknown)
    with open(tmp_path / "f", "w+b") as file:
        file.write(b"start")
        reserve(file, 3 * 2**20 + 7)
    data = (tmp_path / "f").read_bytes()
    assert data == b"start" + bytes(3 * 2**20 + 2)
    features(tmp_path / "s.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), collect(mlp(6, 16, 12, 3), X, {"features"}).features)


@pytest.mark.parametrize(("path", "kind"), [("no/s.npy", FileNotFoundError), ("s.npy/s.npy", NotADirectoryError)])
def test_a_place_that_is_none_is_an_os_error_by_name(path: str, kind: type[OSError], tmp_path: Path) -> None:
    (tmp_path / "s.npy").write_bytes(b"old")
    with pytest.raises(kind, match=path):
        save(tmp_path / path)


def test_a_long_name_leaves_room_for_its_part(tmp_path: Path) -> None:
    for name in ("x" * 250, "ü" * 120):
        plain(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"new"


def test_a_link_that_leads_to_itself_stays_one(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to("s")
    with pytest.raises(OSError, match="s"):
        save(tmp_path / "s")
    assert (tmp_path / "s").is_symlink()
