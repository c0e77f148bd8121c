"""Whole loops in several processes, on as many GPUs or on CPUs; as it stands it also runs in one.

    python examples/several_processes.py
    torchrun --nproc-per-node 2 examples/several_processes.py
    accelerate launch --multi_gpu --num_processes 2 examples/several_processes.py

Every process runs this script from top to bottom: give the trainer an `Accelerator`, and the selector a `random_state`.
Training shares out each batch, scoring the pool; all processes get the same picks, so each labels the same rows. Let
one process alone write files, such as the selector's. (accelerate calls several processes `--multi_gpu`, on CPUs too.)
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.proxies import Probe
from prunefuse_al.scorers import TwoStage

LOOPS = {
    "V1": {},
    "V2": {"sync_every": 2},
    "going on": {"warm_start": True},
    "repaired": {"pretrained": True},
    "probe": {"proxy": Probe()},
}
POOL = 1400


def accelerator(device: str):
    """Return what processes meet by, or None where a launcher has started but one."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    from accelerate import Accelerator

    return Accelerator(cpu=device == "cpu")


def network(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)  # so that all processes make the same; torch.load of one file would do as well
    layers = (nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))
    return nn.Sequential(*layers).to(dtype)


def loop(options: dict, trainer: TorchTrainer, X: np.ndarray, y: np.ndarray, rounds: int) -> tuple[list, float]:
    """Return the picks of each round, and how well the target answers."""
    dense = network(torch.from_numpy(X).dtype)
    if options.get("pretrained") or "proxy" in options:
        trainer.fit(dense, (X[:POOL], y[:POOL] % 2), seed=0)  # what it was trained for elsewhere: odd or even
    scorer = TwoStage("margin", "k_center")
    selector = PrunedProxySelector(dense, 0.5, trainer=trainer, scorer=scorer, random_state=0, **options)
    labelled, picks = np.arange(50), []
    for _ in range(rounds):
        selector.fit(X[labelled], y[labelled])
        picks.append(selector.query(X[:POOL], 25, candidates=np.setdiff1d(np.arange(POOL), labelled)).tolist())
        labelled = np.append(labelled, picks[-1])
    target = selector.fit(X[labelled], y[labelled]).fit_target()
    answers = trainer.infer(target, X[POOL:]).logits.argmax(1).numpy()
    return picks, float((answers == y[POOL:]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--device", choices=("auto", "cpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="float64 rounds hardly")
    parser.add_argument("--folder", type=Path, help="each process writes its picks there")
    args = parser.parse_args()

    processes = accelerator(args.device)
    first = processes is None or processes.is_main_process
    device = {"device": args.device} if processes is None else {"accelerator": processes}
    trainer = TorchTrainer(args.epochs, 32, momentum=0.9, progress=False, **device)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(args.dtype)
    picks = {}
    for name in args.loops:
        picks[name], accuracy = loop(LOOPS[name], trainer, X, y, args.rounds)
        if first:
            print(f"{name}: the target is right in {accuracy:.3f}; first picks {picks[name][0][:5]}", flush=True)
    if args.folder:
        rank = 0 if processes is None else processes.process_index
        (args.folder / f"{rank}.json").write_text(json.dumps(picks))
    if processes is not None:
        processes.end_training()


if __name__ == "__main__":
    main()
