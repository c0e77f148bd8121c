"""The steps of the method, each measured in a ledger: cut a proxy, train it, score with it, make a target of it.

Every step takes the options and a state and returns something new; `PrunedProxySelector` strings them together.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..costs import CostLedger
from ..errors import FallbackWarning, InputError
from ..fusion import fuse
from ..pruning import Proxy, prune
from ..scorers._select import select_top
from ..training.batchnorm import fold_batchnorm, recalibrate_batchnorm
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, Trainer
from .options import Options, State
from .scoring import LOGITS, check_needs, first_call, point_scores, read_signals


def train_proxy(
    options: Options, ledger: CostLedger, state: State, other: nn.Module | None, data: Any, *, warm: bool, sync: bool
) -> tuple[State, Any]:
    """Return the next state, with a proxy trained on `data`, and what the trainer returned.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: where the last round ended.
        other: a network to train instead of a pruned one, or None.
        data: dataset with labels.
        warm: go on from the last trained proxy.
        sync: V2 may sync, if that is due.
    """
    number = state.round + 1
    if (
        sync
        and options.sync_every
        and state.round
        and state.round % options.sync_every == 0
        and state.channel_map is not None
    ):
        # V2: the target of what is labelled by now is the dense network that the next proxies are cut from.
        state = State(make_target(options, ledger, state, data, "sync"), round=state.round)
    if state.start is None:
        state = cut(options, ledger, state, other, data)
    proxy = copy.deepcopy(state.trained if warm and state.trained is not None else state.start)
    assert proxy is not None
    with ledger.stage("train_proxy", round=number, network="proxy", dense=state.dense) as stage:
        stage.watch(proxy)
        # Without warm starts a round is a function of its data; with them, batches must not repeat themselves.
        history = options.trainer.fit(proxy, data, seed=options.seed("train_proxy", number if warm else 0))
    return replace(state, trained=proxy, round=number), history


def cut(options: Options, ledger: CostLedger, state: State, other: nn.Module | None, data: Any) -> State:
    """Return `state` with an untrained proxy: cut from the dense network, or `other` as it is."""
    number, example = state.round + 1, options.example_inputs
    with ledger.stage("prune", round=number, network="proxy") as stage:
        if other is not None:
            stage.describe(other)
            return State(state.dense, other, round=state.round)
        proxy = prune(
            state.dense,
            called_with(options.trainer, state.dense, data) if example is None else example,
            options.pruning_ratio,
            importance=options.importance,
            scope=options.scope,
            keep=options.keep,
            round_to=options.round_to,
            random_state=options.seed("prune"),
        )
        stage.describe(proxy.module)
    if options.recalibrate and options.pruning_ratio and any(_was_trained(m) for m in batchnorms(state.dense)):
        _recalibrate(options, ledger, proxy.module, data, ("recalibrate", "proxy", number))
    return State(state.dense, proxy.module, proxy.channel_map, proxy.report(), None, state.round)


def rank(
    options: Options,
    ledger: CostLedger,
    state: State,
    scorer: Scorer,
    candidates: tuple[Any, Tensor, int],
    labelled: Any,
    rng: RngLike,
) -> Selection:
    """Return what `scorer` picks with the trained proxy.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: with a trained proxy.
        scorer: who picks.
        candidates: the pool, the rows that may be picked, int64 [m], and how many to pick.
        labelled: dataset of what is labelled, for scorers that read its features.
        rng: breaks ties and draws.
    """
    (data, rows, k), needs = candidates, check_needs(scorer)
    signals, scores = Signals(rows), None
    if needs:
        with scoring(options, ledger, state, data, needs) as network:
            if isinstance(scorer, PointScorer):  # a score per row is all that stays in memory
                scores = point_scores(scorer, options.trainer, network, data, rows)
            else:
                signals = all_signals(options, network, data, rows, needs, labelled)
    with ledger.stage("rank", round=state.round, network="proxy"):
        if scores is not None:
            return select_top(type(scorer).__name__, scores, signals, k, rng)
        return scorer.select(signals, k, rng=rng)


def make_target(options: Options, ledger: CostLedger, state: State, data: Any, stage_name: str) -> nn.Module:
    """Return a target, fused (or the dense network itself if nothing can be) and trained on `data`.

    The fused start is better than a random one, and a high learning rate would throw that away: the proxy's trainer
    is used at `fine_tune_lr_scale` times its rate.
    """
    number = state.round + (stage_name == "sync")
    fused = state.channel_map is not None
    trainer = _target_trainer(options, fused)
    teacher = state.trained if getattr(trainer, "distillation", None) is not None else None
    target = fused_target(options, ledger, state, data, number) if fused else copy.deepcopy(state.dense)
    with ledger.stage(stage_name, round=number, network="target", dense=state.dense) as stage:
        stage.watch(target, *([teacher] if teacher is not None else []))
        trainer.fit(target, data, teacher=teacher, seed=options.seed("train_target"))
    return target


def fused_target(options: Options, ledger: CostLedger, state: State, data: Any, number: int) -> nn.Module:
    """Return the trained proxy put back into the dense network.

    With ``cross="preserve"`` the target computes what the proxy does, so its BatchNorm statistics are right; otherwise
    they are re-estimated on `data`.
    """
    assert state.channel_map is not None
    assert state.trained is not None
    with ledger.stage("fuse", round=number, network="target") as stage:
        proxy = Proxy(state.trained, state.channel_map, state.report)
        target = fuse(state.dense, proxy, cross=options.cross)
        stage.describe(target)
    if fusing_needs_data(options, state):
        _recalibrate(options, ledger, target, data, ("recalibrate_target", "target", number))
    return target


def fusing_needs_data(options: Options, state: State) -> bool:
    """Tell whether the fused network's BatchNorm statistics have to be estimated again."""
    return options.recalibrate and options.cross != "preserve" and bool(batchnorms(state.dense))


