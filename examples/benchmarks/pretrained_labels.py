"""Whose labels are worth what to a pretrained network: those that itself, a probe, a pruned proxy or chance chose.

    python examples/benchmarks/pretrained_labels.py --data mnist-5000 --elsewhere --seeds 8
    python examples/benchmarks/pretrained_labels.py --network bert --training 8 --seeds 5  # needs transformers

Every arm of a seed begins with the same labels and the same new head, and asks for as many more, by margin. The whole
network is then trained plainly on all of them: what differs is who chose. A pruned proxy is repaired on the pool, or
treated as new. The networks are those of `pretrained_start.py`; `--labels` is the number in all.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import with_new_head
from pretrained_start import spread
from starts import Sample, Trained, options_of, start_of

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.proxies import Dense, Probe

RANDOM = "random"


def main(argv: list[str] | None = None) -> None:
    """Print what the network reaches on the labels of each arm, with paired differences to labels drawn at random."""
    parser = options_of(__doc__)
    parser.set_defaults(labels=100, test=2000, rows=1024)
    parser.add_argument("--train-epochs", type=int, default=30, help="of the network on the labels; choosers take half")
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW")
    args = parser.parse_args(argv)
    args.budget, args.labels = args.labels, args.unlabelled  # every row of the pool can be asked for
    torch.set_num_threads(args.threads)
    start = start_of(args)
    found: dict[str, list[float]] = {}
    for seed in range(args.seed, args.seed + args.seeds):
        sample = start.draw(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = with_new_head(copy.deepcopy(start.trained.network), start.classes)
        for name, reached in arms(args, Trained(network, start.trained.transform), sample, seed):
            found.setdefault(name, []).append(reached)
            print(f"seed {seed}: {name} {reached:.3f}", flush=True)
    print(table({name: np.array(values) for name, values in found.items()}))


def arms(args: Any, trained: Trained, sample: Sample, seed: int) -> Iterator[tuple[str, float]]:
    """Yield the name of each arm, and the test accuracy of the network on the labels that it chose."""
    options: dict[str, Any] = {"optimizer": "adamw", "batch_size": 32, "progress": False}
    options |= {"transform": trained.transform, "eval_transform": trained.transform, "lr": args.rate}
    first, every = np.arange(args.budget // 2), np.arange(len(sample.y))
    ways: dict[str, dict[str, Any]] = {
        "dense": {"proxy": Dense()},
        "probe": {"proxy": Probe()},
        "pruned, repaired": {"unlabelled": sample.unlabelled, "repair": {"rows": args.rows}},
        "pruned, as at initialisation": {"pretrained": False},
    }

    def reached(rows: np.ndarray) -> float:
        network, trainer = copy.deepcopy(trained.network), TorchTrainer(args.train_epochs, **options)
        trainer.fit(network, (of(sample.x, rows), sample.y[rows]), seed=seed)
        said = trainer.infer(network, sample.x_test, frozenset({"logits"})).logits
        assert said is not None
        return float((said.argmax(1).numpy() == sample.y_test).mean())

    yield RANDOM, reached(np.arange(args.budget))
    for name, way in ways.items():
        trainer = TorchTrainer(args.train_epochs // 2, **options)
        chooser = PrunedProxySelector(
            trained.network, args.ratio, scorer="margin", trainer=trainer, random_state=seed, **way
        )
        chooser.fit(of(sample.x, first), sample.y[first])
        chosen = chooser.query(sample.x, k=args.budget - len(first), candidates=every[len(first) :])
        yield name, reached(np.concatenate([first, chosen]))


def of(inputs: Any, rows: np.ndarray) -> Any:
    """Return rows of an array, or of a dict of arrays."""
    return {name: values[rows] for name, values in inputs.items()} if isinstance(inputs, dict) else inputs[rows]


def table(found: dict[str, np.ndarray]) -> str:
    """Return means and deviations over seeds, and paired differences to labels drawn at random."""
    lines = [f"{'labels chosen by':32} {'accuracy, %':>14} {'minus random':>14}"]
    for name, values in found.items():
        gap = "" if name == RANDOM else spread(values - found[RANDOM])
        lines.append(f"{name:32} {spread(values):>14} {gap:>14}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
