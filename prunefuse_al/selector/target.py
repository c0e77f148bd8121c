"""The target: the trained proxy back in the dense network, and trained on; in V2 also between rounds."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from ..costs import CostLedger
from ..errors import FallbackWarning
from ..fusing import fuse, in_the_way
from ..network import copied, frozen_norms, frozen_tensors, held_still
from ..pruning import Proxy
from ..types import altered
from .batchnorm_after import batchnorms, recalibrate
from .options import Options, State


def make_target(options: Options, ledger: CostLedger, state: State, data: Any, *, sync: bool = False) -> nn.Module:
    """Return a target, fused (or the dense network itself if nothing can be) and trained on `data`.

    The fused start is better than a random one, and a high learning rate would throw that away: the proxy's trainer
    is used at `fine_tune_lr_scale` times its rate.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: with a trained proxy.
        data: dataset with labels.
        sync: it is the next network to prune (V2), so its rows are paid to choose samples.
    """
    fused = state.channel_map is not None
    trainer = _target_trainer(options, fused)
    teacher = state.trained if getattr(trainer, "distillation", None) is not None else None
    target = fused_target(options, ledger, state, data, sync=sync) if fused else copied(state.dense)
    with ledger.stage("sync" if sync else "train_target", round=state.round, network="target") as stage:
        stage.watch(target, *([teacher] if teacher is not None else []))
        with held_still(target):  # whoever trains it
            trainer.fit(target, data, teacher=teacher, seed=options.seed("train_target"))
    return target


def fused_target(options: Options, ledger: CostLedger, state: State, data: Any, *, sync: bool = False) -> nn.Module:
    """Return the trained proxy put back into the dense network.

    With ``cross="preserve"`` the target computes what the proxy does, so its BatchNorm statistics are right; otherwise
    they are re-estimated, on `data` if nothing else is set aside for that. Those of frozen layers stay as they are.
    """
    assert state.channel_map is not None
    assert state.trained is not None
    with ledger.stage("sync_fuse" if sync else "fuse", round=state.round, network="target") as stage:
        proxy = Proxy(state.trained, state.channel_map, state.report)
        target = fuse(state.dense, proxy, cross=options.cross)
        stage.describe(target)
    if fusing_recalibrates(options, state):
        name = "sync_recalibrate" if sync else "recalibrate_target"
        recalibrate(options, ledger, target, data, (name, "target", state.round))
    return target


def fusing_recalibrates(options: Options, state: State) -> bool:
    """Tell whether the fused network's BatchNorm statistics have to be estimated again."""
    dense = state.dense
    if not options.recalibrate or not set(batchnorms(dense)) - set(frozen_norms(dense)):
        return False
    if options.cross != "preserve":
        return True
    assert state.trained is not None
    assert state.channel_map is not None
    return bool(in_the_way(dense, state.trained, state.channel_map, frozen_tensors(dense)))


def _target_trainer(options: Options, fused: bool) -> Any:
    """Return the target's own trainer as it is, or a copy of the proxy's at the lower rate; with distillation set."""
    trainer: Any = options.target_trainer or options.trainer
    changes: dict[str, Any] = {}
    if options.distillation is not None:
        changes["distillation"] = options.distillation
    if options.target_trainer is None and fused and options.fine_tune_lr_scale not in (None, 1):
        changes["lr_scale"] = options.fine_tune_lr_scale
    if "lr_scale" in changes and not hasattr(trainer, "lr_scale"):
        del changes["lr_scale"]
        warnings.warn(
            f"{type(trainer).__name__} has no `lr_scale`, so the fused target is fine-tuned at the full learning rate; "
            "pass a target_trainer=, or fine_tune_lr_scale=None if that is meant",
            FallbackWarning,
            stacklevel=4,
        )
    if not changes:
        return trainer
    if "lr_scale" in changes:
        changes["lr_scale"] *= trainer.lr_scale
    return altered(trainer, **changes)
