"""Tables with named columns in, and picks and costs out, as data frames."""

from __future__ import annotations

import builtins
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, trainer

from prunefuse_al import CostLedger, PrunedProxySelector, PruneFuseEstimator, Selection
from prunefuse_al.costs import CostRow
from prunefuse_al.data import TableRows, as_dataset, batches, subset
from prunefuse_al.errors import InputError, MissingDependencyError

pandas = pytest.importorskip("pandas")

X, Y = blobs(90, 6, 3)
NAMES = list("abcdef")


def frame() -> Any:
    table = pandas.DataFrame(X.numpy(), columns=NAMES, index=[f"row {row}" for row in range(90)])
    return table.assign(kind=Y.numpy(), trust=np.linspace(0.5, 1, 90), place="here")


def test_a_frame_is_read_by_batches_as_its_columns_say() -> None:
    rows = TableRows(frame(), "kind", inputs=NAMES, sample_weight="trust")
    for found, x, y, w in batches(rows, 16, order=torch.tensor([80, 3, 41])):
        assert (x.dtype, x.tolist()) == (torch.float32, X[found].tolist())
        assert (y.tolist(), w.tolist()) == (Y[found].tolist(), np.linspace(0.5, 1, 90)[found].tolist())
    assert len(rows) == 90
    assert rows[-1][1] == Y[-1]


def test_a_frame_goes_through_the_whole_method_as_arrays_do() -> None:
    def chosen(pool: Any, labelled: Any) -> list[int]:
        selector = PrunedProxySelector(mlp(6, 16, 3), 0.5, trainer=trainer(), random_state=0).fit(labelled)
        return selector.query(pool, 9, candidates=range(30, 90)).tolist()

    rows = TableRows(frame().drop(columns=["trust", "place"]), "kind")
    assert chosen(rows, subset(rows, range(30))) == chosen(X, subset(as_dataset(X, Y), range(30)))
    est = PruneFuseEstimator(mlp(6, 16, 3), 0.5, trainer=trainer(), random_state=0).fit(rows)
    assert est.predict(rows).shape == (90,)


def test_which_columns_are_which_argument_of_a_network() -> None:
    table = frame().assign(lists=[row.tolist() for row in X.numpy()], arrays=list(X.numpy()))
    x = TableRows(table, inputs={"one": "a", "two": ["b", "kind"], "three": "lists", "four": ["arrays"]})
    found, y, w = x.take(torch.tensor([4, 2]))
    assert (y, w) == (None, None)
    assert {name: list(part.shape) for name, part in found.items()} == {
        "one": [2], "two": [2, 2], "three": [2, 6], "four": [2, 6]
    }  # fmt: skip
    assert found["two"].tolist() == [[float(X[row, 1]), float(Y[row])] for row in (4, 2)]
    assert torch.allclose(found["three"].float(), X[[4, 2]])


def test_numbers_of_every_kind_are_taken_as_they_are() -> None:
    kinds = ("int8", "uint16", "float16", "float64", "bool", "Int64", "Float32", "boolean")
    table = pandas.DataFrame({kind: pandas.Series([1, 0, 1]).astype(kind) for kind in kinds})
    for kind in kinds:
        assert TableRows(table, inputs=kind).take(torch.tensor([2, 1]))[0].tolist() == [1, 0], kind
    mixed = TableRows(table, inputs=["int8", "float64"]).take(torch.tensor([0]))[0]
    assert mixed.dtype == torch.float64


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (None, {}, "table=None; pass a DataFrame, an Arrow table, or the path of Parquet files"),
    (X, {}, "table=<float32 tensor .*>; pass a DataFrame"),
    ([], {}, r"table=\[\]; pass a DataFrame"),
    ("frame", {"label": "kinds"}, "label='kinds'; pass a column of the table, .*did you mean 'kind'"),
    ("frame", {"label": 3}, "label=3; pass a column of the table"),
    ("frame", {"sample_weight": "no"}, "sample_weight='no'; pass a column of the table"),
    ("frame", {"inputs": "no"}, "inputs='no'; pass a column of the table"),
    ("frame", {"inputs": ["a", 1]}, "inputs=1; pass a column of the table"),
    ("frame", {"inputs": []}, r"inputs=\[\]; pass the name of a column, a list of names, or a dict"),
    ("frame", {"inputs": {}}, "inputs={}; pass the name of a column, a list of names, or a dict"),
    ("frame", {"inputs": {"x": 3}}, "inputs=3; pass the name of a column"),
    ("frame", {"memory": -1}, "memory=-1; pass a whole number from 0"),
    ("frame", {"memory": "1G"}, "memory='1G'; pass a whole number from 0"),
    ("frame", {}, "column 'place' holds .*, and a network takes numbers: encode it, or name the columns"),
    ("frame", {"inputs": "a", "label": "place"}, "column 'place' holds .*, and a network takes numbers"),
    (lambda t: t.assign(b=pandas.Categorical(["x"] * 90)), {"inputs": "b"}, "column 'b' holds category"),
    (lambda t: t.assign(b=pandas.Timestamp(0)), {"inputs": "b"}, "column 'b' holds datetime64"),
    (
        lambda t: t.assign(b=pandas.Series([None] * 90, dtype="Int64").values),
        {"inputs": "b"},
        "'b' has no value in row",
    ),
    (lambda t: t.assign(b=[[1.0], [1.0, 2.0]] * 45), {"inputs": ["a", "b"]}, "column 'b' holds lists and cannot stand"),
    (lambda t: t.rename(columns={"b": "a"}), {}, "several columns called 'a'"),
    (lambda t: t.rename(columns={"b": "a"}), {"inputs": "c"}, "several columns called 'a'"),
]


