"""Named settings of `TorchTrainer`, with where each number comes from."""

from __future__ import annotations

from typing import Any

from torch import nn

from .. import checks
from .transforms import Compose, Normalize, RandomCropFlip

CIFAR10 = Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def preset(name: str) -> dict[str, Any]:
    """Return the parameters of a preset.

    * "cifar": PruneFuse's (arXiv 2501.01118), after Selection via Proxy (Coleman et al. 2020): SGD with momentum 0.9,
      weight decay 5e-4, batches of 128, 181 epochs = 1 + 90 + 45 + 45 at rates 0.01, 0.1, 0.01, 0.001, crops with
      padding 4 and flips. Takes pictures [n 3 h w] as uint8, or as floats in 0..1.
    * "imagenet": PruneFuse's 100 epochs of SGD with momentum 0.9, weight decay 1e-4 and label smoothing 0.1. The
      paper's rates are not known to us: batches of 256 at 0.1, divided by 10 at epochs 30, 60 and 90, is the field's
      habit. Random resized crops belong in the Dataset, whose pictures differ in size; flips are made here.

    Raises:
        InputError: there is no such preset.
    """
    if checks.one_of("preset: name", name, ("cifar", "imagenet")) == "cifar":
        return {
            **{"epochs": 181, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
            "scheduler": "cifar",
            "transform": Compose((RandomCropFlip(padding=4), CIFAR10)),
            "eval_transform": CIFAR10,
        }
    return {
        **{"epochs": 100, "batch_size": 256, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
        "scheduler": "imagenet",
        "loss": nn.CrossEntropyLoss(label_smoothing=0.1),
        "transform": Compose((RandomCropFlip(padding=0), IMAGENET)),
        "eval_transform": IMAGENET,
    }
