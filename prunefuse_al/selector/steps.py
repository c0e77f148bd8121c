"""The steps of a round, each measured in a ledger: cut a proxy, train it, score with it.

Every step takes the options and a state and returns something new; `PrunedProxySelector` strings them together.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..costs import CostLedger
from ..errors import CostWarning, NoEffectWarning
from ..network import as_inputs, copied, fold_batchnorm, stand_in
from ..pruning import Proxy, PruningReport, prune, rebuild
from ..scorers import ClassBalanced, ClassStandardised, Composed, checked_picks, dynamics_of, picks_of, select_top
from ..training import Recorder, Snapshot, TorchTrainer
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, Trainer, epochs_of
from .batchnorm_after import batchnorms, recalibrate, trained_statistics
from .beginning import beginning
from .labelled_importance import with_data
from .options import Options, State, WarmStart
from .past import Past
from .scoring import (
    CHUNK,
    LOGITS,
    check_needs,
    first_call,
    labelled_signals,
    point_scores,
    read_signals,
    refuse_unread,
    refuse_unsaid,
)
from .target import make_target
from .thinning import Thinning

_BY_CLASS = (ClassBalanced, ClassStandardised)
"""Scorers of the scores that another one gives each sample, which are worked out first, part by part."""


def train_proxy(
    options: Options,
    ledger: CostLedger,
    state: State,
    other: nn.Module | None,
    data: Any,
    *,
    warm: WarmStart,
    recorder: Recorder | None = None,
) -> tuple[State, Any]:
    """Return the next state, with a proxy trained on `data`, and what the trainer returned.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: where the last round ended.
        other: a network to train instead of a pruned one, or None.
        data: dataset with labels.
        warm: go on from the last trained proxy, as it is or shrunk and perturbed.
        recorder: watches the training, or None.
    """
    options, number = options.at(len(data)), state.round + 1
    refuse_unsaid(options.trainer, data)
    if state.synced is not None:  # V2: the next proxies are cut from the target of what was labelled by then
        state = State(state.synced, channel_map=state.channel_map, report=state.report, round=state.round)
    elif state.report is not None and state.report.pruning_ratio != options.ratio:
        state = State(state.dense, round=state.round)
    if state.start is None:
        state = cut(options, ledger, state, other, data)
        state = replace(state, start=state.dense) if options.gradual else _recalibrated(options, ledger, state, data)
    # Without warm starts a round is a function of its data; with them, batches must not repeat themselves.
    seed = options.seed("train_proxy", number if warm else 0)
    watched: dict[str, Any] = {} if recorder is None else {"recorder": recorder}
    if options.gradual and not (warm and state.trained is not None):
        state, history = _train_gradually(options, ledger, state, data, seed, watched)
    else:
        begun, trainer = beginning(options, state, warm)
        proxy = copied(begun)
        with ledger.stage("train_proxy", round=number, network="proxy", dense=state.dense) as stage:
            stage.watch(proxy)
            history = trainer.fit(proxy, data, seed=seed, **watched)
        _warn_if_unchanged(trainer, begun, proxy)
        state = replace(state, trained=proxy, round=number, begun=(begun, seed, trainer))
    state = replace(state, snapshots=() if recorder is None else _fitting(recorder.snapshots, state.trained))
    if options.sync_every and number % options.sync_every == 0 and state.channel_map is not None:
        state = replace(state, synced=make_target(options, ledger, state, data, sync=True))
    return state, history


def _warn_if_unchanged(trainer: Trainer, before: nn.Module, after: nn.Module) -> None:
    """Say so where somebody's own training has left every weight that it could have changed as it was."""
    if isinstance(trainer, TorchTrainer):  # takes the steps it is told to, however small
        return
    old = dict(before.named_parameters())
    trained = {name: p.detach() for name, p in after.named_parameters() if p.requires_grad}
    if trained and all(name in old and torch.equal(old[name].to(p.device), p) for name, p in trained.items()):
        warnings.warn(
            f"{type(trainer).__name__}.fit left all {len(trained)} trainable weights of the proxy as they were: let it "
            "train the network that it is given, with an optimiser made of that one's parameters, for an epoch or more "
            "at a rate above 0",
            NoEffectWarning,
            stacklevel=4,
        )


def _train_gradually(
    options: Options, ledger: CostLedger, state: State, data: Any, seed: int, watched: dict[str, Any]
) -> tuple[State, Any]:
    """Return the next state, with a proxy that was thinned while it was trained, and what the trainer returned."""
    number, trainer = state.round + 1, cast(Any, options.trainer)
    network, example = copied(state.dense), _example(options, state, data)
    with ledger.stage("train_proxy", round=number, network="proxy", dense=state.dense) as stage:
        stage.watch(network)
        thinning = Thinning(options, ledger, state, network, example, stage)
        history = trainer.fit(network, data, seed=seed, on_epoch=thinning, **watched)
        proxy = thinning.proxy()
    trained = replace(
        state,
        channel_map=proxy.channel_map,
        report=proxy.report(),
        trained=proxy.module,
        round=number,
        begun=None,  # it cannot be run again without thinning
    )
    return trained, history


