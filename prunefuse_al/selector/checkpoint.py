"""One file that holds a selector: tensors as safetensors, everything else as JSON in its header; no pickle.

The file is written beside the old one and moved over it, so a crash leaves either the old or the new one whole. A
digest in the header covers the rest of the header, and with it a digest of the tensors' bytes: a damaged file is
refused, not half read. The header is read first and says how large everything is, so that whoever loads can refuse a
file before its tensors are read. In files of version 1 the digest covers the tensors alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import checks
from ..data import replacing, shortage
from ..errors import CheckpointError
from ..network import Form, Forms, forms_of

FORMAT = "prunefuse_al selector"
VERSION = 2
MAX_HEADER = 100_000_000  # bytes that safetensors reads
_MAX_PARTS = 20_000_000  # values in the JSON of a header
_UNSET = "0" * 64  # where a digest will stand
_CODES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def write_file(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able config to one file, all or nothing; see `files.replacing`.

    Written here and not by safetensors, which hides why a disk refuses, and copies every tensor before it writes.

    Raises:
        CheckpointError: something in `config` cannot be written as JSON, or is too large for a header.
        OSError: the folder does not exist, cannot be written to or is full.
    """
    place = checks.path("path", path)
    where = f"save({place!r})"
    try:
        text = json.dumps({**config, "version": VERSION})
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: {error}; nothing was written") from error
    _check_plain(tensors, where)
    forms = forms_of(tensors)
    header = _header(forms, text, _UNSET)
    if len(header) > MAX_HEADER:
        raise CheckpointError(
            f"{where}: its options and names take {len(header):,} bytes of JSON, and a header holds {MAX_HEADER:,}; "
            "give options that are shorter to write; nothing was written"
        )
    size = len(header) + sum(map(_size, forms.values()))
    try:
        with replacing(place) as file:
            file.write(header)
            content = hashlib.sha256()
            for name in _order(forms):  # one at a time, so that nothing is in memory twice
                data = _bytes_of(tensors[name])
                content.update(data)
                file.write(data)
            file.seek(0)
            file.write(_header(forms, text, content.hexdigest()))
    except OSError as error:
        what = (error.strerror or str(error)) + shortage(error, place, size)
        raise OSError(error.errno, what, place) from error


