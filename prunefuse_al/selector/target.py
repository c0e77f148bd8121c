"""The target: the trained proxy back in the dense network, and trained on; in V2 also between rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..costs import CostLedger, Stage
from ..data import labels_of, subset, to_dataset
from ..errors import FallbackWarning, warn
from ..fusing import Delta, Fusion, in_the_way
from ..network import SIGMOID, VALUES, copied, frozen_norms, frozen_tensors, held_still, probabilities
from ..proxies import batchnorms, recalibrate
from ..pruning import Proxy
from ..training import Reader, class_numbers
from ..types import Signals, Trainer, alterable, altered, statement
from .options import Options
from .state import Trained

ROWS = 512
"""Labelled rows on which the weight of what was learned is chosen."""
WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)


def make_target(options: Options, ledger: CostLedger, state: Trained, data: Any, *, sync: bool = False) -> nn.Module:
    """Return a target, fused (or the dense network itself if nothing can be) and trained on `data`.

    The fused start is better than a random one, and a high learning rate would throw that away: the proxy's trainer
    is used at `Options.rate_of_target` times its rate.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: with a trained proxy.
        data: dataset with labels.
        sync: it is the next network to prune (V2), so its rows are paid to choose samples.
    """
    fused = options.kind.fuses
    trainer = _target_trainer(options, state.dense if fused else None)
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
        target = options.kind.put_back(state.dense, state.proxy, _weighed(options, state, data, stage))
        stage.describe(target)
    if fusing_recalibrates(options, state):
        name = "sync_recalibrate" if sync else "recalibrate_target"
        with ledger.stage(name, round=state.round, network="target") as stage:
            stage.watch(target)
            _recalibrated(options, target, data)
    return target


def _weighed(options: Options, state: Trained, data: Any, stage: Stage) -> Fusion:
    """Return the way back; where it adds what was learned, with the weight that fits labelled rows best.

    Those are rows that the trainer names to hold out, else at most `ROWS` of what the proxy was trained on. Weight 0,
    which leaves the dense network as it was, is among the choices, so that harm is not taken home.
    """
    fusion = options.fusion(state.dense)
    held_out = getattr(statement(options.trainer).early_stopping, "validation_data", None)
    labelled = data if held_out is None else to_dataset(held_out)
    if options.kind.exact or not isinstance(fusion, Delta) or fusion.weight is not None or labelled is None:
        return fusion
    order = np.random.default_rng(options.seed("train_target")).permutation(len(labelled))[:ROWS]
    rows = subset(labelled, np.sort(order))
    losses = {}
    for weight in WEIGHTS:
        target = options.kind.put_back(state.dense, state.proxy, Delta(weight))
        if fusing_recalibrates(options, state):
            _recalibrated(options, target, rows)
        stage.watch(target)
        losses[weight] = _surprise(Reader(options.trainer, target, rows).signals(), labels_of(rows))
    return Delta(min(losses, key=lambda weight: (losses[weight], -weight)))


def _surprise(signals: Signals, labels: Tensor | None) -> float:
    """Return the mean negative logarithm of the probability of the labels; 0 where there is no such thing."""
    assert signals.logits is not None  # they were asked for
    if signals.outputs == VALUES or labels is None:
        return 0.0
    independent = signals.outputs == SIGMOID
    p = probabilities(signals.logits.double(), signals.outputs).clamp(1e-12, 1)  # [n c]
    if independent and labels.shape == p.shape:
        given = torch.where(labels.bool(), p, 1 - p + 1e-12)
        return float(-given.log().mean())
    numbers = class_numbers(labels, independent=independent)
    return 0.0 if numbers is None else float(-p.gather(1, numbers[:, None]).log().mean())


def _recalibrated(options: Options, target: nn.Module, data: Any) -> None:
    given = data if options.recalibration_data is None else options.recalibration_data
    recalibrate(target, given, options.trainer, keep_frozen=True)


def fusing_recalibrates(options: Options, state: Trained) -> bool:
    """Tell whether the fused network's BatchNorm statistics have to be estimated again."""
    dense, proxy = state.dense, state.proxy
    if options.kind.exact or not options.recalibrate or not set(batchnorms(dense)) - set(frozen_norms(dense)):
        return False
    if not options.fusion(dense).exact or not isinstance(proxy, Proxy):
        return True
    return bool(in_the_way(dense, proxy.module, proxy.channel_map, frozen_tensors(dense)))


def _target_trainer(options: Options, fused: nn.Module | None) -> Trainer:
    """Return the target's own trainer as it is, or a copy of the proxy's at the rate of a fused start."""
    trainer: Trainer = options.target_trainer or options.trainer
    changes: dict[str, Any] = {}
    if options.distillation is not None:
        changes["distillation"] = options.distillation
    scale = 1.0 if options.target_trainer is not None or fused is None else options.rate_of_target(fused)
    if scale != 1:
        changes["lr_scale"] = scale
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
