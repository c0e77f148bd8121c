"""The selectors whose files lie in `tests/data/saved`, as a version before 0.1 wrote them, and how to make them again.

`python -m tests.saved_before FOLDER` writes such files with the code at hand; those in the repository stay as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from fakes import blobs, mlp, seeded

from prunefuse_al.scorers import ClassBalanced, TwoStage
from prunefuse_al.selector import FallingRatio, PrunedProxySelector
from prunefuse_al.training import EarlyStopping, ProgressivePruning, ShrinkPerturb, TorchTrainer
from prunefuse_al.training.distillation import Distillation

FOLDER = Path(__file__).parent / "data" / "saved"
K = 8
X, Y = blobs(150)
PICTURES = (
    torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + (torch.arange(60) % 3)[:, None, None, None]
)
WORDS = torch.randint(0, 20, (60, 6), generator=torch.Generator().manual_seed(2))


class Text(nn.Module):
    """A small transformer: LayerNorm streams, heads, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(20, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True, norm_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.embed(ids))).mean(1))


def pictures_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def trainer(**options: Any) -> TorchTrainer:
    return TorchTrainer(**{"epochs": 4, "progress": False, "device": "cpu", **options})


MLP = lambda: mlp(6, 16, 12, 3)  # noqa: E731
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, dict[str, Any]]] = {
    # network, data, labels, options; fitted twice
    "v1": (MLP, X, Y, {"scorer": "margin"}),
    "v2": (
        MLP,
        X,
        Y,
        {"scorer": "entropy", "sync_every": 1, "sync_importance": "same", "distillation": Distillation()},
    ),
    "pictures": (
        pictures_net,
        PICTURES,
        torch.arange(60) % 3,
        {"scorer": "k_center", "cross": "copy", "warm_start": ShrinkPerturb(0.5, 0.01), "keep": ("0",)},
    ),
    "text": (Text, WORDS, torch.arange(60) % 3, {"scorer": TwoStage("margin", "k_center"), "candidate_fraction": 0.5}),
    "gradual": (
        MLP,
        X,
        Y,
        {
            "scorer": ClassBalanced("margin"),
            "progressive": ProgressivePruning(2, 2),
            "trainer": trainer(early_stopping=EarlyStopping(patience=3), class_weight="balanced"),
        },
    ),
    "falling": (MLP, X, Y, {"pruning_ratio": FallingRatio(0.7, 0.4, labels=(20, 60)), "scorer": "least_confidence"}),
    "another": (MLP, X, Y, {"proxy": mlp(6, 5, 3), "scorer": "margin"}),
}


def network(name: str) -> nn.Module:
    """Return the dense network of a case, with weights of its own."""
    return seeded(CASES[name][0], 7)


def fitted(name: str) -> PrunedProxySelector:
    """Return a case's selector, fitted twice."""
    _, data, labels, options = CASES[name]
    options = {"pruning_ratio": 0.5, "trainer": trainer(), "random_state": 3, **options}
    return PrunedProxySelector(network(name), **options).fit(data[:30], labels[:30]).fit(data[:40], labels[:40])


def main(folder: Path) -> None:
    """Write every case's file and what it picks by margin."""
    folder.mkdir(parents=True, exist_ok=True)
    picks = {}
    for name in CASES:
        selector = fitted(name)
        selector.save(folder / f"{name}.safetensors")
        # k_center and two_stage read what is labelled, which no file holds, so all are asked by margin.
        picks[name] = selector.select(CASES[name][1], K, scorer="margin").indices.tolist()
    PrunedProxySelector(network("v1"), 0.25, random_state=1).save(folder / "unfitted.safetensors")
    (folder / "picks.json").write_text(json.dumps(picks, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
