"""A saved selector is the same selector in another process, or a clear refusal."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import PlainTrainer, blobs, mlp
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from prunefuse_al.errors import CheckpointError, NotFittedError
from prunefuse_al.scorers import Margin
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.selector.checkpoint import read_file, write_file
from prunefuse_al.selector.encoding import decode, encode
from prunefuse_al.training import EarlyStopping
from prunefuse_al.training.distillation import Distillation

X, Y = blobs(150)


trainer = partial(fakes.trainer, batch_size=64)


def fitted(**options: Any) -> PrunedProxySelector:
    options = {"trainer": trainer(), "scorer": "margin", "random_state": 3, **options}
    return PrunedProxySelector(mlp(6, 16, 12, 3), 0.5, **options).fit(X[:60], Y[:60])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "selector.safetensors"
    fitted().save(path)
    return path


def test_a_loaded_selector_is_the_same(saved: Path) -> None:
    original, model = fitted(), mlp(6, 16, 12, 3, seed=9)  # other weights
    before = [p.clone() for p in model.parameters()]
    loaded = PrunedProxySelector.load(saved, model)
    np.testing.assert_array_equal(loaded.query(X, 20), original.query(X, 20))
    np.testing.assert_array_equal(loaded.query(X, 20), original.query(X, 20))
    assert loaded.options.scorer == Margin()
    assert loaded.proxy.channel_map == original.proxy.channel_map
    assert str(loaded.proxy.report()) == str(original.proxy.report())
    assert [row.stage for row in loaded.costs.rows()][:4] == ["prune", "train_proxy", "score", "rank"]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for a, b in ((loaded.fuse(), original.fuse()), (loaded.fit_target(X, Y), original.fit_target(X, Y))):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    np.testing.assert_array_equal(loaded.fit(X, Y).query(X, 9), original.fit(X, Y).query(X, 9))
    assert loaded.round == 2


def test_a_new_process_picks_the_same_samples(tmp_path: Path) -> None:
    scorers = ["margin", "random"]
    selectors = [fitted(scorer=scorer) for scorer in scorers]
    for scorer, chosen in zip(scorers, selectors, strict=True):
        chosen.save(tmp_path / scorer)
    np.save(tmp_path / "pool.npy", X.numpy())
    program = """
import sys, numpy as np, torch
from fakes import mlp
torch.set_num_threads(1)  # as here: sums are split by threads
from prunefuse_al.selector import PrunedProxySelector
for path in sys.argv[2:]:
    selector = PrunedProxySelector.load(path, mlp(6, 16, 12, 3, seed=5))
    print(*selector.query(np.load(sys.argv[1]), 12))
