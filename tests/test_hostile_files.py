"""Files that are whole, with digests that match, and yet no selector's: each is refused, and nothing is done for it."""

from __future__ import annotations

import copy
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, seeded
from safetensors.torch import save_file
from saved_before import Text
from torch import Tensor, nn

from prunefuse_al.errors import CheckpointError, FallbackWarning, InputError, UnsupportedModelError
from prunefuse_al.network.states import Form, forms_of
from prunefuse_al.selector import PrunedProxySelector, checkpoint
from prunefuse_al.selector.checkpoint import FORMAT, MAX_HEADER, read_file, write_file
from prunefuse_al.training import TorchTrainer

X, Y = blobs(60)
WORDS = torch.randint(0, 20, (60, 6), generator=torch.Generator().manual_seed(2))


def network() -> nn.Module:
    return mlp(6, 16, 12, 3)


def text() -> nn.Module:
    return seeded(Text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a selector of a perceptron, "plain", and of a transformer, "text"."""
    folder = tmp_path_factory.mktemp("saved")
    options: dict[str, Any] = {"trainer": TorchTrainer(2, progress=False, device="cpu"), "random_state": 3}
    PrunedProxySelector(network(), 0.5, scorer="margin", **options).fit(X, Y).save(folder / "plain")
    PrunedProxySelector(text(), 0.4, scorer="margin", **options).fit(WORDS, Y).save(folder / "text")
    return folder


Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]


def changed(source: Path, target: Path, change: Change) -> None:
    """Write a file again with another content, and digests of that."""
    tensors, config = read_file(source)
    config = copy.deepcopy(config)
    change(config, tensors)
    write_file(target, tensors, config)


def put(path: str, value: Any) -> Change:
    """Return the change that sets one value of the configuration, by its path."""

    def change(config: dict[str, Any], _: dict[str, Tensor]) -> None:
        *parents, last = path.split("/")
        for name in parents:
            config = config[int(name) if isinstance(config, list) else name]
        config[last] = value

    return change


def option(name: str, value: Any) -> Change:
    return put(f"options/{name}", value)


def tensor(name: str, value: Any) -> Change:
    return lambda _, tensors: tensors.__setitem__(name, torch.as_tensor(value))


def made(kind: str, **items: Any) -> dict[str, Any]:
    return {"as": kind, "items": items}


MAP = "channel_map"
ROWS = {
    # the configuration as a whole
    "an empty configuration": (lambda c, t: c.clear(), "does not describe a selector (options is nothing)"),
    "no entropy": (lambda c, t: c.pop("entropy"), "entropy is nothing"),
    "entropy a float": (put("entropy", 1.5), "entropy is 1.5"),
    "entropy true": (put("entropy", True), "entropy is True"),
    "entropy below 0": (put("entropy", -1), "entropy is -1, and none is below 0"),
    "round below 0": (put("round", -3), "round is -3, and none is below 0"),
    "round text": (put("round", "2"), "round is '2'"),
    "cut a number": (put("cut", 1), "cut is 1"),
    "options a list": (put("options", []), "options is []"),
    "report a number": (put("report", 3), "report is 3"),
    "costs text": (put("costs", "x"), "costs is 'x'"),
    "model a list": (put("model", ["Sequential"]), "model is ['Sequential']"),
    "map a list": (put(MAP, [1]), "channel_map is [1]"),
    "missing a number": (put("missing", [3]), "the option 3, which no selector has"),
    "missing a list": (put("missing", [[]]), "does not describe a selector"),
    "not cut but thinned": (put("cut", False), "for which the network has no place"),
    # options
    "unknown option": (option("shell", "rm"), "the option 'shell', which no selector has"),
    "the model as an option": (option("model", None), "the option 'model'"),
    "the proxy as an option": (option("proxy", None), "the option 'proxy'"),
    "ratio 1": (option("pruning_ratio", 1.0), "pruning_ratio=1.0"),
    "ratio text": (option("pruning_ratio", "x"), "pruning_ratio='x'"),
    "ratio a list": (option("pruning_ratio", [0.5]), "pruning_ratio=[0.5]"),
    "share 0": (option("candidate_fraction", 0), "candidate_fraction=0"),
    "sync_every -1": (option("sync_every", -1), "sync_every=-1"),
    "rate text": (option("fine_tune_lr_scale", "x"), "options are not those of a selector"),
    "cross unknown": (option("cross", "keep"), "cross='keep'"),
    "dtype unknown": (option("features_dtype", "int4"), "features_dtype='int4'"),
    "scorer unknown": (option("scorer", "nonsense"), "unknown scorer 'nonsense'"),
    "scorer a trainer": (option("scorer", made("TorchTrainer")), "no usable `needs`"),
    "scorer None": (option("scorer", None), "scorer=None"),
    "warm a number": (option("warm_start", 3), "warm_start=3"),
    "progressive text": (option("progressive", "fast"), "progressive='fast'"),
    # objects
    "os.system": (option("scorer", made("os:system", command="x")), "the file names 'os:system'"),
    "a function of ours": (option("scorer", made("prunefuse_al:prune")), "no class that an option can be made of"),
    "an adapter": (option("trainer", made("prunefuse_al.adapters.modal:QueryStrategy")), "no class"),
    "a class that is no option": (option("scorer", made("PrunedProxySelector")), "no class"),
    "an object of nothing": (option("scorer", {}), "{}, which is no option"),
    "an object of a number": (option("scorer", {"as": 3, "items": {}}), "which is no option"),
    "items a number": (option("scorer", {"as": "Margin", "items": 3}), "what Margin does not take"),
    "items of a tuple": (option("keep", {"as": "tuple", "items": None}), "what tuple does not take"),
    "a set of lists": (option("keep", {"as": "set", "items": [[]]}), "what set does not take"),
    "a field too many": (option("scorer", made("Margin", x=1)), "what Margin does not take"),
    "a bad share": (option("scorer", made("Mixture", share="x")), "what Mixture does not take"),
    "a bad part": (option("scorer", made("TwoStage", first=3)), "what TwoStage does not take"),
    "a bad patience": (option("trainer", made("TorchTrainer", early_stopping=made("EarlyStopping", patience="x"))), ""),
    "a bad lambda": (option("distillation", made("Distillation", lambda_=7)), "what Distillation does not take"),
    "bad labels": (option("pruning_ratio", made("FallingRatio", start=0.5, end=0.1, labels=None)), "FallingRatio"),
    "a compiler's options": (
        option("trainer", made("TorchTrainer", compile={"as": "dict", "items": {"options": 1}})),
        "is not taken from a file; pass the trainer to load()",
    ),
    # the network
    "no architecture": (lambda c, t: c.pop("architecture"), "does not describe a selector"),
    "architecture a number": (put("architecture", 3), "does not say what the network is"),
    "architecture of numbers": (put("architecture/modules/0", [3, {}]), "does not say what the network is"),
    "code of numbers": (put("architecture/code/X", [3]), "does not say what the network is"),
    # epsilons
    "epsilon of nothing": (put("epsilons/0:eps", 1e-5), "the file sets '0:eps' to 1e-05; the network has None"),
    "epsilon of a method": (put("epsilons/0:forward", 1e-5), "sets '0:forward'"),
    "synced epsilons": (put("synced_epsilons", {}), "is not in the file"),
    # the map
    "a tensor more": (put(f"{MAP}/tensors/9.weight", [[3], []]), "9.weight"),
    "a tensor less": (lambda c, t: c[MAP]["tensors"].pop("0.weight"), "0.weight"),
    "another shape": (put(f"{MAP}/tensors/0.weight", [[17, 6], [1]]), "0.weight"),
    "a shape of text": (put(f"{MAP}/tensors/0.weight", ["ab", []]), "this is no channel map"),
    "a shape that is none": (put(f"{MAP}/tensors/0.weight", 3), "describes no channel map"),
    "inputs outside": (put(f"{MAP}/tensors/0.weight", [[16, 6], [2]]), "inputs [2]"),
    "indices below 0": (tensor(f"{MAP}/0.weight:0", [-1, *range(1, 8)]), "does not rise within 0 to 15"),
    "indices outside": (tensor(f"{MAP}/0.weight:0", [*range(7), 16]), "does not rise within 0 to 15"),
    "indices unsorted": (tensor(f"{MAP}/0.weight:0", [1, 0, *range(2, 8)]), "does not rise"),
    "indices twice": (tensor(f"{MAP}/0.weight:0", [0, 0, *range(2, 8)]), "does not rise"),
    "indices as floats": (tensor(f"{MAP}/0.weight:0", torch.arange(8.0)), "'0.weight:0' is torch.float32"),
    "indices as int32": (tensor(f"{MAP}/0.weight:0", torch.arange(8, dtype=torch.int32)), "is torch.int32"),
    "no indices": (tensor(f"{MAP}/0.weight:0", torch.arange(0)), "at least one"),
    "indices in rows": (tensor(f"{MAP}/0.weight:0", torch.arange(8).view(2, 4)), "[2, 4]"),
    "fewer indices": (tensor(f"{MAP}/0.weight:0", torch.arange(7)), ""),
    "indices of no tensor": (tensor(f"{MAP}/9.weight:0", [0]), "for which the network has no place"),
    "indices of no dimension": (tensor(f"{MAP}/0.bias:1", [0]), "for which the network has no place"),
    "indices of no number": (tensor(f"{MAP}/0.bias:x", [0]), "for which the network has no place"),
    "an attribute of no module": (put(f"{MAP}/attributes/9:x", 3), "the file sets '9:x' to 3"),
    "an attribute that is not there": (put(f"{MAP}/attributes/0:x", 3), "the file sets '0:x' to 3"),
    "an attribute without a name": (put(f"{MAP}/attributes/0", 3), "the attribute '0' is 3"),
    "a method": (put(f"{MAP}/attributes/0:forward", 3), "the file sets '0:forward' to 3"),
    "the class": (put(f"{MAP}/attributes/0:__class__", 3), "the attribute '0:__class__' is 3"),
    "a flag": (put(f"{MAP}/attributes/0:training", 1), "the file sets '0:training' to 1"),
    "a width as text": (put(f"{MAP}/attributes/0:out_features", "8"), "it is a width"),
    "a width of 0": (put(f"{MAP}/attributes/0:out_features", 0), "it is a width"),
    "a width of 1e30": (put(f"{MAP}/attributes/0:out_features", 10**30), "the file sets '0:out_features'"),
    "a width as a list": (put(f"{MAP}/attributes/0:out_features", [8]), "the file sets '0:out_features'"),
    "a cache of no module": (put(f"{MAP}/computed", {"9:x": []}), "the file sets '9:x' to ()"),
    "a cache in place of a layer": (put(f"{MAP}/computed", {":0": []}), "what was computed at ':0'"),
    "a cache in place of a method": (put(f"{MAP}/computed", {":forward": [None]}), "what was computed at ':forward'"),
    "a cache in place of another method": (put(f"{MAP}/computed", {":append": [None]}), "the file sets ':append'"),
    "a cache of weights": (put(f"{MAP}/computed", {"0:weight": [None]}), "the file sets '0:weight'"),
    "a cache that starts with numbers": (put(f"{MAP}/computed", {"0:x": [[1, 2]]}), "starts as ([1, 2],)"),
    "caches in a list": (put(f"{MAP}/computed", [3]), "describes no channel map"),
    "streams of a number": (put(f"{MAP}/streams", [3]), "describes no channel map"),
    "streams of nothing": (put(f"{MAP}/streams", [[[], [], True]]), "has no normalisation"),
    "streams of no tensor": (put(f"{MAP}/streams", [[[["9.weight", 0]], [["0", "0.bias"]], True]]), "'9.weight'"),
    "streams of no dimension": (put(f"{MAP}/streams", [[[["0.bias", 4]], [["0", "0.bias"]], True]]), "dimension 4"),
    "streams of two widths": (put(f"{MAP}/streams", [[[["2.bias", 0]], [["0", "0.bias"]], True]]), "not of one width"),
    "streams of no module": (put(f"{MAP}/streams", [[[], [["9", "0.bias"]], True]]), "names the module '9'"),
    "streams half centred": (put(f"{MAP}/streams", [[[], [["0", "0.bias"]], 0.5]]), "centred=0.5"),
    "streams of lists": (put(f"{MAP}/streams", [[[[[], 0]], [["0", "0.bias"]], True]]), "dimension 0 of []"),
    "streams of columns": (put(f"{MAP}/streams", [[[], [["0", "0.weight"]], True]]), "more than one dimension"),
    "scales of nothing": (
        put(f"{MAP}/streams", [[[["0.bias", 0]], [["0", "0.bias"]], True, [["0.bias", 0, ["9"]]]]]),
        "tensors that are not there",
    ),
    # the report
    "no report": (put("report", None), "a channel map without a report"),
    "a report of another class": (put("report", made("Margin")), "is none that prune makes"),
    "a report of text": (put("report/items/proxy_macs", "x"), "is none that prune makes"),
    "a report with a ratio of 2": (put("report/items/pruning_ratio", 2.0), "is none that prune makes"),
    "widths that are none": (put("report/items/widths", [3]), "is none that prune makes"),
    "remarks that are none": (put("report/items/remarks", 3), "is none that prune makes"),
    "reasons that are none": (put("report/items/kept_whole", {"as": "dict", "items": {"a": 3}}), "is none that prune"),
    # the ledger
    "costs in rows of nothing": (put("costs", [{"round": 1}]), "row 0 of a ledger holds round"),
    "costs in rows of numbers": (put("costs", [3]), "row 0 of a ledger holds 3"),
    "no words": (put("costs/stage", []), "no words for its column 'stage'"),
    "words of numbers": (put("costs/stage", [3] * 9), "no words for its column 'stage'"),
    "seconds below 0": (lambda c, t: t["costs/seconds"].neg_().sub_(1), "'seconds' of the ledger holds -"),
    "seconds without end": (lambda c, t: t["costs/seconds"].fill_(float("inf")), "'seconds' of the ledger holds inf"),
    "seconds that are none": (lambda c, t: t["costs/seconds"].fill_(float("nan")), "'seconds' of the ledger holds nan"),
    "a column less": (lambda c, t: t.pop("costs/round"), "has no column 'round'"),
    "a column of another length": (tensor("costs/round", [1]), "columns of the ledger are of [1, "),
    "a column of another type": (tensor("costs/round", [1.0]), "has no column 'round' of numbers"),
    "a column of scalars": (tensor("costs/round", 1), "has no column 'round' of numbers"),
    # tensors
    "a tensor too many": (tensor("dense/9.weight", [0.0]), "9.weight is only in the file"),
    "a tensor of no network": (tensor("other/9.weight", [0.0]), "for which the network has no place"),
    "a tensor missing": (lambda c, t: t.pop("dense/0.weight"), "0.weight is not in the file"),
    "a tensor of another shape": (tensor("dense/0.weight", torch.zeros(16, 7)), "0.weight is [16, 7] in the file"),
    "a tensor of another type": (
        lambda c, t: t.update({"dense/0.weight": t["dense/0.weight"].half()}),
        "0.weight is float16 [16, 6] in the file, float32 [16, 6] in the network",
    ),
    "a wider proxy": (tensor("trained/0.weight", torch.zeros(17, 6)), "for which the network has no place"),
    "a thinner proxy": (tensor("trained/0.weight", torch.zeros(7, 6)), "the proxy (Sequential) does not fit the file"),
    "a proxy of nothing": (tensor("trained/9.weight", torch.zeros(7, 6)), "for which the network has no place"),
    "a proxy without a start": (
        lambda c, t: [t.pop(name) for name in list(t) if name.startswith("start/")],
        "its proxies are thinned while they are trained",
    ),
    "a target too many": (tensor("synced/0.weight", torch.zeros(16, 6)), "for which the network has no place"),
}
TEXT_ROWS = {
    "a width in a list": (put(f"{MAP}/attributes/norm:normalized_shape", [17]), "sets 'norm:normalized_shape'"),
    "widths in a list": (put(f"{MAP}/attributes/norm:normalized_shape", [8, 8]), "sets 'norm:normalized_shape'"),
    "an epsilon below 0": (put("epsilons/norm:eps", -1.0), "sets 'norm:eps' to -1.0; the network has 1e-05"),
    "an epsilon of text": (put("epsilons/norm:eps", "x"), "sets 'norm:eps' to 'x'"),
    "an epsilon without end": (put("epsilons/norm:eps", float("inf")), "sets 'norm:eps' to inf"),
    "an epsilon that is a rate": (put("epsilons/block.dropout:p", 0.5), "sets 'block.dropout:p'"),
}


def refused(path: Path, model: nn.Module, words: str, **options: Any) -> None:
    """Assert that a file is refused in these words, and that the model is as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as caught:
        PrunedProxySelector.load(path, model, **options)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"load({str(path)!r}): ")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("row", sorted(ROWS))
