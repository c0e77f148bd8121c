"""Core-set mode: all labels are known, and the question is which part of the data is worth training on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..costs import CostLedger
from ..data import labels_of, subset
from ..errors import InputError
from ..network import SIGMOID, Outputs, of_trainer
from ..scorers import MASK, AdaPruner, check_k, dynamics_of, masks_in
from ..training import RECORDED, Known, MaskLearner, Weighed, class_numbers
from ..types import RngLike, Scorer, Selection, alterable, altered, as_rng, statement
from .answers import check_needs
from .options import Options
from .picking import alike, of_first
from .ranking import Ranking
from .rounds import train_proxy
from .state import State, Trained
from .watching import known_of, recorder_for, traced


def budget(fraction: float, n: int) -> int:
    """Return how many of n samples a fraction is, rounded, at least one.

    Raises:
        InputError: not 0 < fraction <= 1.
    """
    what = f"the share of the {n:,} samples to keep, 0 < fraction <= 1"
    fraction = checks.number("fraction", fraction, above=0, most=1, what=what)
    return check_k("coreset", max(1, round(fraction * n)), n)


def choose(
    options: Options, ledger: CostLedger, state: State, data: Any, k: int, scorer: Scorer, rng: RngLike
) -> tuple[Trained, Any, Selection]:
    """Return the next state, what the trainer returned, and the k samples of `data` that `scorer` keeps.

    The proxy is trained once, on all of `data`. Given labels stand where a pool has predicted ones, and what the
    training said about each sample is taken from the training itself; only gradients are asked for afterwards.
    """
    needs, labels = check_needs(scorer), None
    if needs & {"labels", "dynamics"}:
        labels = _class_numbers(data, of_trainer(options.trainer))
        _check_all_are_trained_on(options, scorer)
    recorder = recorder_for(options.kind.trains(options.trainer), scorer, state)
    trained, history = train_proxy(options, ledger, state, data, warm=False, recorder=recorder)
    trained, scorer = traced(options, ledger, trained, scorer)
    known = None
    if labels is not None:
        recorded = {} if recorder is None else recorder.dynamics
        for mask in masks_in(scorer):
            trained, recorded = _masked(options, ledger, trained, data, mask, k / len(data), recorded)
        known = replace(known_of(trained, scorer) or Known(), labels=labels, recorded=recorded)
    labelled = data if "labelled_labels" in needs else None  # how many labels samples have is known of all
    ranking = Ranking(options, ledger, trained, data, labelled, known, stage="coreset")
    rows, rng = torch.arange(len(data)), as_rng(rng)
    processes = alike(options, rows, k, rng)
    picked = of_first(processes, ranking.pick(scorer, rows, k, rng))
    return replace(trained, labelled=subset(data, picked.indices)), history, picked


def _masked(
    options: Options,
    ledger: CostLedger,
    state: Trained,
    data: Any,
    mask: AdaPruner,
    keep: float,
    recorded: dict[str, Tensor],
) -> tuple[Trained, dict[str, Tensor]]:
    """Return a state whose proxy was trained on along with a mask over all of `data`, and what is known with it."""
    labels = labels_of(data)
    assert labels is not None  # `_class_numbers` has looked
    task = options.task(ledger, state.dense, data, state.round, n=len(data))
    learner = MaskLearner(len(data), keep, mask.rate)
    with ledger.stage("retrain_proxy", round=state.round, network="proxy", dense=state.dense) as stage:
        training = options.kind.go_on(task, state.proxy, stage)
        stage.watch(training.network)
        trainer, read = training.trainer or options.trainer, data if training.data is None else training.data
        if not alterable(trainer, "epochs"):
            name = type(trainer).__name__
            raise InputError(f"coreset: {mask!r} trains on for {mask.epochs} epochs, and {name} has no `epochs` to set")
        weighed = Weighed(read, labels, learner.weights)
        seed = options.seed("train_proxy", state.round)
        trainer = altered(trainer, epochs=mask.epochs)
        trainer.fit(training.network, weighed, seed=seed, **training.watching, recorder=learner)
        proxy = training.proxy()
    return replace(state, proxy=proxy), {**recorded, MASK: learner.mask}


def _class_numbers(data: Any, outputs: Outputs | None) -> Tensor:
    given = labels_of(data)
    assert given is not None  # `labelled_dataset` has looked
    labels = class_numbers(given, independent=outputs is not None and outputs.kind == SIGMOID)
    if labels is None:
        raise InputError(
            f"coreset: labels are {given.dtype} {list(given.shape)}; the number of a class for each sample is needed: "
            "take a scorer that goes by no labels, such as k_center, or ml_entropy for labels that are independent"
        )
    if (least := int(labels.min())) < 0:
        count = int((labels < 0).sum())
        raise InputError(f"coreset: {count:,} labels are negative, such as {least}; drop samples without a class")
    return labels


def _check_all_are_trained_on(options: Options, scorer: Scorer) -> None:
    rule = statement(options.trainer).early_stopping
    if rule is None or not rule.holds_out or not dynamics_of(scorer) & (RECORDED | {MASK}):
        return
    held = f"{rule.validation_fraction:.0%}"
    raise InputError(
        f"coreset: {scorer!r} compares how samples were learnt, and early stopping holds {held} of them out: "
        "pass EarlyStopping(validation_data=...) or EarlyStopping(monitor='train_loss'), or a trainer without it"
    )
