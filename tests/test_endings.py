"""Of several outputs without names the first is taken for the logits, unless that cannot be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import mlp, seeded
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.errors import InputError
from prunefuse_al.network.endings import squashed_by

generator = torch.Generator().manual_seed(0)
X = torch.randn(90, 6, generator=generator)
Y = (X @ torch.randn(6, 3, generator=generator)).argmax(1)


class Several(nn.Module):
    """Returns what `pick` makes of its logits, its features, and an embedding of these beside the logits."""

    def __init__(self, pick: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head, self.embedding = seeded(
            lambda: (nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 3), nn.Linear(16, 8))
        )
        self.pick = pick

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return self.pick(self.head(features), features, self.embedding(features))


def fit(pick: Callable[[Tensor, Tensor, Tensor], Any], y: Any = Y, **options: Any) -> nn.Module:
    model = Several(pick)
    TorchTrainer(8, 32, device="cpu", progress=False, lr=0.3, **options).fit(model, (X, y), seed=0)
    return model


RIGHT: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "logits, features": lambda z, f, e: (z, f),
    "logits, embedding": lambda z, f, e: [z, e],
    "logits, features and embedding": lambda z, f, e: (z, (f, e)),
    "by name": lambda z, f, e: {"features": f, "logits": z},
    "nothing else of that length": lambda z, f, e: (z, f.mean(), None, f[:1]),
    "one number a row": lambda z, f, e: (z, z.logsumexp(1)),
    "two of a kind": lambda z, f, e: (z, z.detach() * 2),
    "too narrow": lambda z, f, e: (z, f[:, :2]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_first_is_the_logits(name: str) -> None:
    model = fit(RIGHT[name])
    with torch.no_grad():
        assert float((model.head(model.body(X)).argmax(1) == Y).float().mean()) > 0.8


WRONG: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], str]] = {
    "features, logits": (
        lambda z, f, e: (f, z),
        r"\(\[rows, 16\], \[rows, 3\]\).* the second, .* is made from the first",
    ),
    "in a dict": (lambda z, f, e: {"features": f, "out": z}, "is made from the first"),
    "nested": (lambda z, f, e: (f, {"x": e, "y": z}), "the second, which goes with the labels, is made from the first"),
    "embedding, logits": (lambda z, f, e: (e, z), r"\[rows, 8\], .* is as likely\. Return the logits first"),
    "frozen features, logits": (lambda z, f, e: (f.detach(), z), "is made from the first"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_first_cannot_be_the_logits(name: str) -> None:
    pick, says = WRONG[name]
    before = Several(pick).state_dict()
    model = Several(pick)
    with pytest.raises(InputError, match=says):
        TorchTrainer(1, device="cpu", progress=False).fit(model, (X, Y))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=says):
        TorchTrainer(1, device="cpu", progress=False).fit(model, torch.utils.data.TensorDataset(X, Y))


def test_labels_decide_where_they_can() -> None:
    first = nn.Parameter(torch.zeros(1))
    wide = seeded(lambda: nn.Linear(6, 10))

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.wide, self.narrow = first, wide, mlp(6, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.wide(x), self.narrow(x)

    ten = torch.arange(90) % 10
    train = TorchTrainer(1, device="cpu", progress=False)
    train.fit(Wide(), (X, ten))  # 5 outputs do not tell 10 classes apart
    with pytest.raises(InputError, match="is as likely"):
        train.fit(Wide(), (X, ten % 4))
    independent = (X[:, :5] > 0).long()
    with pytest.raises(InputError, match="is as likely"):
        TorchTrainer(1, device="cpu", progress=False, loss=nn.BCEWithLogitsLoss()).fit(Wide(), (X, independent))


def test_a_selector_with_a_network_that_returns_logits_and_an_embedding() -> None:
    chosen = PrunedProxySelector(Several(RIGHT["logits, embedding"]), 0, trainer=TorchTrainer(5, progress=False))
    assert chosen.fit(X, Y).query(X, 4).shape == (4,)
    with pytest.raises(InputError, match="is made from the first"):
        PrunedProxySelector(Several(lambda z, f, e: (f, z)), 0, trainer=TorchTrainer(1, progress=False)).fit(X, Y)


@pytest.mark.parametrize(
    ("end", "squashed"),
    [
        (lambda z: z.softmax(1), "softmax"),
        (lambda z: torch.sigmoid(z).squeeze(1).reshape(-1), "sigmoid"),
        (lambda z: z.softmax(1).clamp(1e-6, 1)[:, 1:].double(), "softmax"),
        (lambda z: z, None),
        (lambda z: z.log_softmax(1), None),
        (lambda z: z * z.sigmoid(), None),
        (lambda z: z.detach(), None),
    ],
)
def test_what_a_network_ends_in(end: Callable[[Tensor], Tensor], squashed: str | None) -> None:
    assert squashed_by(end(torch.zeros(2, 3, requires_grad=True) * 2)) == squashed


def test_log_softmax_at_the_end_is_no_fault() -> None:
    model = nn.Sequential(mlp(6, 16, 3), nn.LogSoftmax(1))
    for loss in ("cross_entropy", nn.NLLLoss()):
        TorchTrainer(1, device="cpu", progress=False, loss=loss).fit(model, (X, Y))
