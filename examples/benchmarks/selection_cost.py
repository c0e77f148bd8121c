"""What selection costs with the proxy and with the dense network: training it and scoring the pool, round by round.

    python examples/benchmarks/selection_cost.py --data fashion-mnist --root data
    python examples/benchmarks/selection_cost.py --data fashion-mnist --root data --network resnet18 --epochs 2

Both selectors go through the same code (the dense one has pruning_ratio=0). They take turns within every round, the
one that goes first changing, so that a machine whose speed drifts treats them alike. Printed are the MACs
and the seconds of each round, their ratios, and the median of the ratios of seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import networks
from data import NAMES, Images, load

from prunefuse_al import PrunedProxySelector, TorchTrainer

SELECTION = ("train_proxy", "score", "rank")
NETWORKS = {
    "resnet20": lambda channels, classes: networks.cifar_resnet(20, channels, classes),
    "resnet18": networks.resnet18,
}


def main(argv: list[str] | None = None) -> None:
    """Run both loops side by side and print what they cost."""
    args = parse(argv)
    images = load(args.data, args.root)
    rows = np.random.default_rng(args.seed).permutation(len(images.y_train))[: args.pool]
    x, y = images.x_train[rows], images.y_train[rows]
    selectors = {"proxy": selector(images, args, args.pruning_ratio), "dense": selector(images, args, 0.0)}
    labelled = {name: np.arange(args.per_round) for name in selectors}
    ratios = []
    print(f"{args.network}, p = {args.pruning_ratio}, {args.epochs} epochs, pool of {len(y):,}, {args.data}")
    print(
        f"{'labels':>7} {'proxy s':>9} {'dense s':>9} {'ratio':>6} {'proxy GMACs':>12} {'dense GMACs':>12} {'ratio':>6}"
    )
    for number in range(1, args.rounds + 1):
        for name in sorted(selectors, reverse=bool(number % 2)):  # the dense one goes first every other round
            own = labelled[name]
            picked = one_round(selectors[name], x, y, own, args.per_round)
            labelled[name] = np.concatenate([own, picked])
        proxy, dense = (cost(selectors[name], number) for name in ("proxy", "dense"))
        ratios.append(proxy[0] / dense[0])
        print(
            f"{number * args.per_round:>7,} {proxy[0]:>9.2f} {dense[0]:>9.2f} {ratios[-1]:>6.3f} "
            f"{proxy[1] / 1e9:>12,.1f} {dense[1] / 1e9:>12,.1f} {proxy[1] / dense[1]:>6.3f}"
        )
    totals = [sum(cost(selectors[name], n)[1] for n in range(1, args.rounds + 1)) for name in ("proxy", "dense")]
    print(
        f"selection, proxy over dense: {totals[0] / totals[1]:.3f} in MACs, {statistics.median(ratios):.3f} in seconds"
    )


def one_round(chooser: PrunedProxySelector, x: np.ndarray, y: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """Train on what is labelled and pick the next `k` rows."""
    candidates = np.setdiff1d(np.arange(len(y)), own)
    return chooser.fit(x[own], y[own]).query(x, k, candidates)


def cost(chooser: PrunedProxySelector, number: int) -> tuple[float, float]:
    """Return seconds and MACs of one round of selection."""
    rows = [row for row in chooser.costs.rows() if row.round == number and row.stage in SELECTION]
    return sum(row.seconds for row in rows), float(sum(row.forward_macs + row.backward_macs for row in rows))


def selector(images: Images, args: argparse.Namespace, pruning_ratio: float) -> PrunedProxySelector:
    """Return a selector that starts from weights given by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        dense = NETWORKS[args.network](images.x_train.shape[1], images.classes)
    transform, eval_transform = images.transforms()
    trainer = TorchTrainer(
        args.epochs,
        64,
        transform=transform,
        eval_transform=eval_transform,
        device=args.device,
        precision=args.precision,
        channels_last=args.channels_last,
        compile="auto" if args.compile else False,
        progress=False,
    )
    return PrunedProxySelector(dense, pruning_ratio, scorer="margin", trainer=trainer, random_state=args.seed)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file (default: digits)")
    parser.add_argument("--root", default="data", help="folder with the data (default: data)")
    parser.add_argument("--network", default="resnet20", choices=NETWORKS)
    parser.add_argument("--pruning-ratio", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=200)
    parser.add_argument("--pool", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", help="default: fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="TorchTrainer(compile='auto')")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
