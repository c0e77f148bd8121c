"""Files that appear whole or not at all: written beside their place and moved there once they are on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STALE = 24 * 3600.0
"""Seconds after which a part is left behind for sure, where its writer cannot be asked (another machine's)."""
_NODE = re.sub(r"\W", "", platform.node())[:40] or "node"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNKNOWN_TO_DISK = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # the kinds of disk that cannot reserve


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, lasting: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file, open for reading and writing, that takes the place of `path` at the end of the block.

    A block that raises, and a process that dies in it, leave what was there. What a process that died left beside it
    is removed by the next that writes to the same place. A symbolic link stays one: the file it leads to is replaced.
    The file has the permissions of the one it replaces, or those that any new file gets.

    Args:
        path: the place; its folder must exist.
        lasting: wait until the file is on the disk, so that it outlives a power cut.

    Raises:
        OSError: it cannot be written there, or there is something else than a regular file.
    """
    target = Path(os.path.realpath(path))
    mode = _mode_of(path)
    stem = f"{target.name[:40]}.{_NODE}"
    _sweep(target.parent, stem)
    part = target.with_name(f"{stem}-{os.getpid()}-{secrets.token_hex(4)}.part")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(part, flags, 0o666 if mode is None else 0o600)  # less what the umask takes
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if mode is not None:
                os.chmod(part, mode)
            if lasting:
                os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
    if lasting:
        sync_folder(target.parent)


def reserve(file: BinaryIO, size: int) -> None:
    """Let a file take `size` bytes of the disk now: a write through a memory map that finds none kills the process.

    Raises:
        OSError: there is not as much room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in _UNKNOWN_TO_DISK:
                raise
    for start in range(file.seek(0, os.SEEK_END), size, 2**20):
        file.write(bytes(min(2**20, size - start)))
    file.flush()


def shortage(error: OSError, path: str | os.PathLike[str], size: int) -> str:
    """Return in words that a disk has no room for `size` bytes, where that is what an error says; "" otherwise."""
    if error.errno not in _NO_ROOM:
        return ""
    free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
    return f": it takes {size:,} bytes and its disk has {free:,} free"


def _mode_of(path: str | os.PathLike[str]) -> int | None:
    """Return the permissions of the file that is to be replaced, None where there is none."""
    try:
        found = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", os.fsdecode(path))
    if not stat.S_ISREG(found):
        raise OSError(errno.EINVAL, "there is a device, pipe or socket of that name", os.fsdecode(path))
    return stat.S_IMODE(found) & 0o777


def _sweep(folder: Path, stem: str) -> None:
    """Remove parts that writers to the same place left behind."""
    name, _, node = stem.rpartition(".")
    pattern = re.compile(re.escape(name) + r"\.(\w+)-(\d{1,9})-[0-9a-f]{8}\.part")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            if found is None:
                continue
            dead = found[1] == node and not _alive(int(found[2]))
            with contextlib.suppress(OSError):  # another process sweeps as well
                if dead or time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE:
                    os.unlink(entry.path)


def _alive(process: int) -> bool:
    """Tell whether a process of this machine is there; on Windows, where asking is no harmless thing, it always is."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Have the new name on the disk as well; the file is there already, so what cannot do this does no harm."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
