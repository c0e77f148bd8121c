"""Stores that people have: Arrow tables, Parquet files, Hugging Face's datasets, folders of pictures, tar shards."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, trainer
from hosts import need_host
from torch import nn
from torch.utils.data import Subset

pyarrow = need_host("tables", "pyarrow")
datasets = need_host("tables", "datasets")
webdataset = need_host("tables", "webdataset")
# ruff: noqa: E402
import pandas
import pyarrow.parquet as parquet
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data import TableRows, TarShards, as_dataset, labels_of, subset
from prunefuse_al.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the hosts, in files of their own
X, Y = blobs(90, 6, 3)
NAMES = list("abcdef")
COLUMNS = {name: X[:, place].numpy() for place, name in enumerate(NAMES)} | {"kind": Y.numpy()}


def table(**more: Any) -> Any:
    return pyarrow.table({**COLUMNS, **more})


def chosen(data: Any, network: nn.Module | None = None) -> list[int]:
    """Return what the whole method picks from a store that has labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = mlp(6, 16, 3) if network is None else network
    selector = PrunedProxySelector(network, 0.5, trainer=trainer(), random_state=0).fit(subset(data, range(40)))
    return selector.query(data, 9, candidates=range(40, 90)).tolist()


WANTED = chosen(as_dataset(X, Y))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of Parquet files as an engine writes it, in several row groups, with files beside that are none."""
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"no table")
    whole = table(name=[f"row {row}" for row in range(90)])
    for number, start in enumerate((0, 40, 41)):
        stop = (40, 41, 90)[number]
        parquet.write_table(whole.slice(start, stop - start), folder / f"part-{number}.parquet", row_group_size=16)
    return folder


def test_arrow_tables_are_read_as_arrays_are() -> None:
    whole = table()
    chunked = pyarrow.concat_tables([whole.slice(start, 30) for start in (0, 30, 60)])
    for given in (whole, chunked, chunked.filter(pyarrow.compute.less(chunked["kind"], 9)), Capsule(chunked)):
        rows = TableRows(given, "kind")
        assert chosen(rows) == WANTED
        assert rows.take(torch.tensor([80, 2, 31]))[0].equal(X[[80, 2, 31]])


class Capsule:
    """What other libraries' tables give of themselves."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.inner.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("memory", [2**30, 0])
def test_parquet_is_read_by_row_groups(files: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = parquet.ParquetFile.read_row_group

    def counting(self: Any, group: int, **options: Any) -> Any:
        assert set(options["columns"]) == {*NAMES, "kind"}  # and no other column
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counting)
    rows = TableRows(files, "kind", inputs=NAMES, memory=memory)
    assert len(rows) == 90
    assert chosen(rows) == WANTED
    assert (len(read) == 8) == (memory > 0)  # three, one and four groups, each once if they fit
    order = torch.tensor([89, 0, 40, 41, 17, 0])
    assert rows.take(order)[0].equal(X[order])
    assert rows.take(order)[1].equal(Y[order])
    read.clear()
    for some in torch.arange(90).split(10):
        rows.take(some)
    assert len(read) <= (0 if memory else 8 + 9)  # in order: a group again only where two batches share it
    assert pickle.loads(pickle.dumps(rows)).take(order)[0].equal(X[order])
    one, two, three = sorted(files.glob("part*.parquet"))
    assert len(TableRows([three, two], "kind", inputs=NAMES)) == 50
    assert len(TableRows(str(one), "kind", inputs=NAMES)) == 40


