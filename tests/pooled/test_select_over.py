"""Picks from a pool in parts are those of the whole, however it is parted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import assert_same_picks, blobs, mlp, selector, trainer
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefuse_al import PrunedProxySelector, get_scorer
from prunefuse_al.errors import BudgetError, CheckpointError, InputError, NonFiniteError
from prunefuse_al.pooled import Parts, Picks, Saved, Table, select_over
from prunefuse_al.scorers import CCS, ClassBalanced, ClassStandardised, KCenter, Mixture, Moderate, TwoStage
from tests.pooled.pools import TABLE, N, parted, rows, saved

LABELLED = blobs(60)
SCORERS: dict[str, Any] = {
    "margin": "margin",
    "entropy": "entropy",
    "random": "random",
    "cal": "cal",
    "class_balanced": ClassBalanced("entropy"),
    "class_standardised": ClassStandardised("entropy"),
    "two_stage": TwoStage("margin", "k_center", keep=4),
    "mixture": Mixture("entropy", share=0.5),
    "k_center": "k_center",
    "badge": "badge",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(tmp_path_factory.mktemp("selector"))


def picked(file: Saved, batches: list[Any], k: int = 20, *, workers: int = 1, **options: Any) -> Picks:
    given = {"labelled": LABELLED, **options}
    return select_over(Parts(batches, TABLE, workers=workers), k, file, TABLE, **given)


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
@pytest.mark.parametrize("name", SCORERS)
@settings(max_examples=5)
@given(data=st.data())
def test_however_a_pool_is_parted_the_picks_are_the_same(file: Saved, name: str, texts: bool, data: Any) -> None:
    pool = rows(300, texts=texts)
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=3).filter(lambda sizes: sum(sizes) > 30))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(300)
    ways = {"scorer": SCORERS[name], "at_once": 100}
    whole = picked(file, [pool], **ways)
    other = picked(file, parted(pool, sizes, order), workers=data.draw(st.integers(1, 4)), **ways)
    np.testing.assert_array_equal(other.ids, whole.ids)
    assert len(set(whole.ids.tolist())) == 20
    assert set(whole.ids.tolist()) <= set(pool["uid"].tolist())
    assert whole.considered == 300
    if whole.scores is not None:
        assert torch.equal(whole.scores, other.scores)
    assert whole.measured == pytest.approx(other.measured)
    assert (whole.shards == 8) == (name in ("k_center", "badge"))


@pytest.mark.parametrize("name", ["margin", "entropy", "cal", ClassStandardised("entropy")], ids=str)
def test_point_scorers_pick_what_a_selector_picks(file: Saved, name: Any) -> None:
    pool = rows()
    order = np.argsort(pool["uid"])
    x, y = blobs(60)
    core = selector().fit(x, y).select(torch.from_numpy(pool["x"][order]), 30, scorer=name)
    found = picked(file, parted(pool, [64, 100], np.arange(N)), 30, scorer=name, workers=2)
    rows_of = np.searchsorted(pool["uid"][order], found.ids)
    scores = np.full(N, np.nan)
    scores[core.indices.numpy()] = core.scores.numpy()
    scores[rows_of] = found.scores.numpy()
    assert_same_picks(rows_of, core.indices, scores)


@pytest.mark.parametrize("scorer", ["k_center", "typiclust", "badge", "moderate", "batchbald"])
def test_a_small_pool_is_picked_from_at_once_as_a_selector_does(tmp_path: Path, scorer: str) -> None:
    net = torch.nn.Sequential(*mlp(6, 16, 3)[:2], torch.nn.Dropout(0.3), mlp(16, 3)[0])
    x, y = blobs(60)
    own = PrunedProxySelector(net, 0.5, trainer=trainer(), random_state=0, features_dtype="float16").fit(x, y)
    own.save(tmp_path / "file")
    pool = rows(120)
    order = np.argsort(pool["uid"])
    wanted = own.select(torch.from_numpy(pool["x"][order]), 10, scorer=scorer).indices
    found = picked(Saved(str(tmp_path / "file"), lambda: net), parted(pool, [50], np.arange(120)), 10, scorer=scorer)
    np.testing.assert_array_equal(found.ids, pool["uid"][order][wanted])
    assert found.shards is None


def test_core_sets_cover_about_as_well_as_one_process(file: Saved) -> None:
    batches = parted(rows(3000), [500], np.arange(3000))
    exact = picked(file, batches, 100, scorer="k_center")
    parts = picked(file, batches, 100, scorer="k_center", at_once=0)
    assert exact.shards is None
    assert parts.shards == 8
    assert parts.measured["radius"] <= 1.05 * exact.measured["radius"]


def test_the_radius_is_that_of_every_row(file: Saved) -> None:
    pool = rows(300)
    found = picked(file, [pool], 15, scorer="k_center", at_once=0)
    chosen = file.load()

    def features(x: Any) -> torch.Tensor:
        return chosen.signals(x, {"features"}).features.half().double()

    mine = features(torch.from_numpy(pool["x"]))
    centres = torch.cat([mine[np.isin(pool["uid"], found.ids)], features(LABELLED[0])])
    assert found.measured == {"radius": pytest.approx(float(torch.cdist(mine, centres).min(1).values.max()), rel=1e-3)}


def test_the_potential_is_that_of_whole_gradients(file: Saved) -> None:
    pool = rows(200)
    found = picked(file, [pool], 8, scorer="badge", at_once=0)
    said = file.load().signals(torch.from_numpy(pool["x"]), {"logits", "features"})
    residuals = said.logits.double().softmax(1) - torch.nn.functional.one_hot(said.logits.argmax(1), 3)
    gradients = (residuals[:, :, None] * said.features.half().double()[:, None]).flatten(1)
    nearest = torch.cdist(gradients, gradients[np.isin(pool["uid"], found.ids)]).min(1).values
    assert found.measured == {"potential": pytest.approx(float(nearest.square().sum()), rel=1e-3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pool: pool["uid"].__setitem__(3, pool["uid"][4]), r"1 ids occur more than once, such as \[-?\d+\]"),
        (lambda pool: pool.update(uid=pool["uid"].astype(float)), "ids are of type float"),
        (lambda pool: pool.update(uid=np.append(pool["uid"][1:], [None])), "1 of 100 rows have no id"),
        (lambda pool: pool.update(uid=np.append(pool["uid"][1:].astype(float), np.nan)), "1 of 100 rows have no id"),
        (lambda pool: pool.update(uid=np.append(pool["uid"][1:].astype(object), "a")), "mixed type, int and str"),
        (lambda pool: pool.update(uid=pool["uid"] > 0), "ids are of type bool"),
    ],
    ids=["repeated", "floats", "missing", "NaN", "mixed", "bools"],
)
@pytest.mark.parametrize("scorer", ["margin", "k_center"])
def test_ids_that_name_no_row_are_refused(file: Saved, change: Any, words: str, scorer: str) -> None:
    pool = rows(100)
    change(pool)
    with pytest.raises(InputError, match=words):
        picked(file, parted(pool, [100], np.arange(100)), 5, scorer=scorer)


def test_ids_of_two_types_in_two_parts_and_an_id_in_two_parts(file: Saved) -> None:
    with pytest.raises(InputError, match="mixed type, such as"):
        picked(file, [rows(100), rows(100, texts=True)], 5)
    with pytest.raises(InputError, match="100 ids occur more than once"):
        picked(file, [rows(100), rows(100)], 5)


def test_a_batch_that_fails_says_which_rows_and_which_worker(file: Saved) -> None:
    pool = rows(300)
    pool["x"][[7, 250], 2] = np.nan
    bad = [pool["uid"][7], pool["uid"][250]]
    with pytest.raises(NonFiniteError, match=rf"worker \S+, process \d+: ids \[{bad[0]}, {bad[1]}\] are the first"):
        picked(file, [pool], 5)

    def reads(batch: Any) -> Any:
        if (batch["uid"] == pool["uid"][33]).any():
            raise OSError("no such picture")
        return batch["x"]

    pool = rows(300)
    table = Table("uid", reads)
    with pytest.raises(InputError, match=rf"worker .*: ids \[{pool['uid'][33]}\] .*OSError: no such picture"):
        select_over(Parts(parted(pool, [100], np.arange(300)), table), 5, file, table)


def test_another_architecture_another_file_and_no_file(file: Saved, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        picked(Saved(file.file, lambda: mlp(6, 20, 3)), [rows()])
    made = []

    def other_on_workers() -> Any:
        made.append(1)
        return mlp(6, 16 if len(made) == 1 else 20, 3)

    with pytest.raises(CheckpointError, match=r"worker .*, process"):
        picked(Saved(file.file, other_on_workers), [rows()])
    with pytest.raises(FileNotFoundError):
        picked(Saved(str(tmp_path / "gone"), lambda: mlp(6, 16, 3)), [rows()])
    with pytest.raises(CheckpointError, match="is another file here"):
        Saved(file.file, mlp, digest="0" * 64).load()


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("aum", "reads training dynamics"),
        (CCS("margin"), "cannot pick from more than at_once=10 rows in parts: it shares picks out"),
        (Moderate(), "it goes by the middle of each class"),
        ("typiclust", "densest places of the pool"),
        ("probcover", "counts whom of the pool"),
        ("d2", "reads training dynamics"),
    ],
)
def test_what_cannot_be_done_in_parts_is_refused_with_the_reason(file: Saved, scorer: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        picked(file, [rows()], 5, scorer=scorer, at_once=10)


def test_a_scorer_of_ones_own_that_composes(file: Saved) -> None:
    class Own(KCenter):
        core_sets = True

        def select(self, signals: Any, k: int, *, rng: Any = None) -> Any:
            return super().select(signals, k)

    batches = parted(rows(), [100], np.arange(N))
    assert picked(file, batches, 9, scorer=Own(), at_once=0).shards == 8


def test_what_else_is_refused(file: Saved) -> None:
    with pytest.raises(InputError, match="pass what is labelled"):
        picked(file, [rows()], scorer="k_center", labelled=None)
    with pytest.raises(BudgetError, match="k=701"):
        picked(file, [rows()], 701)
    with pytest.raises(BudgetError, match="k=701"):
        picked(file, [rows()], 701, scorer="k_center")
    ragged = rows(10)
    ragged["x"] = np.array([np.zeros(6), *[np.zeros(5)] * 9], dtype=object)
    with pytest.raises(InputError, match="rows of shapes"):
        picked(file, [ragged], 2)


def test_all_of_a_pool_and_one_row(file: Saved) -> None:
    pool = rows(9)
    for name in ("margin", "k_center", "random"):
        everything = picked(file, parted(pool, [4], np.arange(9)), 9, scorer=name, at_once=0)
        assert sorted(everything.ids.tolist()) == sorted(pool["uid"].tolist())
    assert len(picked(file, [rows(1)], 1)) == 1


def test_ties_go_to_the_lower_id(file: Saved) -> None:
    pool = {"uid": np.array([9, 4, 7, 1]), "x": np.ones((4, 6), np.float32)}
    assert picked(file, parted(pool, [1], [0, 1, 2, 3]), 3).ids.tolist() == [1, 4, 7]


def test_inputs_side_by_side_by_name_and_by_a_function(file: Saved) -> None:
    pool = rows(200)
    wanted = picked(file, [pool], 10).ids
    apart = {"uid": pool["uid"], **{f"c{i}": pool["x"][:, i] for i in range(6)}}
    table = Table("uid", [f"c{i}" for i in range(6)])
    np.testing.assert_array_equal(select_over(Parts([apart], table), 10, file, table).ids, wanted)
    table = Table("uid", {"input": "x"})
    np.testing.assert_array_equal(select_over(Parts([pool], table), 10, file, table).ids, wanted)
    table = Table("uid", lambda batch: batch["x"])
    np.testing.assert_array_equal(select_over(Parts([pool], table), 10, file, table).ids, wanted)


def test_core_margin_is_the_default_of_the_file(file: Saved) -> None:
    assert get_scorer("margin") == file.load().options.scorer
    np.testing.assert_array_equal(picked(file, [rows()]).ids, picked(file, [rows()], scorer="margin").ids)
