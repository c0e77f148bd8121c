"""AdaPruner's mask moves as its oracle says, belongs to its rows, and is learnt in `coreset` alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import blobs, mlp
from hypothesis import given
from hypothesis import strategies as st
from oracles import adapruner as oracle
from torch.utils.data import TensorDataset

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data import as_dataset
from prunefuse_al.errors import InputError
from prunefuse_al.proxies import Probe
from prunefuse_al.scorers import AdaPruner, ClassBalanced, Mixture, loss_band, mask_gradient
from prunefuse_al.training import EarlyStopping, MaskLearner, Weighed
from prunefuse_al.training.masking import FIRST, LAST

X, Y = blobs(90, 6, 3)
losses = st.lists(st.floats(1e-3, 20), min_size=1, max_size=6)


@given(losses=losses, data=st.data())
def test_the_mask_moves_as_the_objective_falls(losses, data):
    mask = data.draw(st.lists(st.floats(-3, 3), min_size=len(losses), max_size=len(losses)))
    steepness, keep, share = (data.draw(st.floats(0.1, 1.0)) for _ in range(3))
    got = mask_gradient(torch.tensor(losses), torch.tensor(mask).double(), steepness=steepness, keep=keep, share=share)
    exact = torch.tensor(losses).double().tolist()  # as single precision holds them
    want = oracle.gradient(exact, mask, steepness, keep, share)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_the_worked_example():
    given_losses, mask = [0.1, 1.0, 3.0], [1.0, 1.0, 1.0]
    assert oracle.objective(given_losses, mask, 2, 0.5, 26) == pytest.approx(5.327375, abs=1e-6)
    assert oracle.objective(given_losses, mask, 2, 0.5, 0) == pytest.approx(1.557208, abs=1e-6)
    found = mask_gradient(torch.tensor(given_losses).double(), torch.tensor(mask), steepness=2, keep=0.5, share=1)
    assert found.tolist() == pytest.approx([1.554180, 1.456012, 1.519105], abs=1e-6)


def replayed(logits, keep, epochs=30, rate=0.1):
    """A training whose losses never change, in shuffled batches."""
    n = len(logits)
    learner = MaskLearner(n, keep, rate)
    learner.begin(n, epochs)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(n, generator=torch.Generator().manual_seed(epoch)).split(64):
            learner.see(rows, logits[rows], torch.zeros(len(rows), dtype=torch.int64))
        learner.end_epoch(epoch, torch.nn.Identity(), 0.1)
    return learner


@pytest.mark.parametrize("keep", [0.9, 0.5])
def test_by_frozen_losses_the_mask_is_the_loss_band(keep):
    """A mask tied to positions in a shuffled epoch would agree by chance alone."""
    logits = 3 * torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    learner = replayed(logits, keep)
    k = round(keep * 600)
    best = loss_band(logits, torch.zeros(600, dtype=torch.int64)).topk(k).indices
    kept = learner.mask.topk(k).indices
    assert len(set(best.tolist()) & set(kept.tolist())) >= 0.96 * k
    assert float((learner.mask > 0).double().mean()) == pytest.approx(keep, abs=0.2)
    torch.testing.assert_close(learner.weights, torch.sigmoid(LAST * learner.mask))


def test_weights_stay_for_an_epoch_and_begin_alike():
    learner = MaskLearner(4, 0.5, 0.1)
    first = learner.weights.clone()
    assert torch.equal(first, torch.sigmoid(torch.full((4,), FIRST, dtype=torch.float64)))
    learner.begin(4, 2)
    learner.see(torch.arange(4), torch.tensor([[9.0, 0], [0, 0], [0, 0], [0, 9]]), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(learner.weights, first)
    learner.end_epoch(1, torch.nn.Identity(), 0.1)
    assert not torch.equal(learner.weights, first)
    assert learner.mask.argsort().tolist()[:2] == [0, 3]  # the easy one goes first, then the hopeless one


@pytest.mark.parametrize("items", [True, False])
def test_weights_go_beside_those_that_rows_have(items):
    own = torch.linspace(1, 2, 90).double()
    data = TensorDataset(X, Y, own) if items else None
    weighed = Weighed(as_dataset(X, Y, sample_weight=own) if data is None else data, Y, torch.full((90,), 0.5).double())
    assert float(weighed[3][2]) == pytest.approx(float(own[3]) / 2)
    if not items:
        torch.testing.assert_close(weighed.take(torch.tensor([3, 8]))[2], own[[3, 8]] / 2)


def selector(scorer, **options):
    trainer = options.pop("trainer", TorchTrainer(4, 16, device="cpu", progress=False))
    return PrunedProxySelector(mlp(6, 16, 3), 0.5, trainer=trainer, scorer=scorer, random_state=0, **options)


@pytest.mark.parametrize(
    "data", [(X, Y), TensorDataset(X, Y), (X, Y, torch.rand(90, generator=torch.Generator().manual_seed(0)))]
)
def test_a_core_set_is_what_the_mask_keeps_of_every_store(data):
    chosen = selector(AdaPruner(epochs=3))
    kept = chosen.coreset(data, 0.3)
    assert len(kept.indices.unique()) == 27
    assert kept.labels == "given"
    assert kept.scores.diff().max() <= 0
    assert kept.scores.unique().numel() > 1
    samples = {row.stage: row.samples for row in chosen.costs.rows()}
    assert samples["retrain_proxy"] == 3 * 90 + 2


@pytest.mark.parametrize("scorer", [ClassBalanced(AdaPruner(2)), Mixture(AdaPruner(2), "aum")])
def test_it_may_be_a_part(scorer):
    assert len(selector(scorer).coreset((X, Y), 0.3).indices) == 27


def test_a_probe_learns_a_mask_too():
    assert len(selector(AdaPruner(2), proxy=Probe(), pretrained=False).coreset((X, Y), 0.3).indices) == 27


def test_a_pool_has_nothing_to_train_on():
    fitted = selector("margin").fit(X[:40], Y[:40])
    for scorer in ("adapruner", ClassBalanced("adapruner")):
        with pytest.raises(InputError, match=r"query: .* a pool has none: take loss_band, or call coreset\(\)"):
            fitted.select(X, 5, scorer=scorer)
    assert fitted.select(X, 5, scorer="loss_band").labels == "predicted"


def test_rows_held_out_have_no_mask():
    trainer = TorchTrainer(4, 16, device="cpu", progress=False, early_stopping=EarlyStopping(2))
    with pytest.raises(InputError, match="early stopping holds"):
        selector("adapruner", trainer=trainer).coreset((X, Y), 0.3)
