"""Two thousand seeded damages of saved selectors: each is a `CheckpointError`, or a selector that picks the same.

Bytes are changed as disks and transfers do; and what is written is changed as a hostile hand does, with digests that
match again, so that what lies behind them is reached.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import blobs, mlp, seeded
from saved_before import FOLDER, Text
from saved_before import network as network_before
from torch import Tensor, nn

from prunefuse_al.errors import CheckpointError, FallbackWarning, PruneFuseError
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.selector.checkpoint import read_file, write_file
from prunefuse_al.training import TorchTrainer

X, Y = blobs(40)
WORDS = torch.randint(0, 20, (40, 6), generator=torch.Generator().manual_seed(2))
MODELS: dict[str, Callable[[], nn.Module]] = {"plain": lambda: mlp(6, 16, 12, 3), "text": lambda: seeded(Text)}
DATA = {"plain": X, "text": WORDS}
K = 6
MEANT = ("options/trainer", "options/candidate_fraction", "options/fold_batchnorm", "epsilons")
"""What may change the picks, where it is changed to something that can be."""


@pytest.fixture(scope="module", autouse=True)
def peak_before() -> int:
    """Return the largest resident size of this process before the first test."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the files that are damaged; nothing in it waits for the disk."""
    folder = tmp_path_factory.mktemp("saved")
    trainer = TorchTrainer(1, progress=False, device="cpu")
    for name, options in (("plain", {"sync_every": 1, "pruning_ratio": 0.5}), ("text", {"pruning_ratio": 0.4})):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # V2 costs more than it saves here
            chosen = PrunedProxySelector(MODELS[name](), scorer="margin", trainer=trainer, random_state=3, **options)
            chosen.fit(DATA[name], Y).save(folder / name)
    (folder / "before").write_bytes((FOLDER / "v2.safetensors").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def picks(selector: PrunedProxySelector, data: Tensor) -> list[int]:
    return selector.select(data, K, scorer="margin").indices.tolist()


def outcome(path: Path, model: nn.Module, state: dict[str, Tensor], note: str) -> PrunedProxySelector | None:
    """Return what a file loads as, None where it is refused; anything else is a failure, and so is a changed model."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            loaded = PrunedProxySelector.load(path, model)
    except CheckpointError as error:
        loaded, words = None, str(error)
    except Exception as error:
        raise AssertionError(f"{note}: {error!r}") from error
    assert loaded is not None or words.startswith(f"load({str(path)!r}): "), note
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), note
    return loaded


# --- damages of bytes -------------------------------------------------------------------------------------------------


def flipped(data: bytearray, draw: random.Random, start: int, end: int) -> None:
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        data[draw.randrange(start, end)] ^= 1 << draw.randrange(8)


def damaged(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return the name of a damage and the bytes after it."""
    header = 8 + int.from_bytes(data[:8], "little")
    name = draw.choice(
        ["header flip"] * 4
        + ["data flip"] * 2
        + ["length", "cut", "insert", "remove", "zeros", "again", "digit", "name"]
    )
    out, at = bytearray(data), draw.randrange(len(data))
    if name == "header flip":
        flipped(out, draw, 8, header)
    elif name == "data flip":
        flipped(out, draw, header, len(out))
    elif name == "length":
        flipped(out, draw, 0, 8)
    elif name == "cut":
        del out[at:]
    elif name == "insert":
        out[at:at] = draw.randbytes(draw.choice([1, 8, 200]))
    elif name == "remove":
        del out[at : at + draw.choice([1, 8, 200])]
    elif name == "zeros":
        out[at : at + 16] = bytes(min(16, len(out) - at))
    elif name == "again":
        out[at:at] = out[at : at + draw.choice([1, 8, 200])]
    elif name == "digit":  # another number of the same length, as JSON
        digits = [i for i in range(8, header) if chr(out[i]).isdigit()]
        out[draw.choice(digits)] = ord(draw.choice("0123456789"))
    else:  # another name of the same length
        letters = [i for i in range(8, header) if chr(out[i]).isalpha()]
        out[draw.choice(letters)] = ord(draw.choice("abcdefghijklmnopqrstuvwxyz"))
    return name, bytes(out)


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", ["plain", "text"])
def test_damaged_bytes_are_refused_or_do_not_matter(name: str, part: int, saved: Path, tmp_path: Path) -> None:
    model, data, target = MODELS[name](), (saved / name).read_bytes(), tmp_path / "s"
    whole = PrunedProxySelector.load(saved / name, model)
    state, want, refused = copy.deepcopy(model.state_dict()), picks(whole, DATA[name]), 0
    for number in range(50):
        what, out = damaged(data, random.Random(f"{name} {part} {number}"))
        target.write_bytes(out)
        loaded = outcome(target, model, state, f"{what}, {name} {part} {number}")
        refused += loaded is None
        if loaded is not None:
            assert (loaded.round, loaded.options.entropy) == (whole.round, whole.options.entropy)
            assert picks(loaded, DATA[name]) == want, f"{what}, {name} {part} {number}"
    assert refused > 25


# --- what is written is changed, and digests match --------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1.0, 1e308, float("nan"), float("inf")),
    *("", "x", "0", "same", "auto", "prunefuse_al:TorchTrainer", "os:system", "\ud800", "0.weight", "../../x"),
    *([], {}, [[]], [0], ["x"], [1, 2, 3], {"x": 1}, {"as": "tuple", "items": [1]}, {"as": "x", "items": {}}),
    *({"as": "Margin", "items": {}}, {"as": "dict", "items": {"a": None}}, {"as": "set", "items": [[]]}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def changed_config(config: dict[str, Any], draw: random.Random) -> tuple[str, str]:
    """Change something in a configuration, and return where, and what was done."""
    known = list(places(config))
    tops = {path[0] for path in known}
    top = draw.choice(sorted(tops))  # each part of it as often as any other, however long it is
    path = draw.choice([path for path in known if path[0] == top])
    parent, key = at(config, path[:-1]), path[-1]
    what = draw.choice(["value", "value", "value", "drop", "rename", "copy", "repeat", "text", "shuffle"])
    if what == "value":
        parent[key] = draw.choice(VALUES)
    elif what == "drop":
        del parent[key]
    elif what == "rename" and isinstance(parent, dict):
        parent[draw.choice(["x", "", f"{key}x", "9.weight", "0:forward", str(key)[::-1]])] = parent.pop(key)
    elif what == "copy":
        parent[key] = copy.deepcopy(at(config, draw.choice(known)))
    elif what == "repeat" and isinstance(parent[key], list):
        parent[key] = parent[key] * 2
    elif what == "text":
        parent[key] = str(parent[key])
    elif isinstance(parent[key], list):
        draw.shuffle(parent[key])
    else:
        parent[key] = [parent[key]]
    return "/".join(map(str, path)), what


@pytest.mark.parametrize("part", range(12))
@pytest.mark.parametrize("name", ["plain", "text"])
def test_changed_configurations_are_refused_or_do_not_matter(name: str, part: int, saved: Path, tmp_path: Path) -> None:
    model, target = MODELS[name](), tmp_path / "s"
    state, want = copy.deepcopy(model.state_dict()), picks(PrunedProxySelector.load(saved / name, model), DATA[name])
    tensors, original = read_file(saved / name)
    text = json.dumps(original)
    for number in range(30):
        config = json.loads(text)
        where, what = changed_config(config, random.Random(f"config {name} {part} {number}"))
        write_file(target, tensors, config)
        note = f"{what} at {where}, {name} {part} {number}"
        loaded = outcome(target, model, state, note)
        if loaded is not None and not where.startswith(MEANT):
            assert picks(loaded, DATA[name]) == want, note


def changed_tensors(tensors: dict[str, Tensor], draw: random.Random) -> tuple[str, str]:
    """Change one tensor of a file, and return which, and what was done."""
    prefix = draw.choice(sorted({name.partition("/")[0] for name in tensors}))
    name = draw.choice(sorted(name for name in tensors if name.startswith(f"{prefix}/")))
    value = tensors[name]
    what = draw.choice(["drop", "rename", "type", "flat", "shorter", "longer", "row", "one", "all", "order", "empty"])
    if what == "drop":
        del tensors[name]
    elif what == "rename":
        tensors[draw.choice([f"{name}x", "x", "other/x", f"{name}:0", name[1:], f"start/{name}"])] = tensors.pop(name)
    elif what == "type":
        tensors[name] = value.to(draw.choice([torch.float16, torch.int32, torch.float64, torch.bool, torch.uint8]))
    elif what == "flat":
        tensors[name] = value.reshape(-1, 1)
    elif what == "shorter":
        tensors[name] = value.reshape(-1)[: value.numel() // 2]
    elif what == "longer":
        tensors[name] = torch.cat([value.reshape(-1)] * 2)
    elif what == "row":
        tensors[name] = value[None]
    elif what == "one":
        tensors[name] = value.clone()
        tensors[name].view(-1)[draw.randrange(value.numel())] = draw.choice([0, -1, 1, 5, 2**31 - 1, 2**62])
    elif what == "all":
        tensors[name] = torch.full_like(value, draw.choice([0, -1, 3, 2**31 - 1]))
    elif what == "order":
        tensors[name] = value.reshape(-1).flip(0).reshape(value.shape)
    else:
        tensors[name] = value.reshape(-1)[:0]
    return name, what


@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("name", ["plain", "text"])
def test_changed_tensors_are_refused_or_mean_a_selector(name: str, part: int, saved: Path, tmp_path: Path) -> None:
    model, target = MODELS[name](), tmp_path / "s"
    state, want = copy.deepcopy(model.state_dict()), picks(PrunedProxySelector.load(saved / name, model), DATA[name])
    original, config = read_file(saved / name)
    for number in range(30):
        tensors = dict(original)
        where, what = changed_tensors(tensors, random.Random(f"tensors {name} {part} {number}"))
        write_file(target, tensors, config)
        note = f"{what} of {where}, {name} {part} {number}"
        loaded = outcome(target, model, state, note)
        if loaded is None:
            continue
        try:
            found = picks(loaded, DATA[name])
            loaded.fuse()
        except PruneFuseError:  # weights of 4e18 overflow, and a proxy may be missing
            continue
        assert len(set(found)) == K, note
        assert where.startswith("trained/") or found == want, note


@pytest.mark.parametrize("part", range(4))
def test_changed_files_of_before_are_refused_or_loaded(part: int, saved: Path, tmp_path: Path) -> None:
    model, data, target = network_before("v2"), (saved / "before").read_bytes(), tmp_path / "s"
    state = copy.deepcopy(model.state_dict())
    for number in range(50):
        what, out = damaged(data, random.Random(f"before {part} {number}"))
        target.write_bytes(out)
        outcome(target, model, state, f"{what}, before {part} {number}")  # their digest leaves out the configuration


def test_memory_did_not_grow_by_what_files_say(peak_before: int) -> None:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 400_000  # KiB; some files say 1e30 bytes
