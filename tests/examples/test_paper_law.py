"""The law of proxies: fitted to records, tested on plans left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import law
import run
from law import Cells, by_plan, law_of, predicted

from prunefuse_al.advisor.law import FORMS, Law

SHARES = (0.8, 0.5, 0.25, 0.1)


def cells(value, noise: float = 0.0, plans: int = 5, seeds: int = 3) -> Cells:
    """Return entries whose value is a function of share, labels and plan, with noise."""
    rng = np.random.default_rng(0)
    rows = [
        (share, labels, value(share, labels, plan) + noise * rng.normal(), f"plan{plan}", seed)
        for plan in range(plans)
        for seed in range(seeds)
        for share in SHARES
        for labels in (100 * (plan + 1), 400 * (plan + 1))
    ]
    return Cells.of(rows)


@pytest.mark.parametrize(
    ("value", "form", "intercept", "coefficients"),
    [
        (lambda share, labels, plan: 0.02 - 0.1 * (1 - share), "share", 0.02, [-0.1]),
        (lambda share, labels, plan: 0.9 + 0.2 * np.log(share), "log share", 0.9, [-0.2]),
        (
            lambda share, labels, plan: 0.1 + 0.02 * np.log(share) - 0.05 * np.log(labels),
            "log share, log labels",
            0.1,
            [-0.02, -0.05],
        ),
    ],
)
def test_a_law_that_holds_is_found(value, form, intercept, coefficients):
    found = law_of(cells(value, noise=1e-3))
    assert found["form"] == form
    assert found["intercept"] == pytest.approx(intercept, abs=5e-3)
    assert found["coefficients"] == pytest.approx(coefficients, abs=5e-3)
    assert found["error"] < 2e-3 < found["error_of_mean"]


def test_where_plans_differ_at_random_the_mean_is_the_law():
    noise = np.random.default_rng(1).normal(0, 0.1, 5)
    found = law_of(cells(lambda share, labels, plan: noise[plan], noise=0.05))
    assert found["form"] == "mean"
    assert found["coefficients"] == []
    assert found["intercept"] == pytest.approx(noise.mean(), abs=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_a_plan_is_seen_that_is_left_out(form):
    before = cells(lambda share, labels, plan: share * plan)
    last = before.plan == "plan4"
    moved = Cells(before.share, before.labels, before.value + 100 * last, before.plan, before.seed)
    one, other = (predicted(each, form, each.plan) for each in (before, moved))
    np.testing.assert_array_equal(one[last], other[last])
    assert np.abs(one[~last] - other[~last]).min() > 1


def test_every_plan_weighs_alike():
    few = cells(lambda share, labels, plan: 0.0, plans=1)
    many = cells(lambda share, labels, plan: 1.0, plans=1, seeds=30)
    both = Cells(
        *(np.concatenate([getattr(few, f), getattr(many, f)]) for f in ("share", "labels", "value")),
        np.array(["few"] * len(few.value) + ["many"] * len(many.value)),
        np.concatenate([few.seed, many.seed]),
    )
    assert law.fitted(both, "mean").constant_.item() == pytest.approx(0.5)
    np.testing.assert_allclose(by_plan(both, both.value), [0, 1])


def test_laws_of_records(tmp_path, capsys):
    arms = ["dense-reinit", "prunefuse-v1", "prunefuse-v1 ratio=0.25", "prunefuse-v1 warm=continue"]
    small = ["--epochs", "1", "--test", "150", "--pool", "300", "--device", "cpu"]
    for name, network in (("a", "mlp"), ("b", "mlp/2")):
        options = ["--network", network, "--budgets", "60", "--seeds", "0", "1", "--arms", *arms]
        run.main(["digits", *small, "--out", str(tmp_path / name), *options])
    with pytest.raises(ValueError, match="of 1 set-ups none can be left out"):
        law.main([str(tmp_path / "a")])
    out = tmp_path / "law.json"
    law.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)])
    found = json.loads(out.read_text())
    assert [found[name]["runs"] for name in ("difference", "agreement")] == [8, 8]
    assert found["difference"]["plans"] == 2
    assert 0 < found["difference"]["shares"][0] < found["difference"]["shares"][1] < 1
    assert found["agreement"]["labels"] == [40, 40]
    assert "plans left out" in capsys.readouterr().out
    assert Law.of(found["agreement"]).runs == 8