def _fitting(snapshots: tuple[Snapshot, ...], network: nn.Module | None) -> tuple[Snapshot, ...]:
    """Return the snapshots of the shapes `network` has: those from before it was thinned are of another one."""
    assert network is not None
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return tuple(s for s in snapshots if {name: tensor.shape for name, tensor in s.weights.items()} == shapes)


def prepare(options: Options, ledger: CostLedger, state: State, other: nn.Module | None, data: Any) -> State:
    """Return `state` with a proxy that answers as it was cut: for networks that have been trained elsewhere."""
    options = options.at(0)
    state = _recalibrated(options, ledger, cut(options, ledger, state, other, data), data)
    return replace(state, trained=copied(state.start), start=state.dense if options.gradual else state.start)


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
    pruned = state.channel_map is not None and options.ratio > 0
    if options.recalibrate and pruned and trained_statistics(state.dense):
        start = copied(state.start)
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
        if options.sync_importance != "same":
            importance = options.sync_importance
        elif state.report.pruning_ratio == options.ratio:  # else they are not as many as before
            return Proxy(rebuild(state.dense, state.channel_map), state.channel_map, state.report)
    return prune(
        state.dense,
        _example(options, state, data),
        options.ratio,
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
    epochs, fewer = (epochs_of(t) for t in (options.trainer, options.target_trainer or options.trainer))
    share = 1.0 if epochs is None or fewer is None or epochs < 1 else fewer / epochs
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
    past: Past | None = None,
    *,
    stage: str = "rank",
) -> Selection:
    """Return what `scorer` picks with the trained proxy.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: with a trained proxy.
        scorer: who picks.
        candidates: the pool, the rows that may be picked, int64 [m], and how many to pick.
        labelled: dataset of what is labelled, for scorers that read its features or logits; None: nothing is.
        rng: breaks ties and draws.
        past: what is known besides the trained proxy's answers: its training, given labels.
        stage: what the ledger calls ranking: "rank", or "coreset" of labelled data.

    Raises:
        InputError: the scorer returned something else than k different rows of the candidates.
        NonFiniteError: scores with NaN or infinity.
    """
    (data, rows, k), needs = candidates, check_needs(scorer)
    if past is not None:
        past = replace(past, names=dynamics_of(scorer))
    if isinstance(scorer, Composed):  # each stage reads what it needs, of the rows that it sees

        def pick(part: Scorer, rows: Tensor, k: int, rng: RngLike) -> Selection:
            return rank(options, ledger, state, part, (data, rows, k), labelled, rng, past, stage=stage)

        picked = checked_picks(scorer, scorer.compose(pick, rows, k, rng), rows, k)
    else:
        signals, scores = _read(options, ledger, state, scorer, data, rows, labelled, past)
        with ledger.stage(stage, round=state.round, network="proxy"):
            if scores is None:
                picked = picks_of(scorer, signals, k, rng)
            elif isinstance(scorer, _BY_CLASS):
                picked = scorer.select_scored(scores, signals, k, rng=rng)
            else:
                picked = select_top(type(scorer).__name__, scores, signals, k, rng)
    if not needs & {"labels", "dynamics"}:
        return picked
    return replace(picked, labels="predicted" if past is None or past.labels is None else "given")


def _read(
    options: Options,
    ledger: CostLedger,
    state: State,
    scorer: Scorer,
    data: Any,
    rows: Tensor,
    labelled: Any,
    past: Past | None,
) -> tuple[Signals, Tensor | None]:
    """Return the signals of `rows` and None; or, of a scorer of single samples, labels alone and scores, float [m]."""
    needs, point = check_needs(scorer), scorer.scorer if isinstance(scorer, _BY_CLASS) else scorer
    if not needs:
        return Signals(rows), None
    with scoring(options, ledger, state, data, needs, past) as network:
        read = (options.trainer, network)
        known = labelled_signals(*read, labelled, needs, data, features_dtype=options.features_dtype)
        if past is not None:
            past = past.with_gradients(*read, data, rows.split(CHUNK))
        if isinstance(point, PointScorer):  # a score per row, and perhaps a label, is all that stays in memory
            scores, labels = point_scores(point, *read, data, rows, needs, known, past)
            return Signals(rows, labels=labels), scores
        stored: dict[str, Any] = {"features_dtype": options.features_dtype, "features_path": options.features_path}
        signals = replace(read_signals(*read, data, rows, needs, past, **stored), **known)
        refuse_unread(scorer, signals)
        return signals, None


@contextlib.contextmanager
def scoring(
    options: Options, ledger: CostLedger, state: State, data: Any, needs: frozenset[str], past: Past | None = None
) -> Iterator[nn.Module]:
    """Measure scoring and yield the network to score with: BatchNorm folded where only logits are read."""
    assert state.trained is not None
    with ledger.stage("score", round=state.round, network="proxy", dense=state.dense) as stage:
        network = stand_in(state.trained)
        if options.fold_batchnorm and needs == LOGITS and batchnorms(network):
            network = fold_batchnorm(network, called_with(options.trainer, network, data)) or network
        stage.watch(network, *([] if past is None or past.network is None else [past.network]))
        yield network


def called_with(trainer: Trainer, model: nn.Module, data: Any) -> Any:
    """Return what the trainer calls `model` with for two rows: a tensor, a tuple or a dict, on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    call = first_call(trainer, model, data)
    return as_inputs(*tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, call))
