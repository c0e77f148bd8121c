"""A Lightning module as the network, trained by Lightning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, seeded
from hosts import need_host
from torch import Tensor, nn

need_host("lightning")
# ruff: noqa: E402
from lightning import LightningModule, Trainer

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator
from prunefuse_al.adapters.lightning import lightning_trainer
from prunefuse_al.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]
X, Y = blobs(97)


class Module(LightningModule):
    rates: list[float]

    def __init__(self, schedule: str = "step") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)
        self.schedule, self.rates = schedule, []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: Any, number: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("loss", loss)
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        steps = {
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
            "step": lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
            "cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100),
        }
        return [optimizer], [steps[self.schedule]()]


class Plain(Module):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def quiet() -> Trainer:
    return Trainer(
        max_epochs=10,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def selector(module: nn.Module, **options: Any) -> PrunedProxySelector:
    return PrunedProxySelector(
        module, 0.5, trainer=lightning_trainer(quiet, 16, device="cpu"), random_state=0, **options
    )


def test_the_whole_method_by_lightning() -> None:
    module = seeded(Plain)
    chosen = selector(module).fit(X[:49], Y[:49])  # 49 = 3 * 16 + 1: the last batch would be of one row
    assert set(chosen.history) == {"loss"}
    assert chosen.model.body[0].out_features == 8
    assert chosen.model._trainer is None
    copy.deepcopy(chosen)
    picked = chosen.query(X, 5, candidates=range(49, 97))
    assert len(set(picked.tolist())) == 5
    np.testing.assert_array_equal(selector(module).fit(X[:49], Y[:49]).query(X, 5, candidates=range(49, 97)), picked)
    target = chosen.fit_target()
    assert isinstance(target, Plain)
    assert float((target.eval()(X).argmax(1) == Y).double().mean()) > 0.9
    rows = {row.stage: row for row in chosen.costs.rows()}
    assert rows["train_proxy"].samples == 10 * 48
    assert rows["train_proxy"].macs > 0


@pytest.mark.parametrize("schedule", ["cosine", "step", "cycle"])
def test_the_target_learns_at_the_scaled_rate_whatever_the_schedule(schedule: str) -> None:
    chosen = selector(seeded(lambda: Module(schedule)), fine_tune_lr_scale=0.2).fit(X, Y)
    target = chosen.fit_target()
    assert len(target.rates) == len(chosen.model.rates) == 60
    np.testing.assert_allclose(target.rates, [0.2 * rate for rate in chosen.model.rates], rtol=1e-6)


def test_an_estimator_takes_it_and_its_batches_can_be_made_otherwise() -> None:
    def shifted(items: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in items]) + 1, torch.stack([y for _, y in items])

    trainer = lightning_trainer(quiet, 16, loader={"collate_fn": shifted}, device="cpu", eval_transform=lambda x: x + 1)
    est = PruneFuseEstimator(seeded(Plain), 0.5, trainer=trainer, random_state=0).fit(X.numpy(), Y.numpy())
    assert est.score(X.numpy(), Y.numpy()) > 0.9


def test_a_lightning_trainer_that_was_used_is_refused_and_nothing_changes() -> None:
    one = quiet()
    chosen = PrunedProxySelector(seeded(Plain), 0.5, trainer=lightning_trainer(lambda: one, 16), random_state=0)
    before = chosen.fit(X, Y).query(X, 5)
    with pytest.raises(InputError, match=r"a Trainer that has taken 60 steps already.*return a new one every time"):
        chosen.fit(X, Y)
    assert (chosen.round, len([row for row in chosen.costs.rows() if row.stage == "train_proxy"])) == (1, 1)
    np.testing.assert_array_equal(chosen.query(X, 5), before)
    with pytest.raises(InputError, match="return a new one every time"):
        chosen.fit_target()


@pytest.mark.parametrize("limits", [{"max_epochs": 0}, {"max_steps": 0}, {"limit_train_batches": 0}])
def test_a_lightning_trainer_that_takes_no_step_is_refused(limits: dict[str, int]) -> None:
    quietly = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning_trainer(lambda: Trainer(**{"max_epochs": 2, **limits}, enable_model_summary=False, **quietly))
    with pytest.raises(InputError, match="took no step"):
        PrunedProxySelector(seeded(Plain), 0.5, trainer=trainer).fit(X, Y)


def test_what_makes_no_lightning_trainer_is_refused() -> None:
    with pytest.raises(InputError, match="make_trainer returned a NoneType"):
        PrunedProxySelector(seeded(Plain), 0.5, trainer=lightning_trainer(lambda: None)).fit(X, Y)


def test_another_network_is_refused() -> None:
    with pytest.raises(InputError, match="the network is a Sequential; lightning_trainer trains a LightningModule"):
        selector(mlp(6, 16, 3)).fit(X, Y)
