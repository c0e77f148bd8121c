"""What the fused start is worth: the dense network trained on from the fused proxy, and from scratch, epoch by epoch.

    python examples/benchmarks/head_start.py --data fashion-mnist --root data --out head_start.png
    python examples/benchmarks/head_start.py --data cifar10 --root data --size 16 --train 3000 --proxy-epochs 20 \
        --epochs 20 --fused-epochs 10

For every seed one ResNet is drawn, pruned, and the proxy trained. Then four dense networks train on the same labels:
"preserve" and "copy" start as the two ways of fusing that proxy (at a fraction of the rate), "scratch" as the network
was drawn, and "scratch, equal compute" as well, with as many more epochs as the proxy's training cost. All four end
their schedules: an epoch is compared with the *last* epoch of "scratch", where its rate has fallen to almost nothing.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import NAMES, Images, load, smaller
from networks import ResNet

from prunefuse_al import EarlyStopping, TorchTrainer, fuse, prune
from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.training import recalibrate_batchnorm

COLOURS = {"preserve": "tab:blue", "copy": "tab:orange", "scratch": "tab:gray", "scratch, equal compute": "black"}


@dataclass(frozen=True)
class Start:
    """What one seed gave before any fine-tuning.

    Attributes:
        proxy: test accuracy of the trained proxy.
        fused: test accuracy of the network fused by "preserve", and by "copy" before and after its BatchNorm statistics
            are estimated again.
        difference: largest difference between a logit of the proxy and of the network fused by "preserve", over the
            largest logit.
        curves: name of a start -> test accuracy before training and after every epoch.
    """

    proxy: float
    fused: dict[str, float]
    difference: float
    curves: dict[str, np.ndarray]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    images = smaller(load(args.data, args.root), args.size)
    starts = []
    for seed in range(args.seed, args.seed + args.seeds):
        starts.append(one_seed(args, images, seed))
        print(described(seed, starts[-1]), flush=True)
    print(summary(starts))
    if args.out:
        figure(starts, args.out)
        print(f"drawn: {args.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file")
    parser.add_argument("--root", default="data", help="folder with the raw files")
    parser.add_argument("--train", type=int, default=2000, help="labelled pictures, drawn anew for each seed")
    parser.add_argument("--test", type=int, default=2000, help="test pictures looked at after every epoch")
    parser.add_argument("--size", type=int, default=14, help="pictures are averaged down to this size where it divides")
    parser.add_argument("--blocks", type=int, default=3, help="blocks a stage; 3 is ResNet-20")
    parser.add_argument("--narrow", type=int, default=2, help="divides the widths 16, 32, 64")
    parser.add_argument("--ratio", type=float, default=0.5, help="pruning ratio")
    parser.add_argument("--proxy-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=15, help="of every dense network")
    parser.add_argument("--fused-epochs", type=int, default=0, help="of the fused ones, if not as many")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--lr-scale", type=float, default=0.5, help="factor on the rate after fusing")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="", help="PNG to draw")
    return parser.parse_args()


def one_seed(args: argparse.Namespace, images: Images, seed: int) -> Start:
    """Train the proxy and the four dense networks of one seed."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images.x_train))[: args.train]
    tested = rng.permutation(len(images.x_test))[: args.test]
    data = images.x_train[rows], images.y_train[rows]
    test = images.x_test[tested], images.y_test[tested]
    with isolated_rng(seed):
        widths = tuple(width // args.narrow for width in (16, 32, 64))
        dense = ResNet((args.blocks,) * 3, widths, images.x_train.shape[1], images.classes)
    trainer = make_trainer(args, images, test)
    proxy = prune(dense, torch.zeros(2, *images.x_train.shape[1:]), args.ratio)
    plain(trainer, epochs=args.proxy_epochs).fit(proxy.module, data, seed=seed)
    fused = {cross: fuse(dense, proxy, cross=cross) for cross in ("preserve", "copy")}
    logits = {name: trainer.infer(net, test[0]).logits for name, net in (("proxy", proxy.module), *fused.items())}
    before = {name: float((value.argmax(1).numpy() == test[1]).mean()) for name, value in logits.items()}
    recalibrate_batchnorm(fused["copy"], data[0], transform=trainer.eval_transform)
    found = {**before, "copy, recalibrated": accuracy(trainer, fused["copy"], test)}
    more = round(args.proxy_epochs * proxy.report().mac_share)
    curves = {}
    for name, net, scale, epochs in (
        *((cross, net, args.lr_scale, args.fused_epochs or args.epochs) for cross, net in fused.items()),
        ("scratch", copy.deepcopy(dense), 1.0, args.epochs),
        ("scratch, equal compute", copy.deepcopy(dense), 1.0, args.epochs + more),
    ):
        first = accuracy(trainer, net, test)
        watched = copy.copy(trainer).set_params(lr_scale=scale, epochs=epochs)
        history = watched.fit(net, data, seed=seed)
        curves[name] = np.array([first, *(row["val_accuracy"] for row in history.epochs)])
    difference = float((logits["preserve"] - logits["proxy"]).abs().max() / logits["proxy"].abs().max())
    return Start(found.pop("proxy"), found, difference, curves)


def make_trainer(args: argparse.Namespace, images: Images, test: Any) -> TorchTrainer:
    """Return a trainer that looks at the test pictures after every epoch, and never stops by what it sees."""
    train, evaluate = images.transforms()
    watch = EarlyStopping(patience=10**6, monitor="accuracy", validation_data=test)
    return TorchTrainer(
        args.epochs,
        args.batch_size,
        lr=args.lr,
        transform=train,
        eval_transform=evaluate,
        early_stopping=watch,
        progress=False,
    )


def plain(trainer: TorchTrainer, epochs: int) -> TorchTrainer:
    """Return the same trainer without a look at the test pictures: the proxy has its last weights, not its best."""
    return copy.copy(trainer).set_params(epochs=epochs, early_stopping=None)


def accuracy(trainer: TorchTrainer, net: nn.Module, test: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the share of test pictures that are classified rightly."""
    return float((trainer.infer(net, test[0]).logits.argmax(1).numpy() == test[1]).mean())


def needed(curve: np.ndarray, aim: float) -> float:
    """Return after how many epochs a curve is first at `aim`, infinity if never."""
    reached = np.flatnonzero(curve >= aim)
    return float(reached[0]) if len(reached) else float("inf")


def described(seed: int, start: Start) -> str:
    """Return what one seed showed."""
    aim = start.curves["scratch"][-1]
    epochs = {name: needed(curve, aim) for name, curve in start.curves.items()}
    fused = ", ".join(f"{name} {100 * value:.2f} %" for name, value in start.fused.items())
    reached = ", ".join(f"{name} {count:g}" for name, count in epochs.items())
    return (
        f"seed {seed}: proxy {100 * start.proxy:.2f} %; fused, not trained: {fused}; logits differ by "
        f"{start.difference:.1e} of the largest; scratch ends at {100 * aim:.2f} %, reached after epochs: {reached}"
    )


def summary(starts: list[Start]) -> str:
    """Return the table over seeds: where each start is after some epochs, and how long it takes."""
    lines = [f"test accuracy in %, mean ± standard deviation of {len(starts)} seeds; epochs until scratch's last"]
    for name in COLOURS:
        curves = [start.curves[name] for start in starts]
        epochs = len(curves[0]) - 1
        shown = " | ".join(
            f"{when}: {spread([curve[when] for curve in curves])}" for when in sorted({0, 1, epochs // 3, epochs})
        )
        times = [needed(start.curves[name], start.curves["scratch"][-1]) for start in starts]
        lines.append(f"{name:24} {shown} | epochs needed: {', '.join(f'{time:g}' for time in times)} of {epochs}")
    gaps = [100 * (start.fused["preserve"] - start.proxy) for start in starts]
    lines.append(f"preserve - proxy before fine-tuning, in points: {', '.join(f'{gap:+.2f}' for gap in gaps)}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    percent = 100 * np.array(values)
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")


def figure(starts: list[Start], path: str) -> None:
    """Draw the curves, each seed thin and their mean thick."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, ax = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, curves in ((name, [100 * start.curves[name] for start in starts]) for name in COLOURS):
        for curve in curves:
            ax.plot(curve, color=COLOURS[name], alpha=0.25, linewidth=1)
        ax.plot(np.mean(curves, 0), color=COLOURS[name], label=name, linewidth=2)
    proxy = 100 * np.mean([start.proxy for start in starts])
    ax.axhline(proxy, color="tab:green", linestyle=":", label="proxy")
    aim = 100 * np.mean([start.curves["scratch"][-1] for start in starts])
    ax.axhline(aim, color="tab:gray", linestyle=":", linewidth=1)
    ax.set(xlabel="epochs of the dense network", ylabel="test accuracy (%)", title="the fused start")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="lower right")
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)


if __name__ == "__main__":
    main()
