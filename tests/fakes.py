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
from torch.utils.data import Dataset

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.errors import NonFiniteError
from prunefuse_al.types import Selection, Signals

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


def batch_norm() -> nn.Module:
    """Return a perceptron from 6 columns to 3 classes with two batch norms, always the same."""
    return seeded(
        lambda: nn.Sequential(
            *(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)),
        )
    )


def trainer(epochs: int = 3, batch_size: int = 16, **options: Any) -> TorchTrainer:
    """Return a trainer that is soon done, on the CPU, and silent."""
    return TorchTrainer(epochs, batch_size, **{"device": "cpu", "progress": False, **options})


def selector(model: nn.Module | None = None, pruning_ratio: Any = 0.5, **options: Any) -> PrunedProxySelector:
    """Return a selector with a seed, of a perceptron from 6 columns to 3 classes unless a network is given."""
    network = mlp(6, 16, 3) if model is None else model
    return PrunedProxySelector(network, pruning_ratio, **{"trainer": trainer(), "random_state": 0, **options})


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Tell whether two dicts of tensors have the same names and, bit for bit, values."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_same(left: nn.Module, right: nn.Module) -> None:
    """Raise `AssertionError` unless two networks hold the same values, saying which differ."""
    torch.testing.assert_close(left.state_dict(), right.state_dict(), rtol=0, atol=0)


class Items(Dataset[Any]):
    """A list as a dataset; an exception among the items is raised."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        if isinstance(self.items[row], Exception):
            raise self.items[row]
        return self.items[row]


class Spread:
    """A scorer of batches: picks the candidates whose features are farthest from the mean one."""

    needs = frozenset({"features"})

    def select(self, signals: Any, k: int, *, rng: Any = None) -> Selection:
        far = (signals.features - signals.features.mean(0)).norm(dim=1)
        return Selection(signals.indices[far.argsort(descending=True)[:k]])


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
