"""Core-set mode: all labels known, one training of the proxy on all of it, the best part kept, the target on that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import PlainTrainer, blobs, mlp
from torch import nn
from torch.utils.data import TensorDataset

from prunefuse_al.errors import FallbackWarning, InputError
from prunefuse_al.scorers import SCORERS, moderate
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.training import EarlyStopping, Recorder, TorchTrainer

X, Y = blobs(90, 6, 3)
TRAINER = TorchTrainer(12, 8, device="cpu", progress=False)


def selector(scorer: Any = "least_confidence", **options: Any) -> PrunedProxySelector:
    network = mlp(6, 16, 3)
    if scorer in ("bald", "batchbald", "ml_bald"):  # they compare passes that dropout has thinned
        network.insert(2, nn.Dropout(0.2))
    return PrunedProxySelector(network, 0.5, scorer=scorer, random_state=0, **{"trainer": TRAINER, **options})


def test_what_is_compared_with_other_labelled_samples_has_none_to_compare_with() -> None:
    with pytest.raises(InputError, match="10 of 0 labelled samples; at least one is needed"):
        selector("cal").coreset((X, Y), 0.3)


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "cal"])
def test_every_scorer_keeps_a_part_to_train_the_target_on(name: str) -> None:
    chosen = selector(name)
    kept = chosen.coreset((X, Y), 0.3)
    rows = kept.indices.tolist()
    assert len(rows) == len(set(rows)) == 27
    assert set(rows) <= set(range(90))
    reads_labels = SCORERS[name]().needs & {"labels", "dynamics"}
    assert kept.labels == ("given" if reads_labels else None)
    target = chosen.fit_target()
    assert target[0].out_features == 16
    assert (target.eval()(X).argmax(1) == Y).float().mean() > 0.8
    passed = {row.stage: row.samples for row in chosen.costs.rows()}
    assert passed["train_proxy"] == 12 * 90 + 2  # two rows are tried first
    assert passed["train_target"] == 12 * 27 + 2
    again = selector(name).coreset((X, Y), 0.3)
    assert again.indices.tolist() == rows


def test_the_ledger_speaks_of_a_core_set() -> None:
    chosen = selector("aum")
    chosen.coreset((X, Y), 0.3)
    assert [row.stage for row in chosen.costs.rows()] == ["prune", "train_proxy", "score", "coreset"]
    assert chosen.costs.verdict().startswith("choosing the core set took 0.")
    chosen.fit_target()
    assert chosen.costs.verdict().endswith("of one training of the dense network on all data: it pays")
    chosen.fit(X[:40], Y[:40]).query(X, 5)
    assert "the dense loop's MACs" in chosen.costs.verdict()


def test_dynamics_are_those_of_the_training_with_given_labels() -> None:
    chosen = selector("aum")
    kept = chosen.coreset(X, 0.2, Y)
    recorder, network = Recorder(), chosen._state.begun.network
    seed = chosen._state.begun.seed
    TRAINER.fit(network, (X, Y), seed=seed, recorder=recorder)
    aum = recorder.dynamics["aum"]
    assert kept.indices.tolist() == aum.argsort(stable=True)[:18].tolist()
    torch.testing.assert_close(kept.scores, -aum[kept.indices])


def test_what_is_known_is_not_asked_again() -> None:
    passed = {}
    for name in ("aum", "entropy", "moderate", "grand"):
        chosen = selector(name)
        chosen.coreset((X, Y), 0.2)
        (row,) = (row for row in chosen.costs.rows() if row.stage == "score")
        passed[name] = row.macs
    assert passed["aum"] == 0  # the training has told
    assert passed["moderate"] == passed["entropy"] > 0
    assert passed["grand"] == 8 * passed["entropy"]  # of ten states in twelve epochs, those of the first ten


def test_given_labels_stand_where_a_pool_has_predicted_ones() -> None:
    wrong = torch.randint(3, (90,), generator=torch.Generator().manual_seed(0))
    chosen = selector("moderate")
    kept = chosen.coreset(TensorDataset(X, wrong), 0.25)
    features = TRAINER.infer(chosen.model, X, ("features",)).features
    assert kept.indices.tolist() == moderate(features, wrong, 22).tolist()
    predicted = TRAINER.infer(chosen.model, X).logits.argmax(1)
    assert kept.indices.tolist() != moderate(features, predicted, 22).tolist()


def test_the_fraction_is_rounded_and_at_least_one() -> None:
    assert len(selector().coreset((X, Y), 0.001).indices) == 1
    assert sorted(selector().coreset((X, Y), 1).indices.tolist()) == list(range(90))
    assert len(selector().coreset((X.numpy(), Y.numpy()), 0.5, scorer="random").indices) == 45


def test_the_subset_may_be_named() -> None:
    chosen = selector("ccs")
    rows = chosen.coreset((X, Y), 0.3).indices
    assert chosen.fit_target(X[rows], Y[rows])[0].out_features == 16


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (((X, Y), 0), r"fraction=0; pass the share of the 90 samples to keep, 0 < fraction <= 1"),
        (((X, Y), 1.5), r"fraction=1\.5; pass the share"),
        (((X, Y), True), "fraction=True"),
        ((X, 0.5), "coreset: the data has no labels; pass y"),
        (((X, Y - 1), 0.5), "coreset: 30 labels are negative, such as -1; drop samples"),
        (((X, torch.nn.functional.one_hot(Y, 3).float()), 0.5), r"coreset: labels are torch\.float32 \[90, 3\]"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(arguments: Any, phrase: str) -> None:
    chosen = selector("aum")
    with pytest.raises(InputError, match=phrase):
        chosen.coreset(*arguments)
    assert chosen.round == 0
    assert len(chosen.costs) == 0


def test_early_stopping_that_holds_samples_out_is_refused_where_they_would_be_compared() -> None:
    stopping = TorchTrainer(4, 8, device="cpu", progress=False, early_stopping=EarlyStopping())
    with pytest.raises(
        InputError, match=r"AUM\(\) compares how samples were learnt, and early stopping holds 10% of th"
    ):
        selector("aum", trainer=stopping).coreset((X, Y), 0.5)
    assert len(selector("grand", trainer=stopping).coreset((X, Y), 0.5).indices) == 45
    for none_out in (EarlyStopping(validation_data=(X[:9], Y[:9])), EarlyStopping(monitor="train_loss")):
        stopping.set_params(early_stopping=none_out)
        assert len(selector("aum", trainer=stopping).coreset((X, Y), 0.5).indices) == 45


def test_a_trainer_of_ones_own() -> None:
    assert len(selector("moderate", trainer=PlainTrainer()).coreset((X, Y), 0.5).indices) == 45
    with pytest.warns(FallbackWarning, match=r"CCS\(difficulty='aum'.* is used"):
        assert len(selector("ccs", trainer=PlainTrainer()).coreset((X, Y), 0.5).indices) == 45
    with pytest.raises(InputError, match=r"PlainTrainer\.fit takes no `recorder`"):
        selector("aum", trainer=PlainTrainer()).coreset((X, Y), 0.5)


def test_mislabelled_samples_are_hardest_by_aum_and_left_out_by_ccs() -> None:
    rng = np.random.default_rng(0)
    x, y = blobs(200, 6, 3, seed=4)
    wrong = torch.from_numpy(rng.choice(200, 20, replace=False))
    y[wrong] = (y[wrong] + 1) % 3
    share = {}
    for name in ("aum", "ccs"):
        kept = selector(name).coreset((x, y), 0.2).indices
        share[name] = float(torch.isin(kept, wrong).float().mean())
    assert share["aum"] > 0.3
    assert share["ccs"] < share["aum"] / 2