@pytest.mark.parametrize(("table", "options", "says"), BAD)
def test_what_is_no_table_of_numbers_is_refused(table: Any, options: dict[str, Any], says: str) -> None:
    given = frame() if isinstance(table, str) else table(frame()) if callable(table) else table
    with pytest.raises(InputError, match=says):
        TableRows(given, **options)


def test_cells_that_cannot_be_used_are_named_by_their_rows() -> None:
    lists = TableRows(frame().assign(lists=[[1.0]] * 80 + [[1.0, 2.0]] * 10), inputs="lists")
    with pytest.raises(InputError, match="holds lists of 2 lengths"):
        lists.take(torch.tensor([1, 85]))
    holes = pandas.Series(range(90), dtype="Int64")
    holes[[7, 50]] = None
    rows = TableRows(frame().assign(holes=holes.values), "holes", inputs=NAMES)
    with pytest.raises(InputError, match=r"column 'holes' has no value in rows 7, 50 \(2 of 90\)"):
        rows.take(torch.arange(90))
    with pytest.raises(InputError, match="column 'holes' has no value in row"):
        trainer().fit(mlp(6, 8, 90), rows, seed=0)


# ---- out ----


def test_picks_as_a_frame() -> None:
    found = Selection([4, 2, 9], [0.5, 0.25, 0.0]).to_frame()
    assert list(found.columns) == ["index", "score"]
    assert found["index"].tolist() == [4, 2, 9]
    assert found["score"].tolist() == [0.5, 0.25, 0.0]
    assert frame().iloc[found["index"]].index.tolist() == ["row 4", "row 2", "row 9"]
    assert list(Selection([4]).to_frame().columns) == ["index"]
    assert Selection(np.empty(0, np.int64)).to_frame().empty


def test_costs_as_a_frame() -> None:
    rows = [
        CostRow(1, "score", "proxy", 0.5, 10, 100, 0, 400, 7, 2**40),
        CostRow(1, "rank", "proxy", 0, 0, 0, 0, 0, 0, 0, "why"),
    ]
    found = CostLedger(rows).to_frame()
    assert found.to_dict("records") == [vars(row) for row in rows]
    assert found.groupby("stage")["forward_macs"].sum().to_dict() == {"score": 100, "rank": 0}
    assert list(CostLedger().to_frame().columns) == list(found.columns)
    assert CostLedger.from_dicts(found.to_dict("records")) == CostLedger(rows)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Play an installation that has neither pandas nor pyarrow."""
    wanted = builtins.__import__

    class Hidden:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] in ("pandas", "pyarrow"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    for name in [name for name in sys.modules if name.partition(".")[0] in ("pandas", "pyarrow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    yield
    assert builtins.__import__ is wanted


def test_what_is_not_installed_is_said(without: None) -> None:
    for call, library in (
        (Selection([1]).to_frame, "pandas"),
        (CostLedger().to_frame, "pandas"),
        (lambda: TableRows("table.parquet"), "pyarrow"),
    ):
        with pytest.raises(MissingDependencyError, match=f'needs {library}, .* pip install "prunefuse_al.data."'):
            call()


def test_a_table_survives_pickling() -> None:
    rows = pickle.loads(pickle.dumps(TableRows(frame(), "kind", inputs=NAMES)))
    assert rows[5][0].tolist() == X[5].tolist()
