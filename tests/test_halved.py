"""`TorchTrainer(eval_precision=...)`: half precision where logits stay near, and full precision, said, where not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import blobs, mlp, trainer
from torch import Tensor, nn

from prunefuse_al.errors import FallbackWarning
from prunefuse_al.network import halved
from prunefuse_al.network.signals import collect

X, _ = blobs(90)


class Offset(nn.Module):
    """Gives logits far from 0, where half precision has no room for what rows differ by."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = mlp(6, 8, 3), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return torch.nn.functional.linear(self.inner(x), torch.eye(3), torch.full((3,), 1000.0))


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunefuse_al.network.precision.has_bf16", lambda device: True)


def read(network: nn.Module, size: int = 16, **options: Any) -> Tensor:
    logits = trainer(eval_batch_size=size, **options).infer(network, X).logits
    assert logits is not None
    return logits


def test_logits_in_half_precision_are_near() -> None:
    network = mlp(6, 8, 3)
    found, expected = read(network, eval_precision="bf16"), read(network)
    assert not torch.equal(found, expected)
    assert torch.equal(found, read(network, precision="bf16"))
    assert float((found - expected).norm() / (expected - expected.mean(0)).norm()) < halved.FURTHEST


def test_a_network_that_needs_more_is_read_in_full_and_it_is_said() -> None:
    network, heard = Offset(), []
    network.register_forward_pre_hook(lambda *_: heard.append(1))
    with pytest.warns(FallbackWarning, match=r"bfloat16 the logits of the first 16 rows are off by .*0\.02 is allowed"):
        found = read(network, eval_precision="bf16")
    assert torch.equal(found, read(Offset()))
    assert len(heard) == 6  # each batch once
    assert network.seen == [True, False, *[False] * 6]


def test_a_few_batches_are_read_in_full() -> None:
    network = mlp(6, 8, 3)
    assert torch.equal(read(network, 30, eval_precision="bf16"), read(network, 30))


def test_it_is_not_that_of_training_and_none_follows_it() -> None:
    network = mlp(6, 8, 3)
    assert torch.equal(read(network, precision="bf16", eval_precision="fp32"), read(network))
    assert torch.equal(
        collect(network, X, batch_size=16, device="cpu", precision="bf16").logits,  # type: ignore[arg-type]
        read(network, precision="bf16"),
    )
