"""Features are what the last linear layer on the way to the logits was given, however it is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded
from torch import Tensor, nn

from prunefuse_al.errors import UnsupportedModelError
from prunefuse_al.network.signals import collect

X = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """A body with ReLU, a head written in one of many ways; `given` is what the head was given last."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body = kind, nn.Linear(4, 6)
        self.head, self.other, self.gate = nn.Linear(6, 3), nn.Linear(4, 3), nn.Linear(6, 1)
        self.given: Any = None

    def forward(self, x: Tensor) -> Any:
        h = self.given = F.relu(self.body(x))
        weight, bias = self.head.weight, self.head.bias
        ways = {
            "squeezed": lambda: self.head(h[:, None]).squeeze(1),
            "scaled": lambda: 3.5 * self.head(h),
            "softmax": lambda: self.head(h).log_softmax(-1),
            "in place": lambda: self.head(h).mul_(2).add_(1),
            "raw": lambda: F.linear(h, weight, bias),
            "by name": lambda: F.linear(input=h, weight=weight),
            "product": lambda: h @ weight.T + bias,
            "addmm": lambda: torch.addmm(bias, h, weight.t()),
            "cosine": lambda: 10 * F.linear(F.normalize(h), F.normalize(weight)),
            "tied": lambda: F.linear(h, (weight * 2).contiguous()),
            "gated": lambda: self.head(h) * self.gate(h).sigmoid(),
            "several outputs": lambda: {"auxiliary": self.other(x), "logits": self.head(h), "more": self.other(x)},
            "written into": lambda: _written(self.head(h)),
            "same input twice": lambda: (self.head(h) + F.linear(h, weight)) / 2,
        }
        if self.kind == "cosine":
            self.given = F.normalize(h)
        return ways[self.kind]()


def _written(logits: Tensor) -> Tensor:
    result = torch.zeros_like(logits)
    result[:, :2] = logits[:, :2]
    return result


KINDS = "squeezed, scaled, softmax, in place, raw, by name, product, addmm, cosine, tied, gated, several outputs"


@pytest.mark.parametrize("kind", [*KINDS.split(", "), "written into", "same input twice"])
def test_the_head_is_found_however_it_is_written(kind: str) -> None:
    model = seeded(lambda: Head(kind))
    found = collect(model, X, {"features"}, batch_size=11, device="cpu").features
    torch.testing.assert_close(found, model.given.detach(), rtol=0, atol=0)


class TwoHeads(nn.Module):
    """Averages a head of the first half of the inputs and one of the second, as distilled transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.two(x[:, 2:].tanh()) + self.one(x[:, :2])) / 2


def test_heads_that_meet_give_their_inputs_side_by_side() -> None:
    found = collect(seeded(TwoHeads), X, {"features"}).features
    torch.testing.assert_close(found, torch.cat([X[:, 2:].tanh(), X[:, :2]], 1))


def convolutional(pooled: nn.Module, kernel: int = 1) -> nn.Sequential:
    def make() -> nn.Sequential:
        body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        return nn.Sequential(body, nn.Conv2d(8, 4, kernel), nn.ReLU(), pooled, nn.Flatten())

    return seeded(make)


def test_a_convolution_as_head_is_averaged_as_its_output_is() -> None:
    """SqueezeNet ends in a 1 x 1 convolution, ReLU and average pooling."""
    model = convolutional(nn.AdaptiveAvgPool2d(1))
    found = collect(model, PICTURES, {"features", "logits"}, batch_size=2)
    with torch.no_grad():
        torch.testing.assert_close(found.features, model[0](PICTURES).mean((2, 3)))
    whole = convolutional(nn.Identity(), kernel=6)
    with torch.no_grad():
        torch.testing.assert_close(collect(whole, PICTURES, {"features"}).features, whole[0](PICTURES).flatten(1))
    with pytest.raises(UnsupportedModelError, match=r"logits \[5, 4\], and the last ones have \[4\] outputs"):
        collect(convolutional(nn.AdaptiveAvgPool2d(1), kernel=3), PICTURES, {"features"})


class Tokens(nn.Module):
    """Classifies every token, and answers with the last one that is not padding, or with the mean."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.mean, self.embed, self.score = mean, nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        each = self.score(self.embed(tokens).cumsum(1))
        return each.mean(1) if self.mean else each[torch.arange(len(tokens)), (tokens > 0).sum(1) - 1]


def test_a_head_at_every_token_gives_the_token_that_was_chosen_or_the_mean() -> None:
    tokens = torch.tensor([[3, 4, 5, 0], [7, 0, 0, 0], [1, 2, 3, 4]])
    for mean in (False, True):
        model = seeded(lambda: Tokens(mean))  # noqa: B023 (called at once)
        hidden = model.embed(tokens).cumsum(1).detach()  # [3 4 6]
        want = hidden.mean(1) if mean else hidden[torch.arange(3), torch.tensor([2, 0, 3])]
        torch.testing.assert_close(collect(model, tokens, {"features"}).features, want)


class Attention(nn.Module):
    """Ends in attention over class queries: the products of data with data are no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        k = self.key(x)
        return (k[:, None] @ k[:, :, None].expand(-1, -1, 3))[:, 0]


def test_what_has_no_linear_head_is_refused_with_what_was_found() -> None:
    with pytest.raises(UnsupportedModelError, match=r"logits \[11, 3\], and the last ones have \[6\] outputs"):
        collect(seeded(Attention), X, {"features"})
    with pytest.raises(UnsupportedModelError, match="there is none on the way"):
        collect(nn.Sequential(nn.Flatten(), nn.Softmax(1)), X, {"features"})
    with pytest.raises(UnsupportedModelError, match=r"logits \[rows classes\], and these are \[11, 1, 3\]"):
        collect(seeded(lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Linear(4, 3))), X, {"features"})


def test_only_the_last_layers_are_kept_while_following() -> None:
    """Activations die when the network lets go of them: the trace holds what made the logits and no more."""
    import weakref

    from prunefuse_al.network.heads import HeadTrace

    seen: list[Any] = []
    model = seeded(lambda: nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))))
    for layer in model:
        layer.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    with torch.inference_mode(), HeadTrace(X) as trace:
        logits = model(X)
    alive = [ref() is not None for ref in seen]
    assert alive == [True, *[False] * 5]  # the data itself; of the last layer's input only the memory is kept
    assert trace.features(logits).shape == (11, 4)


def test_named_networks() -> None:
    models = pytest.importorskip("torchvision.models")
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, width in (("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("vit_b_32", 768)):
        options = {"image_size": 64} if name.startswith("vit") else {}
        model = seeded(lambda: models.get_model(name, weights=None, num_classes=5, **options))  # noqa: B023
        assert collect(model, pictures, {"features"}).features.shape == (2, width), name
