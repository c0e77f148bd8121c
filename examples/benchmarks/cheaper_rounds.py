"""What the ways to make rounds cheaper cost and give: seconds and MACs of each stage, accuracy of the proxies.

    python examples/benchmarks/cheaper_rounds.py --data fashion-mnist --root data --pool 15000 --epochs 60

Every way runs the same loop from the same network and first labels on one thread. Accuracy is that of the proxy on test
pictures after each round; seconds are of the process. Pictures are thinned to every `--every`-th pixel.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import NAMES, Images, load
from networks import ResNet

from prunefuse_al import EarlyStopping, FallingRatio, PrunedProxySelector, ShrinkPerturb, TorchTrainer
from prunefuse_al.data.randomness import isolated_rng


def ways(args: argparse.Namespace) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return name -> (options of the trainer, options of the selector)."""
    plateau = EarlyStopping(monitor="train_loss", patience=3, min_delta=0.02)
    labels = (args.initial, args.initial + (args.rounds - 1) * args.k)
    return {
        "fresh": ({}, {}),
        "fresh, a third of the epochs": ({"epochs": max(1, round(args.epochs / 3))}, {}),
        "warm, a third": ({}, {"warm_start": ShrinkPerturb(1, 0, epochs=1 / 3)}),
        "shrunk and perturbed, a third": ({}, {"warm_start": ShrinkPerturb(epochs=1 / 3)}),
        "stopped on a plateau": ({"early_stopping": plateau, "scheduler": "constant"}, {}),
        "a fifth of the pool": ({}, {"candidate_fraction": 0.2}),
        "falling ratio, 0.7 to 0.4": ({}, {"pruning_ratio": FallingRatio(0.7, 0.4, labels)}),
    }


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    images = load(args.data, args.root)
    for seed in range(args.seeds):
        print(f"seed {seed:<27} train s  score s  train GMACs  score GMACs  accuracy of each round's proxy, %")
        for name, (trainer, selector) in ways(args).items():
            print(f"{name:32} {one_way(args, images, seed, trainer, selector)}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file")
    parser.add_argument("--root", default="data", help="folder with the raw files")
    parser.add_argument("--pool", type=int, default=15_000)
    parser.add_argument("--every", type=int, default=2, help="which pixels are kept")
    parser.add_argument("--initial", type=int, default=200)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def one_way(
    args: argparse.Namespace, images: Images, seed: int, trainer: dict[str, Any], selector: dict[str, Any]
) -> str:
    """Run one loop and return its line."""
    X, X_test = (np.ascontiguousarray(x[..., :: args.every, :: args.every]) for x in (images.x_train, images.x_test))
    X, y, X_test, y_test = X[: args.pool], images.y_train[: args.pool], X_test[:5000], images.y_test[:5000]
    augmented, plain = images.transforms()
    with isolated_rng(seed):
        net = ResNet((1, 1, 1), (16, 32, 64), X.shape[1], images.classes)
    fitting = {"epochs": args.epochs, "transform": augmented, "eval_transform": plain, "progress": False, **trainer}
    chosen = PrunedProxySelector(
        net, **{"trainer": TorchTrainer(device="cpu", **fitting), "scorer": "margin", "random_state": seed, **selector}
    )
    labelled = np.random.default_rng(seed).permutation(len(X))[: args.initial]
    seconds, accuracy = {"train": 0.0, "score": 0.0}, []
    for number in range(args.rounds):
        start = time.process_time()
        chosen.fit(X[labelled], y[labelled])
        seconds["train"] += time.process_time() - start
        accuracy.append(100 * float((chosen.predict_proba(X_test).argmax(1) == y_test).mean()))
        if number + 1 == args.rounds:
            break
        start = time.process_time()
        unlabelled = np.setdiff1d(np.arange(len(X)), labelled)
        labelled = np.append(labelled, chosen.query(X, args.k, candidates=unlabelled))
        seconds["score"] += time.process_time() - start
    totals = chosen.costs.totals()
    macs = [totals[stage]["macs"] / 1e9 for stage in ("train_proxy", "score")]
    shown = " ".join(f"{value:.1f}" for value in accuracy)
    return f"{seconds['train']:7.1f}  {seconds['score']:7.1f}  {macs[0]:11.1f}  {macs[1]:11.1f}  {shown}"


if __name__ == "__main__":
    main()
