"""DropQuery counts, chooses and spreads as its oracle does, and gets the head of whatever network asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import blobs, mlp, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import dropquery as oracle
from oracles import dropquery_init as init_oracle
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data import as_dataset
from prunefuse_al.errors import UnsupportedModelError
from prunefuse_al.proxies import Probe
from prunefuse_al.scorers import DropQuery, DropQueryInit, dropquery, dropquery_flips, dropquery_init
from prunefuse_al.scorers import _dropquery as module
from prunefuse_al.training.reader import Reader
from prunefuse_al.types import Signals, as_rng

FLIPS = torch.tensor([0, 1, 2, 3, 1])
PASSES = torch.tensor([[0, 1, 0, 1, 1], [0, 2, 0, 1, 1], [0, 1, 2, 1, 2]])
CLASSES = torch.tensor([0, 1, 2, 0, 1])


class Given:
    """Clusters that are known beforehand."""

    def __init__(self, labels):
        self.labels = np.asarray(labels)

    def fit_predict(self, X):
        assert len(X) == len(self.labels)
        return self.labels


def one_hot(classes):
    return nn.functional.one_hot(classes, 3).double()


def by_network(features, **options):
    """The worked example's passes as the network's own."""
    signals = Signals(torch.arange(5), one_hot(CLASSES), features, one_hot(PASSES))
    return lambda k, rng=0: DropQuery(passes_by="network", **options).select(signals, k, rng=rng).indices.tolist()


def test_the_worked_example():
    assert DropQuery(passes_by="network")._network_flips(one_hot(PASSES), one_hot(CLASSES)).tolist() == FLIPS.tolist()
    for oversampling, want, threshold in ((2, [2, 3], 1), (25, [1, 2, 3, 4], 0)):
        assert module._candidates(FLIPS, 3, oversampling).tolist() == want
        assert oracle.candidates(FLIPS.tolist(), 3, 1, oversampling) == (want, threshold)
    features = torch.tensor([[5.0, 5], [1, 0], [0, 1], [3, 0], [0, 2]])
    assert sorted(by_network(features, oversampling=2)(2)) == [1, 2]
    assert by_network(features, oversampling=2, clusterer=Given([7, -1, 7, -1]))(2) == [2, 1]  # more changes first
    assert by_network(features)(5) == [3, 2, 1, 4, 0]


@settings(max_examples=60)
@given(data=st.data())
def test_flips_and_picks_are_the_oracles(data):
    n, c, d = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([2, 4])), data.draw(st.integers(1, 4))
    passes, dropout = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([0.0, 0.5, 0.75]))
    k, seed = data.draw(st.integers(1, n)), data.draw(st.integers(0, 99))
    oversampling = data.draw(st.sampled_from([0.5, 1, 3, 25]))
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=rng, dtype=torch.float64)
    head = torch.randn(c, d + 1, generator=rng, dtype=torch.float64)
    logits = features @ head[:, :-1].T + head[:, -1]
    generator = as_rng(seed)
    masks = generator.random((n, passes, d)) >= dropout
    want = oracle.flips(logits.tolist(), features.tolist(), head.tolist(), masks.tolist(), dropout)
    options = {"passes": passes, "dropout": dropout, "rng": seed}
    assert dropquery_flips(logits, features, head, **options).tolist() == want
    chosen, _ = oracle.candidates(want, passes, k, oversampling)
    if len(chosen) < k:
        rest = [i for i in range(n) if i not in chosen]
        picked, clusterer = chosen + generator.permutation(rest)[: k - len(chosen)].tolist(), None
    else:
        clusterer = Given(np.arange(len(chosen)) * 7 % k)  # k clusters
        picked = [chosen[i] for i in oracle.middles(features[chosen].tolist(), clusterer.labels.tolist())]
    got = dropquery(logits, features, head, k, oversampling=oversampling, clusterer=clusterer, **options)
    assert got.tolist() == sorted(picked, key=lambda i: (-want[i], i))


def test_masks_do_not_depend_on_how_many_rows_are_looked_at_together(monkeypatch):
    features, head = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.eye(3, 7)
    logits = features @ head[:, :-1].T
    want = dropquery_flips(logits, features, head, rng=1)
    monkeypatch.setattr(module, "_NUMBERS", 100)
    assert torch.equal(dropquery_flips(logits, features, head, rng=1), want)
    assert want.unique().numel() > 1


def test_features_at_the_ends_of_the_range():
    features, head = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double(), torch.eye(3, 7).double()
    want = dropquery(features[:, :3], features, head, 5, rng=1).tolist()
    for scale in (2.0**1000, 2.0**-1000):
        assert dropquery(features[:, :3] * scale, features * scale, head, 5, rng=1).tolist() == want


@settings(max_examples=60)
@given(n=st.integers(1, 20), k=st.integers(1, 6), seed=st.integers(0, 50))
def test_the_first_are_the_middles_of_clusters(n, k, seed):
    rng = torch.Generator().manual_seed(seed)
    features, clusters = torch.randn(n, 3, generator=rng).double(), torch.randint(min(k, n), (n,), generator=rng)
    want = init_oracle.pick(features.tolist(), clusters.tolist())
    got = dropquery_init(features, min(k, n), clusterer=Given(clusters)).tolist()
    assert set(want) <= set(got)
    assert len(got) == min(k, n)  # an empty cluster's place is filled
    assert got == sorted(got)


def test_the_first_by_kmeans_are_one_of_each_blob():
    features = torch.cat([torch.eye(4)[[c]] * (1 + torch.arange(20.0)[:, None] / 20) for c in range(4)])
    features += 0.01 * torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    picked = dropquery_init(features, 4, rng=0)
    assert (picked // 20).tolist() == [0, 1, 2, 3]
    assert len(dropquery_init(torch.ones(9, 2), 5, rng=0).unique()) == 5


def test_clusters_are_told_by_direction_not_by_length():
    features = torch.tensor([[1.0, 0.0], [100.0, 1.0], [0.0, 1.0], [1.0, 100.0]])
    picked = DropQueryInit().select(Signals(torch.arange(4), features=features), 2, rng=0).indices
    assert sorted((picked // 2).tolist()) == [0, 1]


# The head, of a selector's network

X, Y = blobs(200)


class Convolutional(nn.Module):
    """Ends in a convolution whose outputs are averaged."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 5, 3), nn.Conv1d(5, 3, 1)

    def forward(self, x):
        return self.last(self.first(x[:, None]).relu()).mean(2)


