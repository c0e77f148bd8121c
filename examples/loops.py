"""The loops of the quickstart: with the proxy, with the dense network, with random labels."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from dataclasses import dataclass, field
from typing import Any

import networks
import numpy as np
import torch
from data import Images
from modAL.models import ActiveLearner

from prunefuse_al import CostLedger, PruneFuseEstimator, TorchTrainer, selector_preset

if multiprocessing.current_process().name != "MainProcess":  # what is repaired in modAL is said once, by that one
    logging.getLogger("prunefuse_al.adapters.modal").setLevel(logging.ERROR)
from prunefuse_al.adapters.modal import query_strategy

TARGET_STAGES = ("fuse", "recalibrate_target", "train_target")


@dataclass
class Run:
    """One loop on one seed: after each training, labels used, test accuracy and MACs paid; and all costs."""

    labels: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)  # of the network a user gets: fused target, or dense
    proxy_accuracy: list[float] = field(default_factory=list)
    macs: list[float] = field(default_factory=list)
    costs: CostLedger = field(default_factory=CostLedger)


@dataclass(frozen=True)
class Bench:
    """What all loops of one seed share."""

    images: Images
    args: argparse.Namespace
    seed: int
    dense: torch.nn.Module

    def estimator(self, epochs: int | None = None, **options: Any) -> PruneFuseEstimator:
        """Return an estimator of the seed's network, which it copies: all start from the same weights."""
        return PruneFuseEstimator(
            self.dense,
            classes=np.arange(self.images.classes),
            trainer=self.trainer(epochs or self.args.epochs),
            random_state=self.seed,
            **options,
        )

    def trainer(self, epochs: int) -> TorchTrainer:
        """Return what trains every network here, from the rate of --lr down to 0 along a cosine."""
        transform, eval_transform = self.images.transforms()
        args = self.args
        return TorchTrainer(
            epochs,
            args.batch_size,
            optimizer=args.optimizer,
            lr=args.lr,
            transform=transform,
            eval_transform=eval_transform,
            device=args.device,
            progress=False,
        )


def run_seed(images: Images, args: argparse.Namespace, seed: int) -> dict:
    """Return the loops of one seed, and the dense network from scratch on the labels that the proxy chose."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dense = networks.build(args.network, images.x_train.shape[1], images.classes, images.x_train.shape[-1])
    bench = Bench(images, args, seed, dense)
    bench.estimator(epochs=1, pruning_ratio=0).fit(images.x_train[:64], images.y_train[:64])  # torch sets itself up
    own = {
        "scorer": args.scorer,
        "pruning_ratio": args.pruning_ratio,
        "target_trainer": bench.trainer(args.target_epochs),
    }
    paper = {**selector_preset("paper"), "pruning_ratio": args.pruning_ratio}
    rounds = [args.per_round] * args.rounds
    learner, proxy = loop(bench, {**selector_preset("recommended"), **own}, rounds, targets="every budget")
    report = learner.estimator.selector_.proxy.report()
    longer = round(args.target_epochs * (1 + work_of_proxies(learner.estimator.costs_)))
    chosen, test = (learner.X_training, learner.y_training), (images.x_test, images.y_test)
    return {
        **{"proxy": proxy, "report": report, "longer": longer},
        "paper": loop(bench, paper, rounds, targets="last budget")[1],
        "dense": loop(bench, {"pruning_ratio": 0, "scorer": args.scorer}, rounds)[1],
        "random": loop(bench, {"pruning_ratio": 0, "scorer": "random"}, [sum(rounds)])[1],
        "scratch": bench.estimator(args.target_epochs, pruning_ratio=0).fit(*chosen).score(*test),
        "scratch_longer": bench.estimator(longer, pruning_ratio=0).fit(*chosen).score(*test),
    }


def work_of_proxies(ledger: CostLedger) -> float:
    """Return the work of training all proxies, as a share of that of training the last target."""
    last = max(row.round for row in ledger.rows())
    target = sum(row.macs for row in ledger.rows() if row.stage == "train_target" and row.round == last)
    return sum(row.macs for row in ledger.rows() if row.stage in ("train_proxy", "retrain_proxy")) / target


def loop(
    bench: Bench, options: dict[str, Any], rounds: list[int], targets: str = "no budget"
) -> tuple[ActiveLearner, Run]:
    """Run modAL's loop, so many labels each round; at every budget measure what a user who stopped there would have."""
    args, x, y, run = bench.args, bench.images.x_train, bench.images.y_train, Run()
    rows = np.random.default_rng(bench.seed).permutation(len(y))[: args.pool]
    first, pool = rows[: args.initial], rows[args.initial :]
    strategy = query_strategy(options["scorer"], random_state=bench.seed)
    learner = ActiveLearner(bench.estimator(**options), strategy, X_training=x[first], y_training=y[first])
    for number, k in enumerate([0, *rounds]):
        if number:
            picked, samples = learner.query(x[pool], n_instances=k)
            learner.teach(samples, y[pool[picked]])
            pool = np.delete(pool, picked)
        with_target = targets == "every budget" or (targets == "last budget" and number == len(rounds))
        measure(learner, bench.images, run, with_target)
    return learner, run


def measure(learner: ActiveLearner, images: Images, run: Run, with_target: bool) -> None:
    """Add a point to `run`."""
    estimator = learner.estimator
    if with_target:
        run.proxy_accuracy.append(learner.score(images.x_test, images.y_test))
        estimator.fit_target()  # from here to the next teach, the estimator answers with the target
    run.accuracy.append(learner.score(images.x_test, images.y_test))
    run.labels.append(len(learner.y_training))
    run.costs = paid(estimator.costs_)
    run.macs.append(run.costs.totals()["total"]["macs"])


def paid(ledger: CostLedger) -> CostLedger:
    """Leave out what only this comparison needs: testing, and the targets of budgets before the last."""
    last = max(row.round for row in ledger.rows())
    rows = (row for row in ledger.rows() if row.stage not in TARGET_STAGES or row.round == last)
    return CostLedger(row for row in rows if row.stage != "predict")
