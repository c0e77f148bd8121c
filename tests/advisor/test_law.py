"""What records of other loops say of proxies, in rows and in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prunefuse_al import advise
from prunefuse_al.advisor.law import Law, laws


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def test_the_law_that_is_shipped_is_what_advise_says():
    net = network()
    first, least = int(laws()["agreement"].labels[0]), int(laws()["difference"].labels[0])
    plan = {"pool": 10**6, "rounds": 1, "k": max(1, least - first), "initial": first, "epochs": 1}
    advice = advise(net, torch.zeros(2, 8), ratios=(0.25, 0.5), plan=plan, repeats=1, pretrained=False)
    found = laws()["difference"]
    for row in advice.rows:
        share = row.forward_macs / advice.dense.forward_macs
        assert row.expected_difference == found.predicted(share, advice.plan.labels[-1])
    assert f"records of {found.plans} other set-ups" in str(advice)
    assert f"off by {100 * found.error:.1f} on set-ups left out" in str(advice)
    assert advice.dense.expected_difference is None
    trained = advise(net, torch.zeros(2, 8), ratios=(0.5,), plan=plan, repeats=1, pretrained=True, repair=False)
    assert trained.rows[0].expected_difference is None
    assert "other set-ups" not in str(trained)


@pytest.mark.parametrize(
    ("form", "coefficients", "said"),
    [
        (
            "mean",
            (),
            "+2.0 over all ratios; off by 3.0 on set-ups left out, where no law of ratio and labels did surely better",
        ),
        ("log share", (-0.01,), "; off by 3.0 on set-ups left out (their mean alone by 4.0)"),
    ],
)
def test_what_advise_says_of_each_kind_of_law(form, coefficients, said, monkeypatch):
    found = Law(form, 0.02, coefficients, 0.03, 0.04, (0, 1), (1, 1e6), 5, 100)
    for module in ("advising", "telling"):
        monkeypatch.setattr(
            f"prunefuse_al.advisor.{module}.laws", lambda: dict.fromkeys(["difference", "agreement"], found)
        )
    net = network()
    advice = advise(net, torch.zeros(2, 8), ratios=(0.25, 0.5), repeats=1, pretrained=False)
    line = next(line for line in str(advice).splitlines() if "points of accuracy" in line)
    assert line.startswith("records of 5 other set-ups, from scratch, expect points of accuracy over a dense loop")
    assert line.endswith(said)
    if form != "mean":
        assert ", ".join(f"{row.name} {100 * row.expected_difference:+.1f}" for row in advice.rows) in line
        values = [0.02 + 0.01 * np.log(row.forward_macs / advice.dense.forward_macs) for row in advice.rows]
        assert [row.expected_difference for row in advice.rows] == pytest.approx(values)


def test_a_law_says_nothing_of_sizes_that_it_has_not_seen():
    found = Law("share", 0.5, (-0.25,), 0.1, 0.2, (0.1, 0.9), (50, 200), 3, 30)
    assert found.predicted(0.5, 100) == pytest.approx(0.375)
    outside = [found.predicted(*of) for of in ((0.05, 100), (0.95, 100), (0.5, 40), (0.5, 300))]
    assert outside == [None] * 4