@contextlib.contextmanager
def scoring(
    options: Options, ledger: CostLedger, state: State, data: Any, needs: frozenset[str]
) -> Iterator[nn.Module]:
    """Measure scoring and yield the network to score with: BatchNorm folded where only logits are read."""
    assert state.trained is not None
    with ledger.stage("score", round=state.round, network="proxy", dense=state.dense) as stage:
        network = state.trained
        if options.fold_batchnorm and needs == LOGITS and batchnorms(network):
            network = fold_batchnorm(network, called_with(options.trainer, network, data)) or network
        stage.watch(network)
        yield network


def all_signals(
    options: Options, network: nn.Module, data: Any, rows: Tensor, needs: frozenset[str], labelled: Any
) -> Signals:
    """Return everything in `needs` about `rows` of a pool, and about what is labelled where that is asked."""
    signals = read_signals(options.trainer, network, data, rows, needs)
    if "labelled_features" not in needs:
        return signals
    known = read_signals(options.trainer, network, labelled, torch.arange(len(labelled)), frozenset({"features"}))
    return Signals(
        rows, signals.logits, signals.features, signals.mc_logits, signals.labels, labelled_features=known.features
    )


def called_with(trainer: Trainer, model: nn.Module, data: Any) -> Any:
    """Return what the trainer calls `model` with for two rows: a tensor, a tuple or a dict, on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    call = first_call(trainer, model, data)
    args, kwargs = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, call)
    if kwargs:
        return kwargs
    return args[0] if len(args) == 1 else args


def batchnorms(model: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers of a network."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _was_trained(norm: nn.Module) -> bool:
    """Tell whether a BatchNorm's statistics come from data: those of a wider network do not fit the proxy."""
    counted = getattr(norm, "num_batches_tracked", None)
    return counted is not None and int(counted) > 0


def _recalibrate(options: Options, ledger: CostLedger, module: nn.Module, data: Any, row: tuple[str, str, int]) -> None:
    name, role, number = row
    with ledger.stage(name, round=number, network=role) as stage:
        stage.watch(module)
        recalibrate_batchnorm(module, data, **_reading(options.trainer))


def _reading(trainer: Any) -> dict[str, Any]:
    """Return how `trainer` reads data for evaluation, as far as it says."""
    names = {
        "batch_size": "eval_batch_size",
        "device": "device",
        "transform": "eval_transform",
        "num_workers": "num_workers",
    }
    reading = {option: getattr(trainer, name, None) for option, name in names.items()}
    if getattr(trainer, "accelerator", None) is not None:
        reading["device"] = trainer.accelerator.device
    return {option: value for option, value in reading.items() if value is not None}


def _target_trainer(options: Options, fused: bool) -> Any:
    """Return the target's own trainer as it is, or a copy of the proxy's at the lower rate; with distillation set."""
    trainer: Any = options.target_trainer or options.trainer
    changes: dict[str, Any] = {}
    if options.distillation is not None:
        changes["distillation"] = options.distillation
    if options.target_trainer is None and fused and options.fine_tune_lr_scale not in (None, 1):
        changes["lr_scale"] = options.fine_tune_lr_scale
    if "distillation" in changes and not hasattr(trainer, "distillation"):
        raise InputError(
            f"distillation= was given, but {type(trainer).__name__} has no `distillation` to set; "
            "pass a TorchTrainer, or a target_trainer that distils by itself"
        )
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
    trainer = copy.copy(trainer)  # its parts may hold open devices, so no deep copy
    for name, value in changes.items():
        setattr(trainer, name, value)
    return trainer
