"""Lightning 2 (``pip install lightning``): a `LightningModule` as the network, trained by its own `training_step`.

    from lightning import Trainer
    from prunefuse_al import PrunedProxySelector
    from prunefuse_al.adapters.lightning import lightning_trainer

    trainer = lightning_trainer(lambda: Trainer(max_epochs=20), batch_size=64)
    selector = PrunedProxySelector(module, 0.5, trainer=trainer).fit(X[labelled], y[labelled])

The module's `forward` must give the logits; `configure_optimizers` is asked anew by every training, for the proxy's own
parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from prunefuse_al.adapters import require_host
from prunefuse_al.errors import InputError
from prunefuse_al.training import FunctionTrainer

require_host("lightning", extra="lightning")

from lightning import Callback, LightningModule, Trainer  # noqa: E402

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # what schedulers keep in a parameter group


def lightning_trainer(
    make_trainer: Callable[[], Trainer], batch_size: int = 64, *, loader: Any = None, **reading: Any
) -> FunctionTrainer:
    """Return a trainer for `PrunedProxySelector` and `PruneFuseEstimator` whose networks are Lightning modules.

    Args:
        make_trainer: returns a new `lightning.Trainer`, called once for each training.
        batch_size: rows per batch.
        loader: further options of the `DataLoader` (a dict), for example `num_workers` or `collate_fn`. By default a
            batch is (x, y).
        reading: how pools are read, options of `FunctionTrainer` (`eval_batch_size`, `eval_transform`, `collate`, ...).

    Raises, when it trains:
        InputError: `make_trainer` returns one that has trained already, or that takes no step.

    The last training's `callback_metrics` are the selector's `history`. After fusing the learning rates are multiplied
    by `fine_tune_lr_scale`, those that schedulers keep too.
    """
    return FunctionTrainer(_Fit(make_trainer, batch_size, tuple((loader or {}).items())), **reading)


@dataclass(frozen=True)
class _Fit:
    make_trainer: Callable[[], Trainer]
    batch_size: int
    loader: tuple[tuple[str, Any], ...]

    def __call__(self, model: nn.Module, data: Any, seed: int | None, lr_scale: float) -> dict[str, float]:
        if not isinstance(model, LightningModule):
            raise InputError(
                f"the network is a {type(model).__name__}; lightning_trainer trains a LightningModule, by its "
                "training_step and configure_optimizers (TorchTrainer trains any network)"
            )
        order = torch.Generator() if seed is None else torch.Generator().manual_seed(seed)
        single = len(data) > self.batch_size and len(data) % self.batch_size == 1  # batch norm cannot train on one row
        options = {"shuffle": True, "generator": order, "drop_last": single, **dict(self.loader)}
        trainer = self._new_trainer()
        trainer.callbacks.append(_Scaled(lr_scale))
        try:
            trainer.fit(model, DataLoader(data, self.batch_size, **options))
        finally:
            model.trainer = None  # it would be copied with the network
        if not _steps(trainer):
            raise InputError(
                f"make_trainer: the Trainer took no step (max_epochs={trainer.max_epochs}, max_steps="
                f"{trainer.max_steps}, {trainer.num_training_batches} batches an epoch), so nothing was trained; give "
                "it epochs to train for"
            )
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _new_trainer(self) -> Trainer:
        """Return a Trainer that has all its epochs before it: one that was used goes on where it stopped."""
        trainer = self.make_trainer()
        if not isinstance(trainer, Trainer):
            raise InputError(f"make_trainer returned a {type(trainer).__name__}; it must return a lightning.Trainer")
        if steps := _steps(trainer):
            raise InputError(
                f"make_trainer returned a Trainer that has taken {steps} steps already, so it would train the next "
                "network for what is left of its epochs, or not at all: return a new one every time, as in "
                "lightning_trainer(lambda: Trainer(max_epochs=20))"
            )
        return trainer


def _steps(trainer: Trainer) -> int:
    """Return how many steps, or where a module counts none of its own, epochs a Trainer has behind it."""
    return int(trainer.global_step or trainer.current_epoch)


class _Scaled(Callback):
    """Multiplies all learning rates before the first step."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change what the optimisers and schedulers hold."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.update({name: group[name] * self.factor for name in _RATES if name in group})
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [rate * self.factor for rate in config.scheduler.base_lrs]