def _check_plain(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` for tensors that a file cannot hold as they are."""
    for name, value in tensors.items():
        if value.dtype not in _CODES or value.layout is not torch.strided or value.device.type == "meta":
            raise CheckpointError(
                f"{where}: {name!r} is {value.dtype}, {value.layout}, on {value.device}, and a file holds dense "
                "tensors of plain types; nothing was written"
            )


def _header(forms: Forms, text: str, content: str) -> bytes:
    """Return the start of a file: of the same length whatever the digest of the `content` is."""
    start, table = 0, {}
    for name in _order(forms):
        end = start + _size(forms[name])
        table[name] = {
            "dtype": _CODES[forms[name].dtype],
            "shape": list(forms[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    digest = _UNSET if content == _UNSET else _digest(forms, text, content)
    metadata = {"format": FORMAT, "config": text, "content": content, "digest": digest}
    data = json.dumps({"__metadata__": metadata, **table}).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data


def _order(forms: Forms) -> list[str]:
    """Return the names in the order of the file: wide types first, so that each stands at a multiple of its size."""
    return sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))


def _size(form: Form) -> int:
    return math.prod(form.shape) * form.dtype.itemsize


def _digest(forms: Forms, text: str, content: Any) -> str:
    """Return the digest of a header, which holds that of the tensors' bytes."""
    table = [[name, _CODES[forms[name].dtype], list(forms[name].shape)] for name in _order(forms)]
    return hashlib.sha256(json.dumps([FORMAT, text, table, content]).encode()).hexdigest()


def _bytes_of(value: Tensor) -> memoryview | bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if len(flat) else b""


@dataclass(frozen=True, eq=False)
class SelectorFile:
    """A file whose header has been read; its tensors not yet.

    Attributes:
        path: where it is.
        version: of the format.
        config: what `write_file` was given.
        forms: what the tensors are, by name.
        content: the digest of their bytes.
    """

    path: str
    version: int
    config: dict[str, Any]
    forms: Forms
    content: Any

    @property
    def where(self) -> str:
        """The call, for messages."""
        return f"load({self.path!r})"

    def tensors(self) -> dict[str, Tensor]:
        """Read and return the tensors.

        Raises:
            CheckpointError: they are damaged.
            OSError: they cannot be read, or not into this memory.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in _order(self.forms)}
        except (SafetensorError, ValueError, RuntimeError) as error:
            if os.strerror(errno.ENOMEM) in str(error):  # torch maps the file
                raise OSError(errno.ENOMEM, f"{self.where}: no memory for its tensors", self.path) from error
            raise _unreadable(self.where, str(error)) from error
        digest = _digest_before(found) if self.version == 1 else _content_of(found)
        if digest != self.content or forms_of(found) != self.forms:
            raise CheckpointError(f"{self.where}: its {len(found)} tensors do not match their digest; {_OLDER}")
        return found


_OLDER = "use an older copy"


def opened(path: str | os.PathLike[str]) -> SelectorFile:
    """Return a file that `write_file` wrote, of which nothing but the header is read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read, or the disk cannot read it.
        CheckpointError: damaged, of another origin, of a newer version, or no regular file.
    """
    name = checks.path("path", path)
    where = f"load({name!r})"
    metadata, forms = _read_header(name, where)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{where}: a safetensors file, but not one that PrunedProxySelector.save wrote")
    config = _parsed(str(metadata.get("config")), where)
    version = config.pop("version", None)
    if type(version) is not int:
        raise CheckpointError(f"{where}: its header is damaged (version {version!r:.100}); {_OLDER}")
    if not 1 <= version <= VERSION:
        raise CheckpointError(f"{where}: written in version {version} of the format, this library reads 1 to {VERSION}")
    content = config.pop("digest", None) if version == 1 else metadata.get("content")
    if version > 1 and metadata.get("digest") != _digest(forms, metadata["config"], content):
        raise CheckpointError(f"{where}: its header does not match its digest; {_OLDER}")
    return SelectorFile(name, version, config, forms, content)


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the config of a file that `write_file` wrote; see `opened`."""
    file = opened(path)
    return file.tensors(), file.config


def _read_header(path: str, where: str) -> tuple[dict[str, Any], dict[str, Form]]:
    """Return what a safetensors file says of itself and of its tensors; only a regular file is opened, no pipe.

    Read here because safetensors maps the whole file first, which a file larger than memory does not survive.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, f"{where}: no such file", path) from error
    if not stat.S_ISREG(found.st_mode):
        what = "folder" if stat.S_ISDIR(found.st_mode) else "device, pipe or socket"
        raise CheckpointError(f"{where}: it is a {what}, not a file")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, found.st_size - 8):
            raise _unreadable(where, f"a header of {length:,} bytes in a file of {found.st_size:,}")
        header = _parsed(file.read(length), where)
    metadata = header.pop("__metadata__", {})
    try:
        forms = {name: Form(_DTYPES[entry["dtype"]], _shape(entry["shape"])) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(where, f"a tensor of it is not described: {error!r:.200}") from error
    size, rest = sum(map(_size, forms.values())), found.st_size - 8 - length
    if size != rest or not isinstance(metadata, dict):
        raise _unreadable(where, f"{size:,} bytes of tensors in its header, and {rest:,} behind it")
    return metadata, forms


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"shape {sizes!r:.100}")
    return tuple(sizes)


def _unreadable(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: not a readable safetensors file ({what}); it is damaged, cut short or of another program"
    )


def _parsed(text: str | bytes, where: str) -> dict[str, Any]:
    """Return a JSON object; what would take far more memory than it has bytes is not parsed."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    parts = sum(map(data.count, (b",", b"[", b"{")))
    if parts > _MAX_PARTS:
        raise CheckpointError(f"{where}: its header is damaged ({parts:,} values); {_OLDER}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: its header is damaged ({type(error).__name__}: {error}); {_OLDER}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: its header is damaged ({type(found).__name__}, no object); {_OLDER}")
    return found


def _content_of(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in _order(forms_of(tensors)):
        content.update(_bytes_of(tensors[name]))
    return content.hexdigest()


def _digest_before(tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a file of version 1."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()
