"""Pictures and networks of a plan: what is trained on, chosen from, and tested on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Images, as_imagenet, load, smaller
from networks import build
from plan import Arm, Plan
from torch import nn

from prunefuse_al import TorchTrainer

PROBES = 256  # pictures, never to be labelled, on which arms are asked how sure they are


@dataclass(frozen=True)
class Source:
    """Pictures, in memory or in folders.

    Attributes:
        rows: samples there are to train on.
        classes: how many.
        shape: of a picture, [c h w].
        labelled: row numbers -> data for training.
        unlabelled: all rows as they are scored.
        test: inputs as they are scored.
        y_test: their labels, int64.
        transforms: what training and inference do to a batch, (None, None) where the data does it.
    """

    rows: int
    classes: int
    shape: tuple[int, ...]
    labelled: Callable[[np.ndarray], Any]
    unlabelled: Any
    test: Any
    y_test: np.ndarray
    transforms: tuple[Any, Any]

    def network(self, name: str, seed: int, checkpoint: str = "") -> nn.Module:
        """Return a network with the weights of a seed, or of a checkpoint."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = build(name, self.shape[0], self.classes, self.shape[-1])
        if checkpoint:
            network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
        return network


def source(plan: Plan, root: str) -> Source:
    """Return the pictures of a plan, read from `root`."""
    if plan.data.startswith("folder:"):
        return from_folders(plan, Path(plan.data.removeprefix("folder:")))
    images = load(plan.data, root)
    train, test = slice(plan.train or None), slice(plan.test or None)
    first = images.x_train[train], images.y_train[train], images.x_test[test], images.y_test[test]
    images = Images(*first, flips=images.flips)
    images = smaller(images, plan.size) if plan.size else images
    return Source(
        rows=len(images.y_train),
        classes=images.classes,
        shape=images.x_train.shape[1:],
        labelled=lambda rows: (images.x_train[rows], images.y_train[rows]),
        unlabelled=images.x_train,
        test=images.x_test,
        y_test=images.y_test,
        transforms=as_imagenet(plan.resize, images.flips) if plan.resize else images.transforms(),
    )


def from_folders(plan: Plan, root: Path) -> Source:
    """Return pictures in root/train and root/val, one folder a class, as torchvision reads and augments them."""
    from torchvision import datasets, transforms

    size = plan.size or 224
    cut = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size), transforms.PILToTensor()]
    augmented = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    train = datasets.ImageFolder(str(root / "train"), transforms.Compose(augmented))
    scored = datasets.ImageFolder(str(root / "train"), transforms.Compose(cut))
    tested = datasets.ImageFolder(str(root / "val"), transforms.Compose(cut))
    normalize = TorchTrainer.preset("imagenet").eval_transform
    if plan.test:
        tested.samples, tested.targets = tested.samples[: plan.test], tested.targets[: plan.test]
    return Source(
        rows=len(train),
        classes=len(train.classes),
        shape=(3, size, size),
        labelled=lambda rows: torch.utils.data.Subset(train, rows.tolist()),
        unlabelled=scored,
        test=tested,
        y_test=np.array(tested.targets),
        transforms=(normalize, normalize),
    )


@dataclass(frozen=True)
class Draw:
    """What a seed draws: the same for every arm.

    Attributes:
        pool: rows that may be labelled.
        first: those labelled at the start.
        probes: rows that are never labelled.
    """

    pool: np.ndarray
    first: np.ndarray
    probes: np.ndarray


def pool_size(plan: Plan, rows: int) -> tuple[int, int]:
    """Return how many rows a seed draws, and how many of these are never labelled."""
    n = min(plan.pool or rows, rows)
    return n, min(PROBES, n // 10)


def draw(plan: Plan, rows: int, seed: int) -> Draw:
    """Return the rows of a seed."""
    order = np.random.default_rng(seed).permutation(rows)
    n, probes = pool_size(plan, rows)
    pool = order[: n - probes]
    return Draw(pool, pool[: plan.labels(n)[0]], order[n - probes : n])


def trainer(plan: Plan, transforms: tuple[Any, Any], kind: type[TorchTrainer], device: str, **changes: Any) -> Any:
    """Return what trains every network of a plan, with `changes`."""
    asked = {"epochs": plan.epochs, "batch_size": plan.batch_size, "lr": plan.lr}
    options = {name: value for name, value in asked.items() if value}
    options |= {"device": device, "precision": plan.precision, "progress": False, **changes}
    if plan.trainer == "adamw":
        options["optimizer"] = "adamw"
    if plan.trainer in ("scaled", "adamw"):
        return kind(**{"transform": transforms[0], "eval_transform": transforms[1], **options})
    if plan.data.startswith("folder:"):  # whose pictures are augmented one by one
        options |= {"transform": transforms[0], "num_workers": min(8, os.cpu_count() or 1)}
    return kind.preset(plan.trainer, **options)


def rate_of(plan: Plan) -> float:
    """Return the learning rate of a plan."""
    rate: float = plan.lr or trainer(plan, (None, None), TorchTrainer, "cpu").lr
    return rate


def epochs_of(plan: Plan, arm: Arm) -> int:
    """Return for how many epochs the network that chooses is trained."""
    return arm.epochs or plan.epochs or trainer(plan, (None, None), TorchTrainer, "cpu").epochs
