"""Inside a selector: scorers made of scorers, dropout passes, features on disk, and pools larger than memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from fakes import assert_same_picks, blobs, seeded
from torch import nn

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator, TorchTrainer
from prunefuse_al.errors import InputError
from prunefuse_al.scorers import ClassBalanced, ClassStandardised, CostAware, Mixture, TwoStage, bald
from prunefuse_al.training import reader
from prunefuse_al.types import Selection

X, Y = blobs(400)
ROWS = np.arange(60, 400)


class Watching(TorchTrainer):
    """Notes which signals are read, for how many rows."""

    def infer(self, model: Any, data: Any, needs: Any = ("logits",)) -> Any:
        log.append((frozenset(needs), len(data)))
        return super().infer(model, data, needs)


log: list[tuple[frozenset[str], int]] = []


def fitted(**options: Any) -> PrunedProxySelector:
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)))
    trainer = Watching(2, device="cpu", progress=False, mc_samples=5)
    return PrunedProxySelector(net, 0.5, trainer=trainer, random_state=0, **options).fit(X[:60], Y[:60])


@dataclass(frozen=True)
class Wide:
    """Prefers long feature vectors, and says it looks at all candidates."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def select(self, signals, k, *, rng=None):
        return Selection(signals.indices[signals.features.float().norm(dim=1).argsort(descending=True)[:k]])


@pytest.mark.parametrize(
    "scorer",
    [
        TwoStage("margin", Wide(), keep=4),
        TwoStage(Mixture("margin", "bald"), ClassBalanced("entropy")),
        Mixture("entropy", "random"),
        ClassBalanced("margin"),
        ClassBalanced(Wide()),
        ClassStandardised("entropy"),
        CostAware("margin", np.linspace(1, 2, 400)),
    ],
    ids=repr,
)
def test_stages_pick_in_a_selector_what_they_pick_from_signals(scorer, monkeypatch):
    """Read stage by stage and in small parts, or all at once: the same picks."""
    selector = fitted()
    signals = selector.signals(X, scorer.needs)
    signals = type(signals)(
        torch.from_numpy(ROWS),
        *(None if v is None else v[ROWS] for v in (signals.logits, signals.features)),
        None if signals.mc_logits is None else signals.mc_logits[:, ROWS],
        None if signals.labels is None else signals.labels[ROWS],
    )
    want = scorer.select(signals, 12, rng=np.random.default_rng(3)).indices
    monkeypatch.setattr(reader, "CHUNK", 32)
    got = selector.select(X, 12, ROWS, scorer=scorer, rng=np.random.default_rng(3)).indices
    assert got.tolist() == want.tolist()


def test_a_second_stage_reads_only_what_the_first_leaves():
    selector = fitted()
    log.clear()
    selector.select(X, 10, ROWS, scorer=TwoStage("margin", Wide(), keep=3))
    assert log == [(frozenset({"logits"}), 340), (frozenset({"features"}), 30)]


def test_class_balance_takes_one_pass_and_keeps_no_logits():
    selector = fitted()
    log.clear()
    picked = selector.select(X, 9, ROWS, scorer="class_balanced").indices
    assert log == [(frozenset({"logits"}), 340)]
    predicted = selector.predict_proba(X[picked]).argmax(1)
    assert np.bincount(predicted).max() <= 3 or len(set(predicted)) < 3


@pytest.mark.parametrize("scorer", ["bald", "batchbald"])
def test_dropout_scorers_pick_the_same_however_the_pool_is_read(scorer, monkeypatch):
    selector = fitted()
    want = selector.select(X, 8, ROWS, scorer=scorer)
    monkeypatch.setattr(reader, "CHUNK", 17)
    got = selector.select(X, 8, ROWS, scorer=scorer)
    torch.testing.assert_close(got.scores, want.scores, rtol=1e-4, atol=1e-6)
    assert_same_picks(got.indices, want.indices, bald(selector.signals(X, frozenset({"mc_logits"})).mc_logits))


def test_what_is_read_at_once_is_bounded_in_numbers_not_in_rows(monkeypatch):
    monkeypatch.setattr(reader, "VALUES", 5 * 3 * 40)  # forty rows of five passes and three classes
    selector = fitted()
    log.clear()
    selector.select(X.repeat(8, 1), 3, scorer="bald")
    sizes = [rows for _, rows in log]
    assert sum(sizes) == 3200
    assert sizes[0] == 1024
    assert max(sizes[1:]) == 40


def test_features_of_a_query_on_disk(tmp_path):
    path = tmp_path / "pool.npy"
    plain, stored = fitted(), fitted(features_path=path, features_dtype="float16")
    want = plain.select(X, 12, ROWS, scorer=Wide()).indices
    assert len(set(want.tolist()) & set(stored.select(X, 12, ROWS, scorer=Wide()).indices.tolist())) >= 11
    features = plain.signals(X, frozenset({"features"})).features[ROWS]
    np.testing.assert_allclose(np.load(path), features, rtol=1e-3, atol=1e-6)  # half precision, of other batches
    with pytest.raises(InputError, match="features_dtype='half'"):
        fitted(features_dtype="half")
    assert PruneFuseEstimator(features_path="a.npy").get_params()["features_path"] == "a.npy"


@pytest.mark.parametrize("scorer", [TwoStage("margin", "bald"), Mixture(), ClassBalanced("entropy")])
def test_combined_scorers_are_saved_by_value(scorer, tmp_path):
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)))
    trainer = TorchTrainer(1, device="cpu", progress=False)
    selector = PrunedProxySelector(net, 0.5, scorer=scorer, trainer=trainer, random_state=0).fit(X[:60], Y[:60])
    selector.save(tmp_path / "s.safetensors")
    loaded = PrunedProxySelector.load(tmp_path / "s.safetensors", net)
    assert loaded.options.scorer == scorer
    np.testing.assert_array_equal(loaded.query(X, 6, ROWS), selector.query(X, 6, ROWS))
