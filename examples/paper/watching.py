"""Testing: once after a training, or after every epoch of it, on the side."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from sources import Source
from torch import nn

from prunefuse_al import TorchTrainer


class Watched(TorchTrainer):
    """Tests the network after every epoch but the last, on the side: what that takes is not part of the training.

    Attributes:
        following: whether it does.
        curves: test accuracies of each training that was followed.
        aside: seconds that the tests of each training took.
    """

    def watch(self, data: Source, plain: TorchTrainer, follows: bool) -> Watched:
        """Set what to test on, and whether trainings are ever followed."""
        self.data, self.plain, self.follows = data, plain, follows
        self.start_round(False)
        return self

    def start_round(self, following: bool) -> None:
        """Forget the trainings so far; copies made from here on add to the same lists."""
        self.following, self.curves, self.aside = following and self.follows, [], []

    def fit(self, model: nn.Module, data: Any, *, on_epoch: Any = None, recorder: Any = None, **options: Any) -> Any:
        """Train as `TorchTrainer` does; adds to `curves` and, in seconds, to `aside`."""
        curve: list[float] = []
        seconds = 0.0

        def tested(epoch: int, optimizer: Any) -> Any:
            nonlocal seconds
            start = now()
            if epoch and self.following:
                network = copy.deepcopy(model)
                for module in network.modules():
                    module._forward_pre_hooks.clear()  # those of the ledger, which counts what is trained
                curve.append(accuracy(self.plain, network, self.data))
            seconds += now() - start
            return None if on_epoch is None else on_epoch(epoch, optimizer)

        history = super().fit(model, data, on_epoch=tested, recorder=recorder, **options)
        self.curves.append(curve)
        self.aside.append(seconds)
        return history


def accuracy(plain: TorchTrainer, network: nn.Module, data: Source) -> float:
    """Return the accuracy on the test pictures."""
    predicted = plain.infer(network, data.test).logits.argmax(1).cpu().numpy()
    return float((predicted == data.y_test).mean())


def now() -> float:
    """Return the clock after what is queued on a GPU has run."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
