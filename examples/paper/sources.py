"""Data and networks of a plan: what is trained on, chosen from, and tested on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
from data import Images, as_imagenet, load, smaller
from networks import build
from plan import Arm, Plan
from subselnet import PREFIX, parse_architecture
from torch import nn

from prunefuse_al import TorchTrainer

PROBES = 256  # pictures, never to be labelled, on which arms are asked how sure they are


@dataclass(frozen=True)
class Source:
    """Pictures, in memory or in folders.

    Attributes:
        y_train: labels of the samples there are to train on, int64.
        classes: how many.
        shape: of a picture, [c h w].
        labelled: row numbers -> data for training.
        unlabelled: all rows as they are scored.
        test: inputs as they are scored.
        y_test: their labels, int64.
        transforms: what training and inference do to a batch, (None, None) where the data does it.
    """

    y_train: np.ndarray
    classes: int
    shape: tuple[int, ...]
    labelled: Callable[[np.ndarray], Any]
    unlabelled: Any
    test: Any
    y_test: np.ndarray
    transforms: tuple[Any, Any]

    @property
    def rows(self) -> int:
        """How many samples there are to train on."""
        return len(self.y_train)

    def network(self, name: str, seed: int, checkpoint: str = "") -> nn.Module:
        """Return a network with the weights of a seed, or of a checkpoint."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if name.startswith(PREFIX):
                network: nn.Module = parse_architecture(name).build(self.shape[0], self.classes)
            else:
                network = build(name, self.shape[0], self.classes, self.shape[-1])
        if checkpoint:
            network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
        return network


def source(plan: Plan, root: str) -> Source:
    """Return the pictures of a plan, read from `root`."""
    if plan.data.startswith("folder:"):
        return from_folders(plan, Path(plan.data.removeprefix("folder:")))
    images = varied(plan, tables.load(plan.data, root) if plan.data in tables.ROWS else load(plan.data, root))
    images = smaller(images, plan.size) if plan.size else images
    return Source(
        y_train=images.y_train,
        classes=images.classes,
        shape=images.x_train.shape[1:],
        labelled=lambda rows: (images.x_train[rows], images.y_train[rows]),
        unlabelled=images.x_train,
        test=images.x_test,
        y_test=images.y_test,
        transforms=transforms(plan, images),
    )


def varied(plan: Plan, images: Images) -> Images:
    """Return the part of the data that a plan uses: its first rows, in a long tail, with wrong labels among them."""
    train, test = slice(plan.train or None), slice(plan.test or None)
    x, y = images.x_train[train], images.y_train[train]
    if plan.imbalance > 1:
        rows = tables.long_tailed(y, plan.imbalance)
        x, y = x[rows], y[rows]
    y = tables.noisy(y, plan.noise) if plan.noise else y
    return Images(x, y, images.x_test[test], images.y_test[test], flips=images.flips)


def transforms(plan: Plan, images: Images) -> tuple[Any, Any]:
    """Return what training and inference do to a batch."""
    if plan.data in tables.ROWS:
        return None, None
    augmented, plain = as_imagenet(plan.resize, images.flips) if plan.resize else images.transforms()
    return (plain if plan.augment == "none" else augmented), plain


def from_folders(plan: Plan, root: Path) -> Source:
    """Return pictures in root/train and root/val, one folder a class, as torchvision reads and augments them."""
    from torchvision import datasets
    from torchvision import transforms as of

    size = plan.size or 224
    cut = [of.Resize(size * 8 // 7), of.CenterCrop(size), of.PILToTensor()]
    augmented = [of.RandomResizedCrop(size), of.RandomHorizontalFlip(), of.PILToTensor()]
    train = datasets.ImageFolder(str(root / "train"), of.Compose(augmented))
    scored = datasets.ImageFolder(str(root / "train"), of.Compose(cut))
    tested = datasets.ImageFolder(str(root / "val"), of.Compose(cut))
    normalize = TorchTrainer.preset("imagenet").eval_transform
    if plan.test:
        tested.samples, tested.targets = tested.samples[: plan.test], tested.targets[: plan.test]
    return Source(
        y_train=np.array(train.targets),
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
        held_out: rows whose labels are known for tuning alone, as many as the last budget's; none without tuning.
    """

    pool: np.ndarray
    first: np.ndarray
    probes: np.ndarray
    held_out: np.ndarray


def pool_size(plan: Plan, rows: int) -> tuple[int, int, int]:
    """Return how many rows a seed draws, how many of these are never labelled, and how many are held out."""
    n = min(plan.pool or rows, rows)
    return n, min(PROBES, n // 10), plan.labels(n)[-1] if plan.tuning else 0


def draw(plan: Plan, rows: int, seed: int) -> Draw:
    """Return the rows of a seed."""
    order = np.random.default_rng(seed).permutation(rows)
    n, probes, held_out = pool_size(plan, rows)
    pool, aside, never = np.split(order[:n], [n - probes - held_out, n - probes])
    return Draw(pool, pool[: plan.labels(n)[0]], never, aside)


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
