"""Trains the network of a plan on other pictures, for arms that start from a checkpoint.

    python examples/paper/pretrain.py fashion-mnist --data mnist --root data --out mnist.pt
    python examples/paper/run.py fashion-mnist-pretrained --root data

Pictures must have as many channels and classes as the plan's.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from plan import read_plan
from plans import PLANS
from sources import source, trainer
from watching import accuracy

from prunefuse_al import TorchTrainer


def main(argv: list[str] | None = None) -> None:
    """Train, say how well it went, write the state dict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="whose network, size of pictures and trainer are used")
    parser.add_argument("--data", required=True, help="what to train on, as in a plan")
    parser.add_argument("--root", default="data", help="folder with the pictures, or where to download them")
    parser.add_argument("--rows", type=int, default=5000, help="pictures to train on (default: 5000)")
    parser.add_argument("--epochs", type=int, default=0, help="default: the plan's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="file to write")
    args = parser.parse_args(argv)
    plan = read_plan(args.plan, PLANS)
    plan = replace(plan, data=args.data, train=0, epochs=args.epochs or plan.epochs)
    pictures = source(plan, args.root)
    fitted, network = (
        trainer(plan, pictures.transforms, TorchTrainer, "auto"),
        pictures.network(plan.network, args.seed),
    )
    rows = np.random.default_rng(args.seed).permutation(pictures.rows)[: args.rows]
    fitted.fit(network, pictures.labelled(rows), seed=args.seed)
    torch.save(network.state_dict(), args.out)
    print(
        f"{args.out}: {plan.network}, {len(rows):,} pictures of {args.data}, {accuracy(fitted, network, pictures):.1%}"
    )


if __name__ == "__main__":
    main()
