"""A ledger of any length goes into a file and comes back row by row; what is no ledger does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import mlp

from prunefuse_al.costs import columns as cost_columns
from prunefuse_al.costs.columns import from_columns, to_columns
from prunefuse_al.costs.ledger import CostLedger, CostRow
from prunefuse_al.errors import CheckpointError, InputError
from prunefuse_al.selector import PrunedProxySelector, checkpoint

ROW = CostRow(1, "score", "proxy", 0.25, 10, 1000, 0, 5000, 77, 2**20)
ROWS = [ROW, replace(ROW, round=2, stage="über", seconds=1e-9), replace(ROW, network="dense", dense_macs=0)]


def test_columns_give_the_ledger_back() -> None:
    columns, words = to_columns(CostLedger(ROWS))
    assert words["stage"] == ["score", "über"]
    assert columns["seconds"].tolist() == [0.25, 1e-9, 0.25]
    assert {column.dtype for column in columns.values()} == {torch.int64, torch.float64}
    assert from_columns(columns, words) == CostLedger(ROWS)
    assert from_columns(*to_columns(CostLedger())) == CostLedger()


@pytest.mark.parametrize("macs", [2**61, 2**62 - 1, 2**62, 2**63, 10**19, 10**30])
def test_numbers_beyond_an_int64_stay_exact(macs: int) -> None:
    ledger = CostLedger([ROW, replace(ROW, forward_macs=macs, dense_macs=3 * macs)])
    assert from_columns(*to_columns(ledger)) == ledger


def test_hundreds_of_thousands_of_rows_are_saved_and_come_back(tmp_path: Path) -> None:
    chosen = PrunedProxySelector(mlp(6, 8, 3), random_state=0)
    rows = [replace(ROW, round=number, seconds=number / 7) for number in range(1000)]
    chosen.costs.extend(row for _ in range(420) for row in rows)
    chosen.save(tmp_path / "s")
    assert (tmp_path / "s").stat().st_size < 420_000 * 100
    loaded = PrunedProxySelector.load(tmp_path / "s", mlp(6, 8, 3))
    assert loaded.costs == chosen.costs


def test_a_ledger_beyond_reason_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = PrunedProxySelector(mlp(6, 8, 3), random_state=0)
    chosen.costs.extend(ROWS)
    monkeypatch.setattr(cost_columns, "MAX_ROWS", 2)
    with pytest.raises(InputError, match="the ledger has 3 rows, and a file holds 2"):
        chosen.save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_options_that_no_header_holds_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = PrunedProxySelector(mlp(6, 8, 3), random_state=0, keep=("layer" * 2000,))
    monkeypatch.setattr(checkpoint, "MAX_HEADER", 10_000)
    with pytest.raises(CheckpointError, match=r"take 1\d,\d{3} bytes of JSON, and a header holds 10,000"):
        chosen.save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": 3}, "row 1 of a ledger: stage=3; pass text"),
        ({"round": "1"}, "row 1 of a ledger: round='1'; pass a whole number from 0"),
        ({"samples": -1}, "row 1 of a ledger: samples=-1; pass a whole number from 0"),
        ({"samples": True}, "row 1 of a ledger: samples=True"),
        ({"samples": 1.5}, "row 1 of a ledger: samples=1.5"),
        ({"seconds": float("nan")}, "row 1 of a ledger: seconds=nan; pass a finite number >= 0"),
        ({"seconds": None}, "row 1 of a ledger: seconds=None"),
        ({"more": 1}, "row 1 of a ledger holds round, stage, .*more; it must hold round, stage"),
    ],
)
def test_rows_that_are_none_are_refused_by_number_and_name(change: dict[str, Any], words: str) -> None:
    rows = CostLedger(ROWS).to_dicts()
    with pytest.raises(InputError, match=words):
        CostLedger.from_dicts([rows[0], {**rows[1], **change}])


@pytest.mark.parametrize("row", [None, 3, [], {}, {"round": 1}])
def test_what_is_no_row_is_refused(row: Any) -> None:
    with pytest.raises(InputError, match="row 0 of a ledger holds"):
        CostLedger.from_dicts([row])


def test_rows_of_a_data_frame_are_rows() -> None:
    row = {name: np.int64(v) if type(v) is int else v for name, v in CostLedger([ROW]).to_dicts()[0].items()}
    back = CostLedger.from_dicts([{**row, "seconds": np.float32(0.25)}])
    assert back == CostLedger([ROW])
    assert type(back.rows()[0].samples) is int
