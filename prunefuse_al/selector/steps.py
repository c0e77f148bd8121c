"""The steps of a round, each measured in a ledger: cut a proxy, train it, score with it.

Every step takes the options and a state and returns something new; `PrunedProxySelector` strings them together.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..costs import CostLedger
from ..errors import CostWarning
from ..pruning import Proxy, PruningReport, prune, rebuild
from ..scorers._select import select_top
from ..training.batchnorm import fold_batchnorm
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, Trainer
from .importance import with_data
from .options import Options, State
from .progressive import Thinning
from .scoring import LOGITS, check_needs, first_call, point_scores, read_signals
from .statistics import batchnorms, recalibrate, trained_statistics
from .target import make_target


def train_proxy(
    options: Options, ledger: CostLedger, state: State, other: nn.Module | None, data: Any, *, warm: bool
) -> tuple[State, Any]:
    """Return the next state, with a proxy trained on `data`, and what the trainer returned.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: where the last round ended.
        other: a network to train instead of a pruned one, or None.
        data: dataset with labels.
        warm: go on from the last trained proxy.
    """
    number = state.round + 1
    if state.synced is not None:  # V2: the next proxies are cut from the target of what was labelled by then
        state = State(state.synced, channel_map=state.channel_map, report=state.report, round=state.round)
    if state.start is None:
        state = cut(options, ledger, state, other, data)
        state = replace(state, start=state.dense) if options.gradual else _recalibrated(options, ledger, state, data)
    # Without warm starts a round is a function of its data; with them, batches must not repeat themselves.
    seed = options.seed("train_proxy", number if warm else 0)
    if options.gradual and not (warm and state.trained is not None):
        state, history = _train_gradually(options, ledger, state, data, seed)
    else:
        proxy = copy.deepcopy(state.trained if warm and state.trained is not None else state.start)
        assert proxy is not None
        with ledger.stage("train_proxy", round=number, network="proxy", dense=state.dense) as stage:
            stage.watch(proxy)
            history = options.trainer.fit(proxy, data, seed=seed)
        state = replace(state, trained=proxy, round=number)
    if options.sync_every and number % options.sync_every == 0 and state.channel_map is not None:
        state = replace(state, synced=make_target(options, ledger, state, data, sync=True))
    return state, history


def _train_gradually(options: Options, ledger: CostLedger, state: State, data: Any, seed: int) -> tuple[State, Any]:
    """Return the next state, with a proxy that was thinned while it was trained, and what the trainer returned."""
    number, trainer = state.round + 1, cast(Any, options.trainer)
    network, example = copy.deepcopy(state.dense), _example(options, state, data)
    with ledger.stage("train_proxy", round=number, network="proxy", dense=state.dense) as stage:
        stage.watch(network)
        thinning = Thinning(options, ledger, state, network, example, stage)
        history = trainer.fit(network, data, seed=seed, on_epoch=thinning)
        proxy = thinning.proxy()
    trained = replace(state, channel_map=proxy.channel_map, report=proxy.report(), trained=proxy.module, round=number)
    return trained, history


def prepare(options: Options, ledger: CostLedger, state: State, other: nn.Module | None, data: Any) -> State:
    """Return `state` with a proxy that answers as it was cut: for networks that have been trained elsewhere."""
    state = _recalibrated(options, ledger, cut(options, ledger, state, other, data), data)
    return replace(state, trained=copy.deepcopy(state.start), start=state.dense if options.gradual else state.start)


def cut(options: Options, ledger: CostLedger, state: State, other: nn.Module | None, data: Any) -> State:
    """Return `state` with an untrained proxy: cut from the dense network, or `other` as it is."""
    number = state.round + 1
    with ledger.stage("prune", round=number, network="proxy") as stage:
        if other is not None:
            stage.describe(other)
            return State(state.dense, other, round=state.round)
        proxy = _pruned(options, state, data)
        stage.describe(proxy.module)
    if state.channel_map is None:  # not once more after each sync
        _warn_of_costs(options, proxy.report())
    return State(state.dense, proxy.module, proxy.channel_map, proxy.report(), None, state.round)


def _recalibrated(options: Options, ledger: CostLedger, state: State, data: Any) -> State:
    """Return `state` with BatchNorm statistics of its own where the proxy has those of the wider network."""
    pruned = state.channel_map is not None and options.pruning_ratio > 0
    if options.recalibrate and pruned and trained_statistics(state.dense):
        start = copy.deepcopy(state.start)
        assert start is not None
        recalibrate(options, ledger, start, data, ("recalibrate", "proxy", state.round + 1))
        state = replace(state, start=start)
    return state


def _example(options: Options, state: State, data: Any) -> Any:
    """Return what the dense network is called with, two rows."""
    given = options.example_inputs
    return called_with(options.trainer, state.dense, data) if given is None else given


def _pruned(options: Options, state: State, data: Any) -> Proxy:
    """Return the proxy of `state.dense`; its `channel_map` is that of the proxy before a sync, if there was one."""
    importance = options.importance
    if state.channel_map is not None and options.sync_importance is not None:
        if options.sync_importance == "same":
            return Proxy(rebuild(state.dense, state.channel_map), state.channel_map, state.report)
        importance = options.sync_importance
    return prune(
        state.dense,
        _example(options, state, data),
        options.pruning_ratio,
        importance=with_data(replace(options, importance=importance), state.dense, data),
        scope=options.scope,
        keep=options.keep,
        round_to=options.round_to,
        random_state=options.seed("prune"),
    )


def _warn_of_costs(options: Options, report: PruningReport) -> None:
    """Say so where V2 cannot pay: a proxy every round and a target every `sync_every` cost a dense network a round."""
    if not options.sync_every:
        return
    epochs, fewer = (getattr(t, "epochs", None) for t in (options.trainer, options.target_trainer or options.trainer))
    share = fewer / epochs if isinstance(epochs, int) and isinstance(fewer, int) and epochs > 0 else 1.0
    total = report.mac_share + share / options.sync_every
    if total >= 1:
        warnings.warn(
            f"V2 with sync_every={options.sync_every} costs about {total:.2f} of choosing with the dense network: "
            f"{report.mac_share:.2f} for the proxy of every round and {share / options.sync_every:.2f} for training "
            "the target between rounds; raise sync_every, prune more, or leave it out (V1)",
            CostWarning,
            stacklevel=5,
        )


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
