"""The steps of a round: make a proxy if there is none that fits, train it, and in V2's turn train the target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..costs import CostLedger, Stage
from ..errors import CostWarning, NoEffectWarning, warn
from ..network import copied
from ..proxies import AnyProxy, Task, Training
from ..pruning import Proxy
from ..training import Recorder, ShrinkPerturb, Snapshot, TorchTrainer, shrink_perturb
from ..types import Trainer, altered, epochs_of
from .labelled import refuse_unsaid
from .options import Options, WarmStart
from .state import Begun, State, Trained, Uncut
from .target import make_target


def train_proxy(
    options: Options, ledger: CostLedger, state: State, data: Any, *, warm: WarmStart, recorder: Recorder | None = None
) -> tuple[Trained, Any]:
    """Return the next state, with a proxy trained on `data`, and what the trainer returned.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: where the last round ended.
        data: dataset with labels.
        warm: go on from the last trained proxy, as it is or shrunk and perturbed.
        recorder: watches the training, or None.
    """
    refuse_unsaid(options.trainer, data)
    last, number = _still_good(options, state, len(data)), state.round + 1
    task = options.task(ledger, last.dense, data, number, n=len(data))
    start = last.start if isinstance(last, Trained) else _cut(options, task, last.before)
    # Without warm starts a round is a function of its data; with them, batches must not repeat themselves.
    seed = options.seed("train_proxy", number if warm else 0)
    watched: dict[str, Any] = {} if recorder is None else {"recorder": recorder}
    with ledger.stage("train_proxy", round=number, network="proxy", dense=task.dense) as stage:
        if warm and isinstance(last, Trained):
            training = _going_on(options, task, last, warm, stage)
        else:
            training = options.kind.begin(task, start, stage)
        stage.watch(training.network)
        trainer, read = training.trainer or options.trainer, data if training.data is None else training.data
        history = trainer.fit(training.network, read, seed=seed, **training.watching, **watched)
        proxy = training.proxy()
    begun = None
    if training.begun is not None:
        _warn_if_unchanged(trainer, training.begun, training.network)
        begun = Begun(training.begun, seed, trainer, training.data)
    if start.module is task.dense:  # thinned while it was trained: the next training leads to these channels
        start = proxy.with_module(task.dense)
    snapshots = () if recorder is None else _fitting(recorder.snapshots, training.network)
    done = Trained(task.dense, start, proxy, number, begun, snapshots, labelled=data)
    if options.sync_every and number % options.sync_every == 0 and not options.kind.serves(task, proxy):
        done = replace(done, synced=make_target(options, ledger, done, data, sync=True))
    return done, history


def prepare(options: Options, ledger: CostLedger, state: Uncut, data: Any, n: int = 0) -> Trained:
    """Return a state with a proxy that answers as it was cut: for networks that have been trained elsewhere.

    Args:
        options: see `Options`.
        ledger: gets the rows.
        state: without a proxy.
        data: dataset, with labels or without; None where nothing is read from it.
        n: how many samples are labelled, on which the pruning ratio may depend.
    """
    task = options.task(ledger, state.dense, data, state.round + 1, n=n)
    prepared = options.kind.prepare(task)
    if state.before is None:
        _warn_of_costs(options, prepared.proxy)
    return Trained(state.dense, prepared.start, prepared.proxy, state.round)


def _still_good(options: Options, state: State, n: int) -> State:
    """Return the state that a round goes on from: without the proxy, where another one has to be cut."""
    if isinstance(state, Uncut):
        return state
    if state.synced is not None:  # V2: the next proxies are cut from the target of what was labelled by then
        return Uncut(state.synced, state.round, before=state.proxy)
    return Uncut(state.dense, state.round) if options.kind.stale(state.proxy, n) else state


def _cut(options: Options, task: Task, before: AnyProxy | None) -> AnyProxy:
    start = options.kind.cut(task, before)
    if before is None:  # not once more after each sync
        _warn_of_costs(options, start)
    return start


def _going_on(options: Options, task: Task, last: Trained, warm: WarmStart, stage: Stage) -> Training:
    """Return a training that goes on from the last proxy, as it is or shrunk."""
    if not isinstance(warm, ShrinkPerturb) or last.round == 0:  # then it is as it was cut: there is nothing to shrink
        return options.kind.go_on(task, last.proxy, stage)
    network = copied(last.proxy.module)
    shrink_perturb(network, last.start.module, warm, options.seed("perturb", last.round + 1))
    training = options.kind.go_on(task, last.proxy.with_module(network), stage)
    if warm.epochs is None:
        return training
    whole = epochs_of(options.trainer)
    assert whole is not None  # `check_warm` has looked
    return replace(training, trainer=altered(training.trainer or options.trainer, epochs=warm.epochs_of(whole)))


def _warn_if_unchanged(trainer: Trainer, before: nn.Module, after: nn.Module) -> None:
    """Say so where somebody's own training has left every weight that it could have changed as it was."""
    if isinstance(trainer, TorchTrainer):  # takes the steps it is told to, however small
        return
    old = dict(before.named_parameters())
    trained = {name: p.detach() for name, p in after.named_parameters() if p.requires_grad}
    if trained and all(name in old and torch.equal(old[name].to(p.device), p) for name, p in trained.items()):
        warn(
            f"{type(trainer).__name__}.fit left all {len(trained)} trainable weights of the proxy as they were: let it "
            "train the network that it is given, with an optimiser made of that one's parameters, for an epoch or more "
            "at a rate above 0",
            NoEffectWarning,
        )


def _fitting(snapshots: tuple[Snapshot, ...], network: nn.Module) -> tuple[Snapshot, ...]:
    """Return the snapshots of the shapes `network` has: those from before it was thinned are of another one."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return tuple(s for s in snapshots if {name: tensor.shape for name, tensor in s.weights.items()} == shapes)


def _warn_of_costs(options: Options, proxy: AnyProxy) -> None:
    """Say so where V2 cannot pay: a proxy every round and a target every `sync_every` cost a dense network a round."""
    if not options.sync_every or not isinstance(proxy, Proxy):
        return
    epochs, fewer = (epochs_of(t) for t in (options.trainer, options.target_trainer or options.trainer))
    share = 1.0 if epochs is None or fewer is None or epochs < 1 else fewer / epochs
    report = proxy.report()
    total = report.mac_share + share / options.sync_every
    if total >= 1:
        warn(
            f"V2 with sync_every={options.sync_every} costs about {total:.2f} of choosing with the dense network: "
            f"{report.mac_share:.2f} for the proxy of every round and {share / options.sync_every:.2f} for training "
            "the target between rounds; raise sync_every, prune more, or leave it out (V1)",
            CostWarning,
        )