class Product(nn.Module):
    """Ends in a product with a matrix that no layer holds."""

    def __init__(self):
        super().__init__()
        self.first, self.matrix = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 3))

    def forward(self, x):
        return self.first(x).relu() @ self.matrix


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: mlp(6, 8, 3), {}),
        (lambda: mlp(6, 3, 3), {}),  # other layers have the same shape
        (Convolutional, {}),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)), {}),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), {"outputs": "sigmoid"}),
    ],
)
def test_the_head_makes_the_logits_of_the_features(make, options):
    trainer = TorchTrainer(1, device="cpu", progress=False, **options)
    reader = Reader(trainer, seeded(make), as_dataset(X))
    said = reader.signals(None, frozenset({"logits", "features"}))
    head = reader.head(torch.arange(len(X)))
    made = said.features @ head[:, :-1].T + head[:, -1]
    torch.testing.assert_close(made, said.logits, atol=1e-4, rtol=1e-4)


def test_a_network_without_such_a_layer_is_refused():
    trainer = TorchTrainer(1, device="cpu", progress=False)
    selector = PrunedProxySelector(seeded(Product), 0.0, trainer=trainer, scorer="dropquery").fit(X[:50], Y[:50])
    with pytest.raises(UnsupportedModelError, match=r"no layer of Product does: .* DropQuery\(passes_by='network'\)"):
        selector.query(X, 5)


@pytest.mark.parametrize("proxy", [None, Probe()])
def test_selectors_give_the_head(proxy):
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)))
    trainer = TorchTrainer(2, device="cpu", progress=False)
    selector = PrunedProxySelector(net, 0.5, trainer=trainer, proxy=proxy, random_state=0, pretrained=False)
    selector.fit(X[:50], Y[:50])
    picked = selector.select(X, 9, scorer="dropquery", rng=0)
    assert len(picked.indices.unique()) == 9
    assert selector.select(X, 9, scorer="dropquery_init", rng=0).labels is None
    assert selector.coreset(X, y=Y, fraction=0.1, scorer="dropquery").indices.shape == (20,)


def test_too_few_passes_of_the_network_are_said():
    signals = Signals(torch.arange(5), one_hot(CLASSES), torch.ones(5, 2), one_hot(PASSES)[:2])
    assert DropQuery(passes_by="network").needs == {"logits", "features", "mc_logits"}
    with pytest.raises(ValueError, match="mc_logits of 2 passes, and passes=3 are looked at: collect so many"):
        DropQuery(passes_by="network").select(signals, 2)
