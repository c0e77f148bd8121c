"""A LightningModule in an active-learning loop, on pictures: Lightning trains the proxy as it trained the module.

    python examples/hosts/lightning_loop.py  # scikit-learn's digits
    python examples/hosts/lightning_loop.py --data fashion-mnist --root data
    python examples/hosts/lightning_loop.py --before  # the loop as it was, with the dense network

Needs Lightning: pip install "prunefuse_al[lightning]".
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load
from loop_options import loop_options
from networks import cifar_resnet

from prunefuse_al import PrunedProxySelector, get_scorer
from prunefuse_al.adapters.lightning import lightning_trainer
from prunefuse_al.network.signals import collect

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*does not have many workers")
warnings.filterwarnings("ignore", ".*LeafSpec")  # of torch, in Lightning's own files


class Classifier(LightningModule):
    """A ResNet that knows how it is trained."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.network = cifar_resnet(8, channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b c] of pictures [b channels h w]."""
        return self.network(x)

    def training_step(self, batch: Any, number: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of this module's own parameters."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def main(argv: list[str] | None = None) -> float:
    """Run the loop and return the accuracy on the test pictures."""
    args = loop_options(__doc__, argv, pictures=True, pool=1000, rounds=2, epochs=15)
    images = load(args.data, args.root)
    scale = images.transforms()[1]
    rows = np.random.default_rng(0).permutation(len(images.y_train))[: args.pool]
    x, y = scale(torch.from_numpy(images.x_train[rows])), torch.from_numpy(images.y_train[rows])
    x_test, y_test = scale(torch.from_numpy(images.x_test[:1000])), torch.from_numpy(images.y_test[:1000])
    print(f"{args.data}: {len(x):,} pictures to choose from")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Classifier(x.shape[1], images.classes)
    make = lambda: quiet_trainer(args.epochs)  # noqa: E731
    labelled, free = np.arange(100), np.arange(100, len(x))
    trainer = lightning_trainer(make, batch_size=32)
    selector = PrunedProxySelector(module, 0.5, scorer="margin", trainer=trainer, random_state=0)
    for number in range(args.rounds):
        if args.before:  # BEFORE
            trained = fitted(make, module, x[labelled], y[labelled])
            top = logits(trained, x[free]).softmax(1).topk(2).values
            picked = free[(top[:, 0] - top[:, 1]).argsort()[:50].numpy()]
        else:  # AFTER
            selector.fit(x[labelled], y[labelled])
            picked = selector.query(x, k=50, candidates=free)
            core = get_scorer("margin").select(collect(selector.model, x[free]), 50).indices
            assert set(free[core].tolist()) == set(picked.tolist())  # what the pictures' own logits say
        labelled, free = np.append(labelled, picked), np.setdiff1d(free, picked)
        print(f"round {number + 1}: {len(labelled)} labels")
    known = x[labelled], y[labelled]
    final = fitted(make, module, *known) if args.before else selector.fit_target(*known)
    accuracy = float((logits(final, x_test).argmax(1) == y_test).double().mean())
    print(f"accuracy of the {'dense network' if args.before else 'fused target'}: {accuracy:.1%}")
    if not args.before:
        print(f"choosing took {selector.costs.ratio():.2f} of the dense network's MACs")
    return accuracy


def quiet_trainer(epochs: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fitted(make: Any, module: Classifier, x: Tensor, y: Tensor) -> Classifier:
    module = copy.deepcopy(module)
    with torch.random.fork_rng():
        make().fit(module, DataLoader(TensorDataset(x, y), 32, shuffle=True, drop_last=True))
    return module


def logits(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval().cpu()(x)


if __name__ == "__main__":
    main()
