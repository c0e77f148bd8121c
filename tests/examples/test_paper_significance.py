"""Whether arms differ: penalties, areas and corrections with known answers, and what reports over plans say of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import across
import claims
import details
import report
from compare import Results
from plan import BEFORE, Plan
from records import Store
from significance import area, compared, holm, interval, mean_penalty, paired, penalties

RNG = np.random.default_rng(0)


def by_seed(values: np.ndarray) -> dict[int, list[float]]:
    return dict(enumerate(values.tolist()))


# --- tests and intervals


@pytest.mark.parametrize("n", [2, 3, 20])
def test_p_values_and_intervals_are_scipys(n):
    ours, theirs = RNG.normal(0.6, 0.1, n), RNG.normal(0.5, 0.1, n)
    d, test = paired(ours, theirs), stats.ttest_rel(ours, theirs)
    assert d.p == pytest.approx(test.pvalue)
    assert d.significant == (test.pvalue < 0.05)
    own, low_high = interval(ours), stats.ttest_1samp(ours, 0).confidence_interval()
    np.testing.assert_allclose([own.mean - own.half, own.mean + own.half], low_high)


def test_p_values_where_there_is_no_spread():
    assert paired([0.75, 0.75], [0.5, 0.5]).p == 0
    assert paired([0.5, 0.5], [0.5, 0.5]).p == 1
    assert not paired([0.5, 0.5], [0.5, 0.5]).significant
    assert np.isnan(paired([0.5], [0.4]).p)


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []
    corrected = holm([0.02, float("nan"), 0.01])
    assert [corrected[0], corrected[2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(corrected[1])


def test_holm_rejects_what_going_down_the_ordered_values_rejects():
    p = RNG.uniform(0, 0.06, 12)
    rejected = set()
    for place, row in enumerate(np.argsort(p)):
        if p[row] > 0.05 / (12 - place):
            break
        rejected.add(int(row))
    assert {row for row, value in enumerate(holm(p)) if value <= 0.05} == rejected


def test_area_is_the_mean_accuracy_along_the_labels():
    assert area([100, 200, 400], [0.5, 0.7, 0.9]) == pytest.approx((0.6 * 100 + 0.8 * 200) / 300)
    assert area([10, 20, 40], [0.8, 0.8, 0.8]) == pytest.approx(0.8)


def test_only_seeds_that_both_have_are_compared_and_all_differences_are_corrected():
    values = {
        "base": {0: 0.5, 1: 0.6, 2: 0.7},
        "a": {1: 0.7, 2: 0.81, 3: 9.0},
        "b": {0: 0.5, 1: 0.62, 2: 0.69},
        "c": {},
    }
    found = compared(values, "base")
    assert set(found) == {"a", "b"}
    raw = [stats.ttest_rel([0.7, 0.81], [0.6, 0.7]).pvalue, stats.ttest_rel([0.5, 0.62, 0.69], [0.5, 0.6, 0.7]).pvalue]
    assert [p for _, p in found.values()] == pytest.approx([min(1, 2 * raw[0]), raw[1]])
    assert found["a"][0].mean == pytest.approx(0.105)
    assert compared(values, "none") == {}


# --- penalties


def test_penalties_by_hand():
    base = np.array([[0.5, 0.6], [0.52, 0.61], [0.48, 0.63]])  # [seeds budgets]
    ahead = base + np.array([[0.1, 0.0], [0.11, 0.01], [0.09, -0.01]])
    behind = base - 0.2
    matrix = penalties({"base": by_seed(base), "ahead": by_seed(ahead), "behind": by_seed(behind)})
    np.testing.assert_allclose(matrix, [[0, 0, 1], [0.5, 0, 1], [0, 0, 0]])
    assert mean_penalty(matrix) == [0.25, 0, 1]


def test_penalties_are_those_of_ashs_t_score():
    accuracy = {name: RNG.normal(0.5 + 0.02 * place, 0.02, (5, 4)) for place, name in enumerate("abcd")}
    expected = np.zeros((4, 4))
    for i, ours in enumerate(accuracy.values()):
        for j, theirs in enumerate(accuracy.values()):
            d = ours - theirs
            with np.errstate(invalid="ignore"):
                t = np.sqrt(5) * d.mean(0) / np.sqrt(((d - d.mean(0)) ** 2).sum(0) / 4)
            expected[i, j] = (t > 2.776).sum() / 4
    assert expected.any()
    np.testing.assert_allclose(penalties({name: by_seed(a) for name, a in accuracy.items()}), expected)


def test_two_arms_that_share_too_few_seeds_have_no_entry():
    one = {0: [0.5], 1: [0.5]}
    matrix = penalties({"a": one, "b": {1: [0.1], 2: [0.1]}, "c": {0: [0.4], 1: [0.4]}})
    assert np.isnan(matrix[0, 1])
    assert matrix[0, 2] == 1
    assert mean_penalty(matrix)[:1] == [0]
    assert np.isnan(mean_penalty(np.zeros((1, 1)))).all()


# --- reports


COST = {"stage": "train_proxy", "round": 1, "network": "proxy", "samples": 40, "parameters": 100}
COST |= {"forward_macs": 10**9, "backward_macs": 2 * 10**9, "dense_macs": 3 * 10**9}


def made(arms: tuple[str, ...], seeds: int = 3, budgets: tuple[int, ...] = (80, 120, 160)) -> Results:
    """Return results of arms, each a point above the one before."""
    plan = Plan("p", seeds=tuple(range(seeds)), arms=arms, budgets=budgets)
    cells = {}
    for place, arm in enumerate(plan.parsed):
        for seed in plan.seeds:
            for r in range(plan.rounds):
                accuracy = 0.5 + 0.1 * r + 0.01 * place + 0.001 * ((seed * (place + 2) + r) % 3)
                record = {"accuracy": accuracy, "labels": 40 * (r + 1), "curve": [accuracy], "best": 0.9}
                cells[arm.name, seed, r] = record | {"costs": [COST], "picked": [], "probes": {}}, None
    return Results(plan, cells)


def write(folder: Path, results: Results, but: tuple[str, ...] = ()) -> None:
    """Write results into a folder of a plan, `but` for some fields of its set-up."""
    folder.mkdir(exist_ok=True)
    setup = {name: value for name, value in results.plan.setup().items() if name not in but}
    (folder / "plan.json").write_text(json.dumps(setup))
    lines = [{"arm": arm, "seed": s, "round": r, **cell} for (arm, s, r), (cell, _) in results.cells.items()]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_report_states_area_difference_and_corrected_p():
    results = made(("random", "dense-reinit", "prunefuse-v1"))
    areas = {arm: list(results.areas(arm).values()) for arm in ("random", "dense-reinit", "prunefuse-v1")}
    p = [stats.ttest_rel(areas[arm], areas["dense-reinit"]).pvalue for arm in ("random", "prunefuse-v1")]
    row = next(line for line in report.accuracies(results).splitlines() if line.startswith("| prunefuse-v1 "))
    *_, own, difference, shown = (cell.strip() for cell in row.strip("|").split("|"))
    mean = interval(areas["prunefuse-v1"])
    assert own == f"{100 * mean.mean:.1f} ± {100 * mean.half:.1f}"
    d = paired(areas["prunefuse-v1"], areas["dense-reinit"])
    assert difference == f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}"
    corrected = holm(p)[1]
    assert shown.strip("*") == ("<0.001" if corrected < 0.001 else f"{corrected:.3f}")
    assert shown.startswith("**") == (corrected < 0.05)
    assert "| 3. prunefuse-v1 | 1.00 | 1.00 |  |" in report.penalised(results)


@pytest.mark.parametrize("count", [1, 12, 28])
def test_a_report_fits_on_two_screens(count):
    settings = [f"prunefuse-v1 epochs={number}" for number in range(1, count)]
    results = made(("dense-reinit", *settings))
    parts = [report.heading(results), report.accuracies(results), report.penalised(results), report.costs(results)]
    assert sum(len(part.splitlines()) + 1 for part in parts) < 130
    assert "| dense-reinit |" in parts[1]


def test_over_plans_penalties_add_up_and_every_difference_is_corrected(tmp_path):
    arms = ("random", "dense-reinit", "prunefuse-v1")
    for name, these in (("one", arms), ("two", (*arms, "dense-continue"))):
        write(tmp_path / name, made(these))
    out = tmp_path / "across.md"
    across.main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out)])
    text = out.read_text()
    assert "| 3. prunefuse-v1 | 2.00 | 2.00 |  |" in text
    assert "| **beaten, mean** | 2.00 | 1.00 | 0 |" in text
    assert "dense-continue" not in text
    assert "for all 4 differences" in text
    assert len(text.splitlines()) < 60
    across.main([str(tmp_path / "one"), "--arms", "random", "prunefuse-v1", "--reference", "random"])
    with pytest.raises(ValueError, match="not every plan has dense-continue on two seeds"):
        across.main([str(tmp_path / "one"), str(tmp_path / "two"), "--arms", "dense-continue"])
    with pytest.raises(ValueError, match="holds no plan with records"):
        across.main([str(tmp_path)])


def test_claims_are_paired_differences_of_areas_corrected_for_all_of_them(tmp_path):
    results = made(("random", "dense-reinit", "prunefuse-v1", "prunefuse-v1 start=scratch"))
    folder = tmp_path / "p"
    write(folder, results)
    claims.main([str(folder), "--out", str(tmp_path / "claims.md")])
    text = (tmp_path / "claims.md").read_text()
    tested = [
        (ours, theirs)
        for _, ours, theirs in claims.CLAIMS
        if {ours, theirs} <= {arm.name for arm in results.plan.parsed}
    ]
    assert len(tested) == 5
    found = [paired(*(list(results.areas(arm).values()) for arm in pair)) for pair in tested]
    for (ours, theirs), d, p in zip(tested, found, holm([d.p for d in found]), strict=True):
        row = next(line for line in text.splitlines() if f"| `{ours}` - `{theirs}` |" in line)
        shown = f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}"
        assert row.endswith(f"| **{shown}** |" if p < 0.05 else f"| {shown} |")
    assert "for all 5 differences" in text
    assert len(text.splitlines()) == 6 + 5


def test_folders_of_before_there_was_more_to_a_plan_are_still_read(tmp_path):
    results = made(("random", "dense-reinit"))
    write(tmp_path, results, but=("resize", *BEFORE))
    found = across.results_in(tmp_path)
    assert found.plan.setup() == results.plan.setup()
    assert Store(tmp_path).check(results.plan)
    with pytest.raises(ValueError, match=r"noise was 0\.0, is 0\.2"):
        Store(tmp_path).check(replace(results.plan, noise=0.2))
    assert details.stopped(found) == details.tuned(found) == ""