def test_what_is_no_selector_is_refused(row: str, saved: Path, tmp_path: Path) -> None:
    change, words = ROWS[row]
    changed(saved / "plain", tmp_path / "s", change)
    refused(tmp_path / "s", network(), words)


@pytest.mark.parametrize("row", sorted(TEXT_ROWS))
def test_what_is_no_selector_of_a_transformer_is_refused(row: str, saved: Path, tmp_path: Path) -> None:
    change, words = TEXT_ROWS[row]
    changed(saved / "text", tmp_path / "s", change)
    refused(tmp_path / "s", text(), words)


def raw(path: Path, metadata: dict[str, str]) -> None:
    save_file({"dense/0.weight": torch.zeros(2)}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[]", "(list, no object)"),
        ("3", "(int, no object)"),
        ("null", "(NoneType, no object)"),
        ("", "JSONDecodeError"),
        ("{", "JSONDecodeError"),
        ('"version"', "(str, no object)"),
        ("[" * 100_000 + "]" * 100_000, "RecursionError"),
        ('{"version": 1' + "0" * 5000 + "}", "ValueError"),
        ('{"version": [2]}', "version [2]"),
        ('{"version": true}', "version True"),
        ('{"version": 1.0}', "version 1.0"),
        ('{"version": "2"}', "version '2'"),
        ('{"version": 0}', "version 0 of the format, this library reads 1 to 2"),
        ('{"version": 3}', "version 3 of the format, this library reads 1 to 2"),
        ('{"version": 2}', "does not match its digest"),
        ('{"version": 1, "digest": 3}', ""),
        ("[" + "0," * 20_000_000 + "0]", "20,000,011 values"),
    ],
)
def test_a_configuration_that_is_none_is_refused(config: str, words: str, tmp_path: Path) -> None:
    raw(tmp_path / "s", {"format": FORMAT, "config": config})
    refused(tmp_path / "s", network(), words)


