"""Variants of a plan: tuned for every arm alike, long tails, wrong labels, tables, stopping without labels."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import cells
import run
import sources
import tables
from plan import Plan
from plans import PLANS, TWENTY, between
from stopping import kappas, stops_at
from tuning import Settings, Trial, best, drawn_settings

RNG = np.random.default_rng(0)
ARMS = ("random", "dense-continue", "prunefuse-v1", "prunefuse-v1 start=scratch", "random subset=prunefuse-v1")
TINY = ["digits", "--network", "mlp", "--epochs", "2", "--test", "150", "--pool", "400", "--budgets", "60", "80"]
TINY += ["--seeds", "0", "--lr", "0.05", "--device", "cpu", "--tuning", "3", "--arms", *ARMS]


def entries(folder: Path, name: str = "records.jsonl") -> dict[tuple[str, int], dict]:
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return {(entry["arm"], entry["round"]): entry for entry in found}


# --- tuning


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "out"
    run.main([*TINY, "--out", str(folder)])
    return folder


def test_every_arm_has_the_same_trials_and_keeps_the_best(tuned):
    found = entries(tuned)
    for number in (0, 2):
        tried = [[(t["rate"], t["weight_decay"]) for t in found[arm, number]["trials"]] for arm in ARMS]
        assert tried[0] == [(s.rate, s.weight_decay) for s in drawn_settings(PLANS["digits-20-tuned"], 0, number)][:3]
        assert all(each == tried[0] for each in tried)
    for arm in ARMS:
        first, middle, last = (found[arm, r] for r in range(3))
        assert middle["trials"] == []
        assert middle["settings"] == first["settings"]
        for record in (first, last):
            top = max(trial["accuracy"] for trial in record["trials"])
            chosen = next(trial for trial in record["trials"] if trial["accuracy"] == top)
            assert record["settings"] == {"rate": chosen["rate"], "weight_decay": chosen["weight_decay"]}
            assert all(trial["macs"] > 0 for trial in record["trials"])


def test_what_trials_cost_is_not_among_what_the_arm_costs(tuned):
    found, timings = entries(tuned), entries(tuned, "timings.jsonl")
    stages = [row["stage"] for row in found["random", 0]["costs"]]
    assert stages.count("train_proxy") == 1
    assert timings["random", 0]["tuning"] > 0
    assert timings["random", 1]["tuning"] == 0
    text = (tuned / "digits" / "details.md").read_text()
    assert "3 trials for every arm and seed" in text
    assert "rate and weight decay tuned by 3 trials an arm" in (tuned / "digits" / "report.md").read_text()


def test_tuned_arms_go_on_where_they_were(tuned, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    do = cells.Unit.do

    def until_the_second(self: cells.Unit, number: int) -> bool:
        if number == 1:
            raise Killed
        return do(self, number)

    monkeypatch.setattr(cells.Unit, "do", until_the_second)
    with pytest.raises(Killed):
        run.main([*TINY, "--out", str(tmp_path / "out")])
    monkeypatch.undo()
    run.main([*TINY, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == (tuned / "records.jsonl").read_bytes()


def test_rows_for_tuning_are_never_chosen_from_and_as_many_as_labels():
    plan = Plan("p", first=40, budgets=(60, 80), tuning=2)
    drawn, plain = sources.draw(plan, 500, 0), sources.draw(Plan("p", first=40, budgets=(60, 80)), 500, 0)
    assert len(drawn.held_out) == 80
    assert not set(drawn.held_out) & (set(drawn.pool) | set(drawn.probes))
    np.testing.assert_array_equal(drawn.first, plain.first)
    np.testing.assert_array_equal(drawn.probes, plain.probes)
    assert len(plain.held_out) == 0


def test_settings_are_drawn_alike_and_within_their_ranges():
    plan = Plan("p", tuning=50)
    one, again, other = (drawn_settings(plan, *of) for of in ((0, 0), (0, 0), (1, 0)))
    assert one == again != other
    assert one[0] == Settings()
    assert len(one) == 50
    assert all(0.1 <= s.rate <= 3 and 1e-5 <= s.weight_decay <= 1e-2 for s in one[1:])
    assert best([Trial(s, accuracy, 0, 0) for s, accuracy in zip(one, (0.5, 0.7, 0.7), strict=False)]) == one[1]


# --- variants of the data


@pytest.mark.parametrize(
    ("counts", "factor", "left"),
    [([100, 100, 100], 100, [100, 10, 1]), ([8, 8], 1, [8, 8]), ([40, 5, 40], 4, [40, 5, 10]), ([3, 3], 1000, [3, 1])],
)
def test_long_tails(counts, factor, left):
    y = RNG.permutation(np.repeat(np.arange(len(counts)), counts))
    rows = tables.long_tailed(y, factor)
    assert np.bincount(y[rows]).tolist() == left
    assert (np.diff(rows) > 0).all()


def test_wrong_labels_are_as_many_as_asked_and_of_every_other_class():
    y = np.repeat(np.arange(4), 500)
    changed = tables.noisy(y, 0.3)
    assert (changed != y).sum() == 600
    np.testing.assert_array_equal(changed, tables.noisy(y, 0.3))
    away = np.bincount((changed - y)[changed != y] % 4, minlength=4)
    assert away[0] == 0
    assert away[1:].min() > 150
    assert (tables.noisy(y, 0) == y).all()


def test_plans_with_a_tail_and_noise_change_what_is_trained_on_alone(tmp_path):
    plain, changed = (
        sources.source(Plan("p", imbalance=imbalance, noise=noise), str(tmp_path))
        for imbalance, noise in ((1.0, 0.0), (10.0, 0.2))
    )
    counts = np.bincount(plain.y_train), np.bincount(tables.noisy(changed.y_train, 0))
    assert changed.rows < 0.6 * plain.rows
    assert counts[1][0] > counts[1][-1]
    np.testing.assert_array_equal(plain.y_test, changed.y_test)
    augmented, none = (sources.source(Plan("p", augment=a), str(tmp_path)).transforms for a in ("standard", "none"))
    assert augmented[0] is not augmented[1]
    assert none[0] is none[1]


@pytest.mark.parametrize("change", [{"imbalance": 2}, {"noise": 0.1}, {"augment": "none"}])
def test_pictures_in_folders_are_taken_as_they_are(change):
    with pytest.raises(ValueError, match="pictures in folders are taken as they are"):
        Plan("p", data="folder:somewhere", **change)


def test_mails_are_rows_of_words(tmp_path):
    for kind, word in (("easy-ham-1", "meeting"), ("spam-1", "winner")):
        (tmp_path / kind).mkdir()
        for number in range(30):
            (tmp_path / kind / f"{number}.txt").write_text(f"Subject: {word}\n\nthe {word} number {number}")
    data = sources.source(Plan("p", data="mails"), str(tmp_path))
    assert data.rows == 40
    assert (data.classes, data.shape[1:], data.transforms) == (2, (1, 1), (None, None))
    rows = data.unlabelled[:, :, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    network = data.network("mlp", 0)
    assert network[1].in_features == data.shape[0]


@pytest.mark.parametrize("name", tables.ROWS)
def test_tables_and_texts_that_are_not_there_are_not_replaced(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: no (table|mails) in "):
        tables.load(name, str(tmp_path))


# --- stopping


def test_kappas_are_those_of_the_predictions_of_successive_rounds():
    predicted = RNG.integers(0, 3, (3, 50)).tolist()
    assert kappas(predicted) == pytest.approx([cohen_kappa_score(*predicted[:2]), cohen_kappa_score(*predicted[1:])])
    assert kappas([[1, 1], [1, 1]]) == [1.0]


@pytest.mark.parametrize(
    ("kappa", "round_"),
    [([1, 1, 1], 3), ([0.9, 1, 1, 1], 4), ([0.9, 1, 1], None), ([1, 1], None), ([], None), ([0.99] * 5, None)],
)
def test_the_rule_stops_once_predictions_have_been_stable(kappa, round_):
    assert stops_at(kappa) == round_


# --- plans


def test_plans_of_twenty_seeds_and_their_variants():
    for plan in TWENTY:
        assert len(plan.seeds) == 20
        assert PLANS[plan.name] is plan
        assert plan.baseline in plan.arms
    names = {name for name in PLANS if name.startswith("digits-20-")}
    assert names == {f"digits-20-{name}" for name in VARIANTS}
    assert PLANS["digits-20-small-queries"].budgets == (60, 80, 100, 120, 140, 160)
    assert PLANS["digits-20-large-queries"].budgets == (80, 160)
    assert between(10, [20, 30]) == [15, 20, 25, 30]


VARIANTS = ("small-first", "large-first", "small-queries", "large-queries", "long-tail", "noise", "tuned", "plain")
