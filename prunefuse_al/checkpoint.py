"""One file that holds a selector: tensors as safetensors, everything else as JSON in its header; no pickle.

The file is written beside the old one and moved over it, so a crash leaves either the old or the new one whole.
A digest over all tensors is kept in the header: a damaged file is refused, not half read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError

FORMAT = "prunefuse_al selector"
VERSION = 1


def write_file(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able config to one file, all or nothing.

    Raises:
        CheckpointError: something in `config` cannot be written as JSON.
        OSError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}  # tied ones apart
    try:
        text = json.dumps({**config, "version": VERSION, "digest": _digest(plain)})
    except TypeError as error:
        raise CheckpointError(f"save({str(target)!r}): {error}; nothing was written") from error
    handle, name = tempfile.mkstemp(prefix=target.name, suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        save_file(plain, name, metadata={"format": FORMAT, "config": text})
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the config of a file that `write_file` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: damaged, of another origin, or of a newer version.
    """
    where = f"load({str(path)!r})"
    if not Path(path).exists():
        raise FileNotFoundError(f"{where}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{where}: not a readable safetensors file ({error}); it is damaged, cut short or of another program"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{where}: a safetensors file, but not one that PrunedProxySelector.save wrote")
    try:
        config: dict[str, Any] = json.loads(metadata["config"])
        version, digest = config["version"], config["digest"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{where}: its header is damaged ({error!r}); use an older copy") from error
    if version != VERSION:
        raise CheckpointError(f"{where}: written in version {version} of the format, this library reads {VERSION}")
    if digest != _digest(tensors):
        raise CheckpointError(f"{where}: its {len(tensors)} tensors do not match their digest; use an older copy")
    return tensors, config


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def state_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a network's state under `prefix`.

    Raises:
        CheckpointError: it holds something that is not a tensor.
    """
    state = module.state_dict()
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(
            f"save(): {other[0]!r} in the network's state is not a tensor; without pickle it cannot be saved"
        )
    return {prefix + name: value for name, value in state.items()}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, what: str) -> nn.Module:
    """Put the tensors under `prefix` into `module` and return it.

    Raises:
        CheckpointError: names or shapes differ; `module` is then unchanged.
    """
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    own = module.state_dict()
    complaints = [f"{name} is only in the file" for name in state.keys() - own.keys()]
    complaints += [f"{name} is not in the file" for name in own.keys() - state.keys()]
    complaints += [
        f"{name} is {list(state[name].shape)} in the file, {list(own[name].shape)} in the network"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if complaints:
        raise CheckpointError(
            f"load(): the {what} ({type(module).__name__}) does not fit the file in {len(complaints)} tensors: "
            f"{'; '.join(sorted(complaints)[:3])}; build the network that was saved"
        )
    module.load_state_dict(state)
    return module


_PLAIN = (str, int, float, bool, type(None))


def encode(value: Any) -> Any:
    """Return a JSON-able form of an option, from which `decode` makes an equal one.

    Plain values, lists, tuples and dicts of them, and this library's own dataclasses and parameter objects
    (those with `get_params`) have one.

    Raises:
        CheckpointError: there is none, for example for a function.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple | frozenset | set):
        return {"as": type(value).__name__, "items": [encode(item) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"as": "dict", "items": {key: encode(item) for key, item in value.items()}}
    if type(value).__module__.partition(".")[0] == __name__.partition(".")[0]:
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            return _encode_object(value, fields)
        if hasattr(value, "get_params"):
            return _encode_object(value, value.get_params(deep=False))
    raise CheckpointError(f"{value!r} cannot be written as JSON")


def _encode_object(value: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    kind = type(value)
    return {
        "as": _public_path(kind),
        "items": {key: encode(item) for key, item in fields.items()},
    }


def _public_path(kind: type) -> str:
    """Return "module:name" by the outermost module that exports a class, so that files survive a move within."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
    public = next(m for m in modules if getattr(sys.modules.get(m), kind.__qualname__, None) is kind)
    return f"{public}:{kind.__qualname__}"


def decode(value: Any) -> Any:
    """Return the option that `encode` wrote.

    Raises:
        CheckpointError: it names a class that is not of this library.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, items = value["as"], value["items"]
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(item) for item in items)
    fields = {key: decode(item) for key, item in items.items()}
    return fields if kind == "dict" else _own_class(kind)(**fields)


def _own_class(path: str) -> Any:
    """Return a class of this library; a file must not be able to call anything else."""
    module, _, name = path.partition(":")
    package = __name__.partition(".")[0]
    found = None
    if module.partition(".")[0] == package and "." not in name:
        with contextlib.suppress(ImportError):
            found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type) or found.__module__.partition(".")[0] != package:
        raise CheckpointError(f"load(): the file names {path!r}, which is no class of this library")
    return found
