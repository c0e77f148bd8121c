"""The target: the trained proxy back in the dense network, and trained on; in V2 also between rounds."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..costs import CostLedger
from ..errors import FallbackWarning, warn
from ..fusing import in_the_way
from ..network import copied, frozen_norms, frozen_tensors, held_still
from ..proxies import batchnorms, recalibrate
from ..pruning import Proxy
from ..types import Trainer, alterable, altered, statement
from .options import Options
from .state import Trained


def make_target(options: Options, ledger: CostLedger, state: Trained, data: Any, *, sync: bool = False) -> nn.Module:
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
    fused = options.kind.fuses
    trainer = _target_trainer(options, fused)
    teacher = state.proxy.module if statement(trainer).distillation is not None else None
    target = fused_target(options, ledger, state, data, sync=sync) if fused else copied(state.dense)
    with ledger.stage("sync" if sync else "train_target", round=state.round, network="target") as stage:
        stage.watch(target, *([teacher] if teacher is not None else []))
        with held_still(target):  # whoever trains it
            trainer.fit(target, data, teacher=teacher, seed=options.seed("train_target"))
    return target


def fused_target(options: Options, ledger: CostLedger, state: Trained, data: Any, *, sync: bool = False) -> nn.Module:
    """Return the trained proxy put back into the dense network.

    With ``cross="preserve"`` the target computes what the proxy does, so its BatchNorm statistics are right; otherwise
    they are re-estimated, on `data` if nothing else is set aside for that. Those of frozen layers stay as they are.

    Raises:
        FusionError: the proxy has no place there.
    """
    with ledger.stage("sync_fuse" if sync else "fuse", round=state.round, network="target") as stage:
        target = options.kind.put_back(state.dense, state.proxy, options.fusion)
        stage.describe(target)
    if fusing_recalibrates(options, state):
        name = "sync_recalibrate" if sync else "recalibrate_target"
        with ledger.stage(name, round=state.round, network="target") as stage:
            stage.watch(target)
            given = data if options.recalibration_data is None else options.recalibration_data
            recalibrate(target, given, options.trainer, keep_frozen=True)
    return target


def fusing_recalibrates(options: Options, state: Trained) -> bool:
    """Tell whether the fused network's BatchNorm statistics have to be estimated again."""
    dense, proxy = state.dense, state.proxy
    if options.kind.exact or not options.recalibrate or not set(batchnorms(dense)) - set(frozen_norms(dense)):
        return False
    if not options.fusion.exact or not isinstance(proxy, Proxy):
        return True
    return bool(in_the_way(dense, proxy.module, proxy.channel_map, frozen_tensors(dense)))


def _target_trainer(options: Options, fused: bool) -> Trainer:
    """Return the target's own trainer as it is, or a copy of the proxy's at the lower rate; with distillation set."""
    trainer: Trainer = options.target_trainer or options.trainer
    changes: dict[str, Any] = {}
    if options.distillation is not None:
        changes["distillation"] = options.distillation
    if options.target_trainer is None and fused and options.fine_tune_lr_scale not in (None, 1):
        changes["lr_scale"] = options.fine_tune_lr_scale
    if "lr_scale" in changes and not alterable(trainer, "lr_scale"):
        del changes["lr_scale"]
        warn(
            f"{type(trainer).__name__} has no `lr_scale`, so the fused target is fine-tuned at the full learning rate; "
            "pass a target_trainer=, or fine_tune_lr_scale=None if that is meant",
            FallbackWarning,
        )
    if not changes:
        return trainer
    if "lr_scale" in changes:
        changes["lr_scale"] *= statement(trainer).lr_scale
    changed: Trainer = altered(trainer, **changes)
    return changed