"""
    root = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "pool.npy"), *[str(tmp_path / scorer) for scorer in scorers]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root.parent}"},
    )
    picked = [[int(row) for row in line.split()] for line in run.stdout.splitlines()]
    assert picked == [chosen.query(X, 12).tolist() for chosen in selectors], run.stderr


def test_the_file_is_plain_safetensors_with_json(saved: Path) -> None:
    with safe_open(str(saved), framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        names = set(file.keys())
    assert config["options"]["pruning_ratio"] == 0.5
    assert {"dense/0.weight", "start/0.weight", "trained/0.weight"} <= names
    assert not [path.name for path in saved.parent.iterdir() if path.name != saved.name]


def test_saving_twice_replaces_and_a_failed_save_keeps_the_old(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)  # where a disk says so at the latest
    with pytest.raises(OSError, match=r"it takes [\d,]+ bytes and its disk has [\d,]+ free") as caught:
        fitted().save(saved)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(saved))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    monkeypatch.undo()
    fitted().save(saved)


def test_unfitted_and_another_network_as_proxy(tmp_path: Path) -> None:
    PrunedProxySelector(mlp(6, 8, 3), 0.25, random_state=1).save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", mlp(6, 8, 3, seed=2))
    assert (loaded.round, loaded.options.pruning_ratio) == (0, 0.25)
    with pytest.raises(NotFittedError):
        loaded.query(X, 1)
    svp = fitted(proxy=mlp(6, 4, 3))
    svp.save(tmp_path / "s")
    again = PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3), proxy=mlp(6, 4, 3, seed=7))
    np.testing.assert_array_equal(again.query(X, 9), svp.query(X, 9))
    with pytest.raises(CheckpointError, match=r"JSON could not hold proxy; pass proxy=\.\.\."):
        PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3))


def test_what_json_cannot_hold_is_asked_for(tmp_path: Path) -> None:
    chosen = fitted(trainer=PlainTrainer(), fine_tune_lr_scale=None)
    chosen.save(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"pass trainer=\.\.\. to load"):
        PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3))
    loaded = PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3), trainer=PlainTrainer(), scorer="margin")
    np.testing.assert_array_equal(loaded.query(X, 9), chosen.query(X, 9))


def test_pretrained_networks_with_batch_norm_come_back(tmp_path: Path) -> None:
    from fakes import seeded

    def make(seed: int) -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)), seed)

    model = make(0)
    trainer().fit(model, (X, Y), seed=0)
    chosen = PrunedProxySelector(model, trainer=trainer(), random_state=0, pretrained=False).fit(X[:60], Y[:60])
    assert "recalibrate" in chosen.costs.totals()
    chosen.save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", make(1))
    np.testing.assert_array_equal(loaded.query(X, 9), chosen.query(X, 9))
    np.testing.assert_array_equal(loaded.fit(X, Y).query(X, 9), chosen.fit(X, Y).query(X, 9))


class Net(nn.Sequential):
    pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (mlp(6, 8, 12, 3), r"0.weight is \[16, 6\] in the file, \[8, 6\] in the network"),
        (mlp(6, 16, 3), "4.bias is only in the file"),
        (mlp(6, 16, 12, 5, 3), "6.bias is not in the file"),
        (Net(), "the file is of a Sequential, the model is a Net"),
    ],
)
def test_another_architecture_is_refused(saved: Path, model: nn.Module, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PrunedProxySelector.load(saved, model)


def _cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip_a_weight(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 0x40]) + data[-4:]


def _break_the_header(data: bytes) -> bytes:
    return data.replace(b'\\"version\\"', b'\\"verzion\\"')


def _of_the_future(data: bytes) -> bytes:
    return data.replace(b'\\"version\\": 2', b'\\"version\\": 7')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_short, "not a readable safetensors file"),
        (_flip_a_weight, "do not match their digest"),
        (_break_the_header, "header is damaged"),
        (_of_the_future, "version 7 of the format, this library reads 1 to 2"),
        (lambda _: b"", "not a readable safetensors file"),
        (lambda _: b"PK\x03\x04 some other file, and long enough to have a header", "not a readable safetensors file"),
    ],
)
def test_damaged_files_are_refused(saved: Path, tmp_path: Path, damage: Any, message: str) -> None:
    (tmp_path / "s").write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3))


def test_foreign_and_absent_files(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"not one that PrunedProxySelector\.save wrote"):
        PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3))
    write_file(tmp_path / "s", {}, {"something": "else"})
    with pytest.raises(CheckpointError, match="does not describe a selector"):
        PrunedProxySelector.load(tmp_path / "s", mlp(6, 16, 12, 3))
    with pytest.raises(FileNotFoundError, match="no such file"):
        PrunedProxySelector.load(tmp_path / "absent", mlp(6, 16, 12, 3))


def test_tensors_of_every_type_survive(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {str(kind): torch.tensor([[0, 1], [1, 1]]).to(kind).T for kind in kinds} | {"scalar": torch.tensor(3.5)}
    write_file(tmp_path / "s", tensors, {"x": [1, None]})
    back, config = read_file(tmp_path / "s")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert config["x"] == [1, None]


@pytest.mark.parametrize(
    "value",
    [
        *(None, 0.5, "cifar", [1, "a"], (1, (2.0, None)), {"a": (1, 2)}, frozenset({1})),
        *(Margin(), Distillation(lambda_=0.1), EarlyStopping(patience=2)),
    ],
)
def test_options_survive_json(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value


def test_trainers_survive_json() -> None:
    original = trainer(distillation=Distillation(), early_stopping=EarlyStopping(), class_weight={"as": 2.0})
    assert decode(json.loads(json.dumps(encode(original)))).get_params() == original.get_params()


def test_only_this_librarys_classes_are_made() -> None:
    for name in (
        "os:system",
        "prunefuse_al.selector.checkpoint:os",
        "prunefuse_al.selector.checkpoint:write_file",
        "prunefuse_al.no:X",
    ):
        with pytest.raises(CheckpointError, match="no class that an option can be made of"):
            decode({"as": name, "items": {}})
    with pytest.raises(CheckpointError, match="cannot be written as JSON"):
        encode(lambda: None)
    with pytest.raises(CheckpointError, match=r"what \S+Distillation does not take: lambda_=7\.0"):
        decode({"as": "prunefuse_al.training.distillation:Distillation", "items": {"lambda_": 7.0}})
