"""Small stand-ins shared by tests."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from prunefuse_al.errors import NonFiniteError
from prunefuse_al.types import Signals

T = TypeVar("T")


def seeded(make: Callable[[], T], seed: int = 0) -> T:
    """Return `make()` with torch's global generator seeded for it and put back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def mlp(*widths: int, seed: int = 0, dtype: Any = torch.float32) -> nn.Sequential:
    """Return a multilayer perceptron with the given widths, the same for the same seed."""

    def make() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after, dtype=dtype), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return seeded(make, seed)


def run_script(script: Path, folder: Path, *options: str) -> str:
    """Return what a script of this checkout prints, run in `folder` in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(script), *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_picks(picked: Any, wanted: Any, scores: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Raise `AssertionError` unless two rankings are the same up to ties: the last bit of a score decides nothing.

    For what was read in batches of other sizes, or computed in another way; the same operation on the same shapes gives
    the same picks, and is compared exactly.

    Args:
        picked: rows, best first.
        wanted: rows, best first.
        scores: what either ranks by, by row of the pool, higher first or lower first.
        rtol: relative difference of scores that counts as a tie.
        atol: absolute difference that does.
    """
    rows, others = (np.asarray(each).astype(np.int64).tolist() for each in (picked, wanted))
    assert len(set(rows)) == len(rows) == len(set(others)) == len(others)
    values = np.asarray(scores, dtype=np.float64)
    np.testing.assert_allclose(values[rows], values[others], rtol=rtol, atol=atol)


class PlainTrainer:
    """A user's own training loop: full-batch gradient descent, nothing but the `Trainer` protocol."""

    def __init__(self, epochs: int = 20, lr: float = 0.1) -> None:
        self.epochs, self.lr = epochs, lr
        self.seen_teachers: list[nn.Module | None] = []
        self.inferred: list[int] = []

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> float:
        self.seen_teachers.append(teacher)
        x, y = _columns(data)
        if not torch.isfinite(x).all():
            raise NonFiniteError("not finite")
        optimizer = torch.optim.SGD(model.parameters(), self.lr, momentum=0.9)
        model.train()
        for _ in range(self.epochs):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Signals:
        self.inferred.append(len(data))
        mode, features = model.training, []
        model.eval()
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        hook = head.register_forward_pre_hook(lambda _, args: features.append(args[0]))
        with torch.inference_mode():
            logits = model(_columns(data)[0])
        hook.remove()
        model.train(mode)
        if not torch.isfinite(logits).all():
            raise NonFiniteError("logits are not finite")
        return Signals(torch.arange(len(data)), logits, features[-1] if "features" in needs else None)


def _columns(data: Any) -> tuple[Tensor, Tensor]:
    items = [data[i] for i in range(len(data))]
    pairs = [item if isinstance(item, tuple) else (item, 0) for item in items]
    return torch.stack([pair[0] for pair in pairs]), torch.tensor([int(pair[1]) for pair in pairs])


def blobs(n: int = 120, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points around one centre per class, float32 [n d], and labels, int64 [n]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=generator) * 2
    labels = torch.arange(n) % classes
    return centres[labels] + torch.randn(n, d, generator=generator), labels
