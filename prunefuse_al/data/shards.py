"""Tar shards, as WebDataset writes them, as a dataset with row numbers."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from .. import checks
from ..errors import InputError

Sample = Mapping[str, bytes]


@dataclass(frozen=True)
class _Place:
    """Where the bytes of one file are: which shard, from where, how many."""

    shard: int
    start: int
    size: int


class TarShards(Dataset[Any]):
    """The samples of tar files: what has one name up to its first dot, such as ``a/007.jpg`` and ``a/007.cls``.

    WebDataset reads such shards as a stream, which has no row numbers; here the places of all files are looked up once
    (the heads of the files are read, not their contents), and a sample is read when it is asked for, by whichever
    process asks. Rows are in the order of the shards and of their files.

    Args:
        shards: paths of uncompressed .tar files.
        decode: makes an item, x or (x, y), of a sample: the bytes of its files by what follows the first dot, in small
            letters (``"jpg"``, ``"cls"``), and its name under ``"__key__"``. It is called in worker processes too, so
            let it be a function of a module.

    Raises:
        InputError: a file is no tar file or a compressed one, or two samples have the same name.

    Attributes:
        keys: the name of each sample.
    """

    def __init__(self, shards: Sequence[str | os.PathLike[str]], decode: Callable[[dict[str, Any]], Any]) -> None:
        if isinstance(shards, str | bytes) or not isinstance(shards, Sequence) or not shards:
            raise checks.refused("shards", shards, "a list of paths of .tar files")
        self.shards = [checks.path("shards", path) for path in shards]
        self.decode = checks.function("decode", decode, "a function of a sample, a dict of bytes by extension")
        samples: dict[str, dict[str, _Place]] = {}
        for number, path in enumerate(self.shards):
            self._look_up(samples, number, path)
        self.keys, self._samples = list(samples), list(samples.values())

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> Any:
        """Return what `decode` makes of a sample."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the items of several rows; each shard is opened once, and read from front to back."""
        n = len(self)
        if outside := [row for row in rows if not -n <= row < n]:
            raise IndexError(f"row {outside[0]} was asked for; the data has rows 0..{n - 1}")
        wanted = sorted({(place, row % n, name) for row in rows for name, place in self._samples[row].items()}, key=_at)
        found: dict[int, dict[str, bytes]] = {row % n: {} for row in rows}
        shard, file = -1, None
        try:
            for place, row, name in wanted:
                if place.shard != shard:
                    if file is not None:
                        file.close()
                    shard, file = place.shard, open(self.shards[place.shard], "rb")  # noqa: SIM115
                assert file is not None
                file.seek(place.start)
                found[row][name] = file.read(place.size)
        finally:
            if file is not None:
                file.close()
        return [self.decode({"__key__": self.keys[row % n], **found[row % n]}) for row in rows]

    def _look_up(self, samples: dict[str, dict[str, _Place]], number: int, path: str) -> None:
        """Add the files of one shard to the samples by name."""
        before = set(samples)
        try:
            with tarfile.open(path, "r:") as shard:
                for member in shard:
                    folder, _, name = member.name.rpartition("/")
                    stem, dot, extension = name.partition(".")
                    if not member.isfile() or not stem or not dot:
                        continue
                    key = f"{folder}/{stem}".lstrip("/")
                    places = samples.setdefault(key, {})
                    if key in before or extension.lower() in places:
                        raise InputError(f"sample {key!r} is there twice, the second time in {path}")
                    places[extension.lower()] = _Place(number, member.offset_data, member.size)
        except tarfile.ReadError as error:
            raise InputError(f"{path} is no uncompressed tar file ({error}); unpack it: gunzip, or tar xf") from error


def _at(wanted: tuple[_Place, int, str]) -> tuple[int, int]:
    return wanted[0].shard, wanted[0].start
