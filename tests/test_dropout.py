"""A stochastic pass is one thinned network, the same for all samples, and dropout is all that differs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fakes import seeded
from torch import Tensor, nn

from prunefuse_al.errors import UnsupportedModelError
from prunefuse_al.network.dropout import ThinnedPass
from prunefuse_al.network.signals import collect

X = torch.randn(23, 8, generator=torch.Generator().manual_seed(0))
LAYERS = {
    "plain": (nn.Dropout(0.4), (23, 8)),
    "one": (nn.Dropout1d(0.4), (23, 8, 5)),
    "two": (nn.Dropout2d(0.4), (23, 8, 5, 4)),
    "three": (nn.Dropout3d(0.4), (23, 8, 5, 4, 2)),
    "alpha": (nn.AlphaDropout(0.4), (23, 8)),
    "feature alpha": (nn.FeatureAlphaDropout(0.4), (23, 8, 5, 4)),
}


class Functional(nn.Module):
    """Drops by function, which eval mode switches off."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first, self.a, self.b = batch_first, nn.Linear(2, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.view(len(x), 4, 2)
        steps = steps if self.batch_first else steps.transpose(0, 1)
        h = F.dropout(self.a(steps).relu(), 0.5, training=self.training)
        return self.b(h.sum(1 if self.batch_first else 0))


def layered() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)))


@pytest.mark.parametrize("make", [layered, lambda: seeded(Functional), lambda: seeded(lambda: Functional(False))])
def test_masks_do_not_depend_on_how_rows_are_batched(make) -> None:
    model = make()
    whole = collect(model, X, {"mc_logits"}, mc_samples=4, batch_size=23).mc_logits
    for size in (3, 5, 22):
        torch.testing.assert_close(collect(model, X, {"mc_logits"}, mc_samples=4, batch_size=size).mc_logits, whole)
    assert not torch.equal(whole[0], whole[1])
    rows = torch.tensor([7, 2, 19])
    torch.testing.assert_close(collect(model, X[rows], {"mc_logits"}, mc_samples=4).mc_logits, whole[:, rows])


def test_a_pass_is_one_network() -> None:
    """Equal samples get equal answers within a pass, and other ones in another."""
    same = X[:1].repeat(23, 1)
    found = collect(layered(), same, {"mc_logits"}, mc_samples=5).mc_logits
    torch.testing.assert_close(found, found[:, :1].expand_as(found))
    assert len({tuple(row) for row in found[:, 0].tolist()}) == 5


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_dropout_keeps_mean_and_form(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    outputs = []
    for number in range(400):
        with ThinnedPass(len(x), 0, number):
            outputs.append(layer.eval()(x))
    result = torch.stack(outputs)
    alpha = "alpha" in name
    if not alpha:
        assert ((result == 0) | torch.isclose(result, x / 0.6)).all()
    same = result == result[:, :1] if alpha else (result == 0)
    dropped = same[:, 1:].all(1) if alpha else same[:, 0]  # [passes ...]
    assert abs(float(dropped.float().mean()) - 0.4) < 0.05
    if len(shape) > 2 and not name.startswith("plain"):  # whole channels
        flat = dropped.flatten(2)
        assert torch.equal(flat.all(2), flat.any(2))
    if alpha:  # self-normalising: mean and variance of a standard normal are kept
        assert abs(float(result.mean())) < 0.1
        assert abs(float(result.std()) - 1) < 0.1
    with ThinnedPass(len(x), 0, 7):
        assert torch.equal(layer.eval()(x), outputs[7])


def test_the_edges_of_a_rate() -> None:
    with ThinnedPass(23, 0, 0) as thinned:
        assert torch.equal(F.dropout(X, 0.0), X)
        assert torch.equal(F.dropout(X, 1.0), torch.zeros_like(X))
        assert torch.equal(F.alpha_dropout(X, 1.0), torch.zeros_like(X))
        windows = F.dropout(torch.ones(23 * 4, 6), 0.5)  # four rows for each sample
    assert thinned.calls == 4
    assert torch.equal(windows.view(23, 4, 6), windows.view(23, 4, 6)[:1].expand(23, 4, 6))
    assert len({tuple(row) for row in windows[:4].tolist()}) > 1


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.rnn, self.head = nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        return self.head(self.rnn(self.attention(x, x, x)[0])[0][:, 0])


def test_dropout_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"'attention' \(MultiheadAttention\), 'rnn' \(LSTM\) is inside one"
    ):
        collect(seeded(Attending), X, {"mc_logits"})
    with pytest.raises(UnsupportedModelError, match=r"Linear, which has no dropout that can be switched on: all its"):
        collect(seeded(lambda: nn.Linear(8, 3)), X, {"mc_logits"})
