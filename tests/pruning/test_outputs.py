"""Networks that answer with more than logits, as much code of active learning does: the rest is thinned, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, TorchTrainer, fuse, prune, repair
from prunefuse_al.errors import PruningError
from prunefuse_al.network import logits_of
from prunefuse_al.pruning import Imitation
from tests.laws.random_networks import randomise

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Named(NamedTuple):
    logits: Tensor
    embedding: Tensor


@dataclass
class Answered:
    embedding: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...]


class Embedding(nn.Module):
    """Three convolutions and a head that answers in a form of its own."""

    def __init__(self, answer: Callable[..., Any], width: int = 32) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(3, width, 1), nn.Linear(width, 4)
        self.a, self.b = nn.Conv2d(width, width, 3), nn.Conv2d(width, width, 3)
        self.other, self.answer = nn.Linear(width, 3), answer  # another head, if that is asked

    def forward(self, x: Tensor) -> Any:
        first = torch.relu(self.a(torch.relu(self.enter(x))))
        second = torch.relu(self.b(first))
        embedding = second.mean((2, 3))
        other = self.other(embedding)
        return self.answer(self.head(embedding), embedding, first, second, lambda: other)


# how it answers -> what of it is thinned, at half the channels
ANSWERS: dict[str, tuple[Callable[..., Any], dict[str, list[int]]]] = {
    "tuple": (lambda y, z, *_: (y, z), {"1": [2, 16]}),
    "list": (lambda y, z, a, b, _: [y, [z, a]], {"1.0": [2, 16], "1.1": [2, 16, 10, 10]}),
    "named tuple": (lambda y, z, *_: Named(y, z), {"1": [2, 16]}),
    "dict": (lambda y, z, *_: {"features": z, "logits": y}, {"features": [2, 16]}),
    "dataclass": (
        lambda y, z, a, b, _: Answered(z, y, (a, b)),
        {"embedding": [2, 16], "maps.0": [2, 16, 10, 10], "maps.1": [2, 16, 8, 8]},
    ),
    "flattened": (lambda y, z, a, b, _: (y, b.flatten(1)), {"1": [2, 1024]}),
    "another head": (lambda y, z, a, b, other: (y, other(), z), {"2": [2, 16]}),
    "a norm": (lambda y, z, *_: (y, z.norm(dim=1)), {}),
    "joined with the logits": (lambda y, z, *_: (y, torch.cat([z, y], 1)), {"1": [2, 20]}),
}


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("form", ANSWERS)
def test_what_stands_beside_the_logits_is_thinned_and_named(form: str, ratio: float) -> None:
    answer, thinned = ANSWERS[form]
    network = Embedding(answer)
    proxy = prune(network, IMAGES[:2], ratio)
    report = proxy.report()
    assert report.mac_share < (1 - ratio) ** 2 + 0.05
    assert report.preserve_exact or form == "a norm"
    if ratio == 0.5:
        assert {name: list(shape) for name, (_, shape) in report.outputs.items()} == thinned
    for name, (dense, shape) in report.outputs.items():
        assert f"  {name}: {list(dense)} -> {list(shape)}" in str(report)
    randomise(proxy.module)
    with torch.no_grad():
        found = logits_of(proxy.module.eval()(IMAGES))
        target = logits_of(fuse(network, proxy).eval()(IMAGES))
    assert found.shape == (4, 4)
    assert torch.allclose(found, target, atol=1e-4 * float(found.abs().max()))


@pytest.mark.parametrize("form", ANSWERS)
def test_their_shapes_stay_on_request(form: str) -> None:
    network = Embedding(ANSWERS[form][0])
    proxy = prune(network, IMAGES[:2], 0.5, keep="outputs")
    assert proxy.report().outputs == {}
    kept = {width.name: width.proxy for width in proxy.report().widths}
    assert (kept["enter.weight"], kept["b.weight"]) == (16, 32 if ANSWERS[form][1] else 16)
    reasons = {reason for reason in proxy.report().kept_whole.values() if "kept on request" in reason}
    assert reasons == ({"kept on request (outputs)"} if ANSWERS[form][1] else set())


def test_of_the_shape_of_the_logits_all_are_answers() -> None:
    """As those of exits on the way, some of which are read by what follows."""
    network = Embedding(lambda y, z, *_: (y, z))
    network.head = nn.Linear(32, 32)
    assert prune(network, IMAGES[:2], 0.5).report().outputs == {}
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 8))
    with pytest.raises(PruningError):
        prune(network, IMAGES[:2], 0.5, keep="outputs")


def test_a_module_that_is_called_outputs_is_kept_as_well() -> None:
    network = nn.Sequential()
    network.add_module("enter", nn.Linear(8, 32))
    network.add_module("outputs", nn.Linear(32, 32))
    network.add_module("head", nn.Linear(32, 3))
    assert [w.proxy for w in prune(network, torch.randn(2, 8), 0.5, keep="outputs").report().widths] == [16, 32, 3]


def test_a_proxy_that_also_gives_an_embedding_is_repaired_trained_and_asked() -> None:
    network = Embedding(lambda y, z, *_: {"logits": y, "features": z})
    network(IMAGES)["logits"].sum().backward()
    proxy = prune(network, IMAGES[:2], 0.5)
    repaired = repair(network, proxy, IMAGES.repeat(8, 1, 1, 1), distil=Imitation(epochs=1))
    assert repaired.report().outputs == {"features": ((2, 32), (2, 16))}
    trainer = TorchTrainer(epochs=1, batch_size=4, device="cpu", progress=False)
    selector = PrunedProxySelector(network, 0.5, scorer="k_center", trainer=trainer, random_state=0)
    selector.fit(IMAGES, np.array([0, 1, 2, 3]))
    pool = torch.randn(12, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    assert len(set(selector.query(pool, 3).tolist())) == 3
    assert selector.predict_proba(pool).shape == (12, 4)
    with torch.no_grad():
        assert selector.fuse()(IMAGES)["features"].shape == (4, 32)
