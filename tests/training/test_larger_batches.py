"""`larger_batches`: more rows a step, rates that follow, and the trainer that was given as it was."""

from __future__ import annotations

import pytest
import torch
from fakes import blobs, mlp, trainer

from prunefuse_al import PrunedProxySelector
from prunefuse_al.errors import InputError
from prunefuse_al.training import larger_batches

X, Y = blobs(96)


@pytest.mark.parametrize(("rates", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("same", 1.0)])
def test_rows_and_rates_grow_by_the_rule(rates: str, factor: float) -> None:
    given = trainer(2, batch_size=16, lr_scale=0.5, scheduler="constant")
    larger = larger_batches(given, 4, rates=rates)
    assert (larger.batch_size, larger.lr_scale, given.batch_size, given.lr_scale) == (64, 0.5 * factor, 16, 0.5)
    history = larger.fit(mlp(6, 8, 3), (X, Y), seed=0)
    assert [row["lr"] for row in history.epochs] == pytest.approx([0.05 * 0.5 * factor] * 2)


def test_a_selector_trains_the_proxy_by_it_and_the_target_as_before() -> None:
    rows: dict[str, list[int]] = {"proxy": [], "target": []}

    class Counted(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                rows["proxy" if self[0].out_features == 8 else "target"].append(len(x))
            return super().forward(x)

    given, network = trainer(1, batch_size=16), Counted(*mlp(6, 16, 3))
    chooser = PrunedProxySelector(network, 0.5, trainer=larger_batches(given, 2), target_trainer=given, random_state=0)
    chooser.fit(X, Y).fit_target(X, Y)
    assert max(rows["proxy"]) == 32
    assert max(rows["target"]) == 16


def test_options_of_the_trainer_are_looked_at_first() -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        larger_batches(trainer(batch_size=0), 2)
