"""A training loop in plain PyTorch, on a table: its two functions stay, one with a factor for the learning rate.

    python examples/hosts/plain_pytorch.py  # scikit-learn's digits as a table
    python examples/hosts/plain_pytorch.py --root data  # LetterRecognition or Shuttle, if their .rda is in there
    python examples/hosts/plain_pytorch.py --before  # the loop as it was, with the dense network

What changes to let a pruned proxy choose is marked BEFORE and AFTER in `main`.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from data import load_table
from loop_options import loop_options

from prunefuse_al import FunctionTrainer, PrunedProxySelector, get_scorer
from prunefuse_al.network.signals import collect


def fit(model: nn.Module, data: Dataset, lr_scale: float = 1.0, epochs: int = 20) -> None:
    """Train: the user's own function."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003 * lr_scale)
    model.train()
    for _ in range(epochs):
        for x, y in DataLoader(data, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def infer(model: nn.Module, data: Dataset) -> torch.Tensor:
    """Return logits [n c]: the user's own function."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(x) for x in DataLoader(data, batch_size=256)])


def main(argv: list[str] | None = None) -> float:
    """Run the loop and return the accuracy on held-out rows."""
    args = loop_options(__doc__, argv, pool=1200, rounds=3, epochs=20)
    x, y, source = load_table(args.root)
    order = np.random.default_rng(0).permutation(len(y))
    (x, y), pool, test = map(torch.from_numpy, (x, y)), order[:-500][: args.pool], order[-500:]
    print(f"{source}: {len(pool):,} rows to choose from, {x.shape[1]} columns, {int(y.max()) + 1} classes")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(x.shape[1], int(y.max()) + 1)
    labelled, free = pool[:100], pool[100:]
    trainer = FunctionTrainer(partial(fit, epochs=args.epochs), infer)
    selector = PrunedProxySelector(model, pruning_ratio=0.5, scorer="margin", trainer=trainer, random_state=0)
    for number in range(1, args.rounds + 1):
        if args.before:  # BEFORE
            now = trained(model, TensorDataset(x[labelled], y[labelled]), args.epochs)
            top = infer(now, x[free]).softmax(1).topk(2).values
            picked = free[(top[:, 0] - top[:, 1]).argsort()[:50].numpy()]
        else:  # AFTER
            selector.fit(x[labelled], y[labelled])
            picked = selector.query(x, k=50, candidates=free)
            check(selector, x, free, picked)
        labelled, free = np.append(labelled, picked), np.setdiff1d(free, picked)
        print(f"round {number}: {len(labelled)} labels")
    whole = TensorDataset(x[labelled], y[labelled])
    final = trained(model, whole, args.epochs) if args.before else selector.fit_target(x[labelled], y[labelled])
    accuracy = float((infer(final, x[test]).argmax(1) == y[test]).double().mean())
    print(f"accuracy of the {'dense network' if args.before else 'fused target'}: {accuracy:.1%}")
    if not args.before:
        print(f"choosing took {selector.costs.ratio():.2f} of the dense network's MACs")
    return accuracy


def network(columns: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes))


def trained(model: nn.Module, data: Dataset, epochs: int) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fit(model, data, epochs=epochs)
    return model


def check(selector: PrunedProxySelector, x: torch.Tensor, free: np.ndarray, picked: np.ndarray) -> None:
    """Assert that asking through the user's `infer` picks what the library's own pass over the pool picks."""
    signals = collect(selector.model, x[np.sort(free)], device="cpu")
    own = get_scorer("margin").select(signals, len(picked))
    assert set(np.sort(free)[own.indices].tolist()) == set(picked.tolist())


if __name__ == "__main__":
    main()