def test_without_a_configuration_or_the_format_it_is_refused(tmp_path: Path) -> None:
    raw(tmp_path / "s", {"format": FORMAT})
    refused(tmp_path / "s", network(), "its header is damaged")
    raw(tmp_path / "s", {"config": "{}"})
    refused(tmp_path / "s", network(), "not one that PrunedProxySelector.save wrote")


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"as": "tuple", "items": [', "]}")])
@pytest.mark.parametrize("depth", [300, 3000, 200_000])
def test_options_nested_beyond_reason_are_refused(
    start: str, end: str, depth: int, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, config = read_file(saved / "plain")
    config["options"]["scorer"] = "HERE"
    text = json.dumps({**config, "version": 2}).replace('"HERE"', start * depth + end * depth)
    plain = json.dumps

    def dumps(value: Any) -> str:
        return text if isinstance(value, dict) and "options" in value else plain(value)

    monkeypatch.setattr(json, "dumps", dumps)  # which would not write it
    write_file(tmp_path / "s", tensors, config)
    monkeypatch.undo()
    refused(tmp_path / "s", network(), "")


def no_regular_file(kind: str, path: Path) -> Path:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":  # in the present folder, as their names are short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_without_opening_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = no_regular_file(kind, tmp_path / "s")
    refused(path, network(), "folder, not a file" if kind == "folder" else "device, pipe or socket, not a file")


def sparse(path: Path, tensors: dict[str, Tensor], config: dict[str, Any], name: str, shape: tuple[int, ...]) -> None:
    """Write a file of which one tensor is a hole of any size, with digests that match as far as nobody reads it."""
    forms = {**forms_of(tensors), name: Form(torch.float32, shape)}
    text = json.dumps({**config, "version": 2})
    header = checkpoint._header(forms, text, "1" * 64)
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(map(checkpoint._size, forms.values())))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dense/0.weight", "0.weight is [100000, 100000] in the file, [16, 6] in the network"),
        ("dense/new", "new is only in the file"),
        ("trained/0.weight", "it holds 'trained/0.weight', float32 [100000, 100000]"),
        ("start/0.weight", "it holds 'start/0.weight'"),
        ("synced/0.weight", "it holds 'synced/0.weight'"),
        ("channel_map/0.weight:0", "it holds 'channel_map/0.weight:0'"),
        ("channel_map/0.weight:0:copies", "it holds 'channel_map/0.weight:0:copies'"),
        ("costs/seconds", "it holds 'costs/seconds'"),
        ("junk", "it holds 'junk'"),
    ],
)
def test_forty_gigabytes_are_refused_by_their_header(
    name: str, words: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, config = read_file(saved / "plain")
    sparse(tmp_path / "s", tensors, config, name, (100_000, 100_000))
    monkeypatch.setattr(checkpoint.SelectorFile, "tensors", lambda self: pytest.fail("it was read"))
    assert (tmp_path / "s").stat().st_size > 40_000_000_000
    refused(tmp_path / "s", network(), words)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"1234567", "in a file of 7"),
        ((2**63).to_bytes(8, "little") + b"{}", "a header of 9,223,372,036,854,775,808 bytes in a file of 10"),
        ((MAX_HEADER + 1).to_bytes(8, "little"), "a header of 100,000,001 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "its header is damaged (list, no object)"),
        ((4).to_bytes(8, "little") + b"\xff\xff\xff\xff", "its header is damaged (UnicodeDecodeError"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header is damaged (RecursionError"),
        ((7).to_bytes(8, "little") + b'{"a":3}', "a tensor of it is not described"),
    ],
)
def test_a_header_that_is_none_is_refused(start: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(start)
    if len(start) == 8:
        os.truncate(tmp_path / "s", 2 * MAX_HEADER)
    refused(tmp_path / "s", network(), words)


def test_a_file_that_memory_does_not_hold_is_not_called_damaged(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap 40 bytes from file: Cannot allocate memory (12)")

    monkeypatch.setattr(checkpoint, "safe_open", full)
    with pytest.raises(OSError, match="no memory for its tensors"):
        PrunedProxySelector.load(saved / "plain", network())


def test_a_file_names_no_module_to_import(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "prunefuse_al.adapters.modal"
    monkeypatch.delitem(sys.modules, name, raising=False)
    changed(saved / "plain", tmp_path / "s", option("scorer", made(f"{name}:QueryStrategy")))
    refused(tmp_path / "s", network(), "no class that an option can be made of")
    assert name not in sys.modules


def test_where_there_is_no_file_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("absent", "file/absent", "link"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            PrunedProxySelector.load(tmp_path / name, network())


@pytest.mark.parametrize("path", [3, None, 1.5, ["s"], "", "a\0b"])
def test_what_is_no_path_is_an_input_error(path: Any) -> None:
    with pytest.raises(InputError, match="pass a path"):
        PrunedProxySelector.load(path, network())
    with pytest.raises(InputError, match="pass a path"):
        PrunedProxySelector(network()).save(path)


def test_bytes_are_a_path(saved: Path, tmp_path: Path) -> None:
    loaded = PrunedProxySelector.load(os.fsencode(saved / "plain"), network())  # type: ignore[arg-type]
    loaded.save(os.fsencode(tmp_path / "s"))  # type: ignore[arg-type]
    assert PrunedProxySelector.load(tmp_path / "s", network()).round == 1


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"scorers": "margin"}, InputError, r"load\(scorers=\.\.\.\): there is no such option; did you mean scorer=\?"),
        ({"strict": True}, InputError, "no such option; known: pruning_ratio, scorer, trainer"),
        ({"scorer": "nonsense"}, InputError, "unknown scorer 'nonsense'"),
        ({"candidate_fraction": 7}, InputError, "candidate_fraction=7"),
        ({"proxy": mlp(6, 4, 3)}, CheckpointError, "its proxy was cut from the model; leave out proxy="),
        ({"proxy": 3}, UnsupportedModelError, "the network must be a torch.nn.Module, found int"),
    ],
)
def test_options_given_to_load_are_checked_as_the_callers(options: Any, kind: Any, words: str, saved: Path) -> None:
    with pytest.raises(kind, match=words):
        PrunedProxySelector.load(saved / "plain", network(), **options)


def test_what_is_asked_for_is_checked_as_the_callers_too(tmp_path: Path) -> None:
    PrunedProxySelector(network(), lambda n: 0.5, random_state=0).save(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"JSON could not hold pruning_ratio; pass pruning_ratio=\.\.\."):
        PrunedProxySelector.load(tmp_path / "s", network())
    with pytest.raises(InputError, match=r"^pruning_ratio=7"):
        PrunedProxySelector.load(tmp_path / "s", network(), pruning_ratio=7)


def test_an_option_that_is_given_is_not_read_from_the_file(saved: Path, tmp_path: Path) -> None:
    changed(saved / "plain", tmp_path / "s", option("scorer", made("os:system")))
    loaded = PrunedProxySelector.load(tmp_path / "s", network(), scorer="margin")
    np.testing.assert_array_equal(loaded.query(X, 9), PrunedProxySelector.load(saved / "plain", network()).query(X, 9))


def test_no_place_to_write_to_is_written_or_read(saved: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.npy"
    victim.write_bytes(b"precious")
    changed(saved / "plain", tmp_path / "s", option("features_path", str(victim)))
    loaded = PrunedProxySelector.load(tmp_path / "s", network())
    loaded.select(X, 5, scorer="moderate")
    assert (loaded.options.features_path, victim.read_bytes()) == (None, b"precious")
    PrunedProxySelector(network(), random_state=0, features_path=victim).save(tmp_path / "s")
    assert b"victim" not in (tmp_path / "s").read_bytes()
    with pytest.warns(FallbackWarning, match=r"had a features_path=.*pass features_path=\.\.\. to load"):
        assert PrunedProxySelector.load(tmp_path / "s", network()).options.features_path is None
    loaded = PrunedProxySelector.load(tmp_path / "s", network(), features_path=victim)  # no warning
    assert loaded.options.features_path == str(victim)
    assert PrunedProxySelector.load(tmp_path / "s", network(), features_path=None).options.features_path is None