def test_lists_in_arrow_are_rows_of_numbers(tmp_path: Path) -> None:
    fixed = pyarrow.FixedSizeListArray.from_arrays(X.flatten().numpy(), 6)
    nested = pyarrow.array(X.reshape(90, 2, 3).tolist())
    parquet.write_table(table(fixed=fixed, free=X.tolist(), nested=nested, flag=Y.numpy() > 0), tmp_path / "x.parquet")
    rows = TableRows(tmp_path / "x.parquet", inputs={n: n for n in ("fixed", "free", "nested", "flag")})
    found = rows.take(torch.tensor([88, 3]))[0]
    assert torch.allclose(found["fixed"].double(), X[[88, 3]].double())
    assert torch.allclose(found["free"].double(), X[[88, 3]].double())
    assert torch.allclose(found["nested"].double(), X[[88, 3]].reshape(2, 2, 3).double())
    assert found["flag"].tolist() == (Y[[88, 3]] > 0).tolist()


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (["x"] * 90, "column 'odd' holds string, and a network takes numbers"),
        (pyarrow.array(["x"] * 90).dictionary_encode(), "column 'odd' holds dictionary"),
        (pyarrow.array([0] * 90, pyarrow.timestamp("s")), "column 'odd' holds timestamp"),
        ([None] * 90, "column 'odd' has no value in row 0"),
        ([[1.0, 2.0], [1.0]] * 45, "holds lists of 2 lengths|column 'odd' holds list"),
    ],
)
def test_columns_of_arrow_that_are_no_numbers_are_refused(column: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        TableRows(table(odd=column), inputs="odd").take(torch.arange(90))


def test_files_that_are_no_tables_are_named(files: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is a folder without files called \*\.parquet"):
        TableRows(tmp_path / "empty")
    with pytest.raises(InputError, match=r"none\.parquet cannot be read as Parquet"):
        TableRows(tmp_path / "none.parquet")
    (files / "part-3.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"part-3\.parquet cannot be read as Parquet"):
        TableRows(files)
    parquet.write_table(table(other=Y.numpy()), files / "part-3.parquet")
    with pytest.raises(InputError, match=r"part-3\.parquet has other columns than .*part-0\.parquet"):
        TableRows(files)
    (files / "part-3.parquet").unlink()
    rows = TableRows(files, "kind", inputs=NAMES, memory=0)
    (files / "part-2.parquet").unlink()
    with pytest.raises(InputError, match=r"of the data cannot be read: FileNotFoundError"):
        trainer().fit(mlp(6, 8, 3), rows, seed=0)


# ---- Hugging Face's datasets ----


class Named(nn.Module):
    """Takes its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(6, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


FORMATS = (None, "torch", "numpy", "arrow", "pandas")


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "subset"])
@pytest.mark.filterwarnings("ignore:items of the dataset have")
def test_datasets_of_every_format_give_the_same_picks(form: str | None, wrapped: bool) -> None:
    whole = datasets.Dataset.from_dict(
        {"x": X.tolist(), "label": Y.tolist(), "text": ["words"] * 90, "number": list(range(90))},
    )

    def picks(data: Any) -> list[int]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Named()
        selector = PrunedProxySelector(network, 0.5, trainer=trainer(), random_state=0)
        selector.fit(Subset(data, range(40)) if wrapped else data.select(range(40)))
        return selector.query(data, 9, candidates=range(40, 90)).tolist()

    found = picks(whole.with_format(form) if form else whole)
    assert found == picks(whole.with_format("torch"))
    assert labels_of(as_dataset(whole.with_format(form) if form else whole)).equal(Y)


def test_a_dataset_is_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = datasets.Dataset.__getitems__

    def counting(self: Any, rows: list[int]) -> Any:
        asked.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(datasets.Dataset, "__getitems__", counting)
    whole = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()}).with_format("arrow")
    trainer().infer(Named(), as_dataset(whole))
    assert max(asked) == 90


def test_a_stream_and_several_splits_are_refused_by_name() -> None:
    whole = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()})
    with pytest.raises(InputError, match="is an iterable without row numbers"):
        as_dataset(whole.to_iterable_dataset())
    with pytest.raises(InputError, match=r"pass one of them, X\['train'\]"):
        as_dataset(datasets.DatasetDict(train=whole))


# ---- pictures in folders and in shards ----


def pictures() -> list[tuple[Image.Image, int]]:
    rng, found = np.random.default_rng(0), []
    for row in range(60):
        pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
        pixels[..., row % 3] += 150  # its class is its colour
        found.append((Image.fromarray(pixels), row % 3))
    return found


def scaled(x: torch.Tensor) -> torch.Tensor:
    return x / 255


def decode(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    return pil_to_tensor(Image.open(io.BytesIO(sample["png"]))), int(sample["cls"])


def same(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_folders_of_pictures_and_tar_shards_go_through_the_whole_method(tmp_path: Path, workers: int) -> None:
    with webdataset.ShardWriter(str(tmp_path / "shard-%d.tar"), maxcount=25, verbose=0) as writer:
        for row, (picture, kind) in enumerate(pictures()):
            folder = tmp_path / "tree" / f"class {kind}"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{row:02d}.png")
            writer.write({"__key__": f"set.v1/{row:02d}", "png": picture, "cls": kind})
    shards = TarShards(sorted(tmp_path.glob("*.tar")), decode)
    folder = ImageFolder(str(tmp_path / "tree"), transform=pil_to_tensor)
    assert (len(shards), len(folder)) == (60, 60)
    assert shards.keys[:2] == ["set.v1/00", "set.v1/01"]
    assert [y for _, y in shards] == [row % 3 for row in range(60)]
    train = TorchTrainer(6, 8, lr=0.2, transform=scaled, eval_transform=scaled, num_workers=workers, progress=False)
    for data in (shards, folder):
        selector = PrunedProxySelector(network(), 0.5, trainer=train, random_state=0).fit(Subset(data, range(0, 60, 2)))
        picked = selector.query(data, 5, candidates=range(1, 60, 2))
        assert len(set(picked.tolist())) == 5
        assert selector.predict_proba(data).shape == (60, 3)


def test_shards_are_read_by_rows(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%d.tar"), maxcount=4, verbose=0) as writer:
        for row in range(10):
            writer.write({"__key__": f"{row}", "txt": str(row), "seg.png": b"x" * row})
    shards = TarShards([tmp_path / f"{n}.tar" for n in range(3)], same)
    assert [s["__key__"] for s in shards.__getitems__([9, 0, 5, 9])] == ["9", "0", "5", "9"]
    assert shards[-1] == {"__key__": "9", "txt": b"9", "seg.png": b"x" * 9}
    assert pickle.loads(pickle.dumps(TarShards([tmp_path / "0.tar"], decode))).keys == ["0", "1", "2", "3"]
    with pytest.raises(IndexError, match=r"row 10 was asked for; the data has rows 0..9"):
        shards[10]
    (tmp_path / "1.tar").unlink()
    with pytest.raises(InputError, match=r"row 5 of the data cannot be read: FileNotFoundError"):
        subset(as_dataset(shards), [5])[0]


@pytest.mark.parametrize(
    ("shards", "decoder", "says"),
    [
        ("0.tar", same, "shards='0.tar'; pass a list of paths"),
        ([], same, r"shards=\[\]; pass a list of paths"),
        ([3], same, "shards=3; pass a path"),
        (["0.tar"], None, "decode=None; pass a function of a sample"),
        (["0.tar"], dict, "the class dict, not an instance"),
        (["0.tar", "0.tar"], same, "sample '0' is there twice"),
        (["0.txt"], same, r"0\.txt is no uncompressed tar file"),
    ],
)
def test_what_are_no_shards_is_refused(tmp_path: Path, monkeypatch: Any, shards: Any, decoder: Any, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with webdataset.TarWriter("0.tar") as writer:
        writer.write({"__key__": "0", "txt": "0"})
    Path("0.txt").write_text("no tar file, though it is a long one" * 50)
    with pytest.raises(InputError, match=says):
        TarShards(shards, decoder)


def test_frames_and_arrow_tables_are_the_same_rows() -> None:
    frame = pandas.DataFrame(COLUMNS)
    assert chosen(TableRows(frame, "kind")) == chosen(TableRows(pyarrow.Table.from_pandas(frame), "kind")) == WANTED
