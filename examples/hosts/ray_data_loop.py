"""Ray Data: a pool that is a Ray Dataset, scored by actors, labelled in rounds. Real pictures: scikit-learn's digits.

    pip install "prunefuse_al[ray]" && python examples/hosts/ray_data_loop.py

The pool has ids of its own and lies in blocks; nothing but ids and scores comes back. `num_gpus=1` puts each actor on
a GPU of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import ray
import torch
from sklearn.datasets import load_digits
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.adapters.ray_data import rows, select

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
IDS = np.array([f"digit {number:04d}" for number in range(len(X))], dtype=object)
POOL = 1200
READING = {"id": "name", "input": "image"}


def make_network(width: int = 32) -> nn.Module:
    """Return two convolutions and a linear layer; each actor makes one, and loads what was trained into it."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    )


def main() -> float:
    """Run the loop and return the accuracy on held-out digits."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    items = [{"name": IDS[row], "image": X[row], "class": int(y[row])} for row in range(POOL)]
    dataset = ray.data.from_items(items, override_num_blocks=4).materialize()
    selector = PrunedProxySelector(make_network(), 0.5, trainer=TorchTrainer(15, 16, progress=False), random_state=0)
    known = list(IDS[:60])
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "selector.safetensors")
        for number in range(2):
            selector.fit(rows(dataset, label="class", ids=known, **READING))
            selector.save(file)
            names = set(known)
            free = dataset.filter(lambda row, names=names: row["name"] not in names)
            picks = select(free, 40, selector_file=file, model_factory=make_network, workers=2, num_cpus=0.5, **READING)
            if number == 0:
                assert_the_core_agrees(selector, known, picks)
            known += picks.ids.tolist()
            print(f"round {number + 1}: {picks.considered:,} looked at, {len(known)} labels, next {picks.ids[0]!r}")
    selector.fit(rows(dataset, label="class", ids=known, **READING))
    target = selector.fit_target().eval()
    ray.shutdown()
    with torch.inference_mode():
        right = target(torch.from_numpy(X[POOL:])).argmax(1).numpy() == y[POOL:]
    print(f"accuracy of the fused target on {len(known)} labels: {right.mean():.3f}")
    return float(right.mean())


def assert_the_core_agrees(selector: PrunedProxySelector, known: list[str], picks: object) -> None:
    """Pick with one process alone."""
    free = np.flatnonzero(~np.isin(IDS[:POOL], known))
    assert set(IDS[selector.query(X[:POOL], 40, candidates=free)]) == set(picks.ids)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
