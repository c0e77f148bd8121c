"""Active learning with a pruned proxy, next to the same loop with the dense network, and random labels.

    python examples/quickstart.py  # digits, no download
    python examples/quickstart.py --data fashion-mnist --root data --pool 6000 --test 2000  # ResNet-20
    python examples/quickstart.py --data pictures.npz --network resnet18 --pruning-ratio 0.7

Needs modAL and matplotlib: pip install "prunefuse_al[modal,plots]". Every loop starts from the same weights and the
same labels for the same seed. Printed and drawn (--out): accuracy per budget, the fused target against the dense
network from scratch on the same labels, and what everything cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import networks
import numpy as np
import reporting
import torch
from data import NAMES, Images, load
from modAL.models import ActiveLearner

from prunefuse_al import SCORERS, CostLedger, PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.modal import query_strategy

TARGET_STAGES = ("fuse", "recalibrate_target", "train_target")
SMALL = {"network": "resnet8", "initial": 40, "per_round": 40, "epochs": 10, "batch_size": 16, "threads": 1}
LARGE = {"network": "resnet20", "initial": 500, "per_round": 500, "epochs": 20, "batch_size": 64, "threads": None}


@dataclass
class Run:
    """One loop on one seed: after each training, labels used, test accuracy and MACs paid; and all costs."""

    labels: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)  # of the network a user gets: fused target, or dense
    proxy_accuracy: list[float] = field(default_factory=list)
    macs: list[float] = field(default_factory=list)
    costs: CostLedger = field(default_factory=CostLedger)


def main(argv: list[str] | None = None) -> None:
    """Run all loops on all seeds, print the tables, draw the figure."""
    args = parse(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    images = load(args.data, args.root)
    images = replace(images, x_test=images.x_test[: args.test], y_test=images.y_test[: args.test])
    results: list[dict] = []
    warm_up(images, args)
    for seed in args.seeds:
        results.append(run_seed(images, args, seed))
        print(f"seed {seed}: fused target {results[-1]['fused']:.1%}, from scratch {results[-1]['scratch']:.1%}")
    print("\n" + reporting.tables(images, args, results))
    reporting.figure(results, args.out)
    print(f"\nfigure: {args.out}")


def warm_up(images: Images, args: argparse.Namespace) -> None:
    """Let torch import and set up what it needs, so that the first seed does not pay for it."""
    short = {"rounds": 1, "epochs": 1, "pool": args.initial + args.per_round}
    run_seed(images, argparse.Namespace(**{**vars(args), **short}), seed=0)


def run_seed(images: Images, args: argparse.Namespace, seed: int) -> dict:
    """Return the three loops of one seed, and the dense network from scratch on the labels that the proxy chose."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dense = networks.build(args.network, images.x_train.shape[1], images.classes, images.x_train.shape[-1])

    def estimator(pruning_ratio: float, epochs: int = args.epochs) -> PruneFuseEstimator:
        return PruneFuseEstimator(
            dense,  # is copied: every estimator starts from the same weights
            pruning_ratio,
            classes=np.arange(images.classes),
            scorer=args.scorer,  # known before training, so that what it reads of a training is kept
            trainer=make_trainer(images, args, epochs),
            fine_tune_lr_scale=args.fine_tune_lr_scale,
            random_state=seed,
        )

    rows = np.random.default_rng(seed).permutation(len(images.y_train))[: args.pool]
    first, pool = rows[: args.initial], rows[args.initial :]
    informed, blind = (query_strategy(scorer, random_state=seed) for scorer in (args.scorer, "random"))
    learner, proxy = loop(estimator(args.pruning_ratio), informed, images, first, pool, args)
    _, dense_loop = loop(estimator(0), informed, images, first, pool, args)
    _, random_loop = loop(estimator(0), blind, images, first, pool, args)

    report = learner.estimator.selector_.proxy.report()
    longer = round(args.epochs * (1 + report.proxy_macs / report.dense_macs))
    chosen, test = (learner.X_training, learner.y_training), (images.x_test, images.y_test)
    return {
        **{"proxy": proxy, "dense": dense_loop, "random": random_loop, "report": report, "longer": longer},
        "fused": proxy.accuracy[-1],
        "scratch": estimator(0).fit(*chosen).score(*test),
        "scratch_longer": estimator(0, epochs=longer).fit(*chosen).score(*test),
    }


def loop(
    estimator: PruneFuseEstimator,
    strategy: Callable,
    images: Images,
    first: np.ndarray,
    pool: np.ndarray,
    args: argparse.Namespace,
) -> tuple[ActiveLearner, Run]:
    """Run modAL's loop; at every budget measure what a user who stopped there would have."""
    x, y, run = images.x_train, images.y_train, Run()
    learner = ActiveLearner(estimator, strategy, X_training=x[first], y_training=y[first])
    for number in range(args.rounds + 1):
        if number:
            picked, samples = learner.query(x[pool], n_instances=args.per_round)
            learner.teach(samples, y[pool[picked]])
            pool = np.delete(pool, picked)
        measure(learner, images, run)
    return learner, run


def measure(learner: ActiveLearner, images: Images, run: Run) -> None:
    """Add a point to `run`."""
    estimator = learner.estimator
    if estimator.pruning_ratio:
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


def make_trainer(images: Images, args: argparse.Namespace, epochs: int) -> TorchTrainer:
    """Return what trains every network here, from the rate of --lr down to 0 along a cosine."""
    transform, eval_transform = images.transforms()
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


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options; those not given depend on the data and the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file (default: digits)")
    parser.add_argument("--root", default="data", help="folder with the data, or where to download it (default: data)")
    parser.add_argument("--pool", type=int, help="use no more than so many training pictures, drawn at random")
    parser.add_argument("--test", type=int, help="use no more than so many test pictures, the first ones")
    parser.add_argument("--network", choices=networks.NETWORKS, help="default: resnet8 for digits, else resnet20")
    parser.add_argument("--pruning-ratio", type=float, default=0.5, help="share of channels removed (default: 0.5)")
    parser.add_argument("--scorer", choices=SCORERS, default="margin", help="default: margin")
    parser.add_argument("--rounds", type=int, default=4, help="queries (default: 4)")
    parser.add_argument("--initial", type=int, help="random labels to start with; default: 40 for digits, else 500")
    parser.add_argument("--per-round", type=int, help="labels per query; default: 40 for digits, else 500")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--epochs", type=int, help="of every training; default: 10 for digits, else 20")
    parser.add_argument("--batch-size", type=int, help="default: 16 for digits, else 64")
    parser.add_argument("--lr", type=float, help="learning rate; default: 0.1 for SGD, 0.001 for AdamW (mlp, vit)")
    parser.add_argument("--fine-tune-lr-scale", type=float, default=0.5, help="on --lr after fusing; default: 0.5")
    parser.add_argument("--out", default="quickstart.png", help="the figure (default: quickstart.png)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--threads", type=int, help="of torch; default: 1 for digits, too small for more, else all cores"
    )
    args = parser.parse_args(argv)
    for name, value in (SMALL if args.data == "digits" else LARGE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.optimizer = "adamw" if args.network in ("mlp", "vit") else "sgd"
    args.lr = args.lr or {"adamw": 0.001, "sgd": 0.1}[args.optimizer]
    if not 0 < args.pruning_ratio < 1:
        parser.error(f"--pruning-ratio {args.pruning_ratio}: the dense loop runs anyway; give a share between 0 and 1")
    return args


if __name__ == "__main__":
    main()
