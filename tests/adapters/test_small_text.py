"""small-text's own learner around a thinned Hugging Face network."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.sparse
import torch
from fakes import Spread, assert_same_picks, seeded
from hosts import need_host
from sklearn.linear_model import LogisticRegression

need_host("small_text")
need_host("transformers")
# ruff: noqa: E402
import small_text
from small_text import PoolBasedActiveLearner, SklearnClassifierFactory, SklearnDataset
from small_text.integrations.transformers.datasets import TransformersDataset
from small_text.query_strategies import EmptyPoolException, PoolExhaustedException
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from prunefuse_al import PruneFuseEstimator, Selection, TorchTrainer
from prunefuse_al.adapters.small_text import PruneFuseClassifierFactory, ScorerStrategy, inputs_of
from prunefuse_al.errors import InputError, NotFittedError
from prunefuse_al.proxies import Probe

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:small_text")  # it calls what it deprecates

RNG = np.random.default_rng(0)
N, LENGTH = 120, 12
Y = np.arange(N) % 3
CONFIG = DistilBertConfig(
    vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=LENGTH, num_labels=3
)


def text(label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens [1 t] and mask [1 t]: words of the class's third of the vocabulary, and a few common ones."""
    length = RNG.integers(5, LENGTH + 1)
    words = np.where(RNG.random(length) < 0.9, RNG.integers(1, 20, length) + 20 * label, RNG.integers(1, 60, length))
    ids, mask = torch.zeros(1, LENGTH, dtype=torch.int64), torch.zeros(1, LENGTH, dtype=torch.int64)
    ids[0, :length], mask[0, :length] = torch.from_numpy(words), 1
    return ids, mask


DATA = [(*text(label), int(label)) for label in Y]


def dataset() -> Any:
    return TransformersDataset(list(DATA), target_labels=np.arange(3))


def estimator(**options: Any) -> PruneFuseEstimator:
    trainer = TorchTrainer(12, 16, optimizer="adam", lr=0.003, device="cpu", progress=False)
    network = seeded(lambda: DistilBertForSequenceClassification(CONFIG))
    return PruneFuseEstimator(network, 0.5, trainer=trainer, random_state=0, **options)


def learner(strategy: Any, factory: Any = None) -> Any:
    made = PoolBasedActiveLearner(factory or PruneFuseClassifierFactory(estimator(), 3), strategy, dataset())
    made.initialize_data(np.arange(30), Y[:30])
    return made


def test_the_loop_picks_what_the_core_picks_and_ends_in_a_target() -> None:
    factory = PruneFuseClassifierFactory(estimator(fine_tune_lr_scale=1), 3)
    active = learner(ScorerStrategy("margin"), factory)
    for number in range(1, 3):
        free = np.setdiff1d(np.arange(N), active.indices_labeled)
        rows = active.query(num_samples=10)
        selector = factory.estimator.selector_
        margin = selector.select(inputs_of(active.dataset), 10, candidates=free, scorer="margin").indices
        np.testing.assert_array_equal(rows, margin)
        active.update(Y[rows])
        assert selector.round == number  # of the classifier that picked; the next one has its own
        assert factory.estimator.selector_.round == number + 1
    assert factory.estimator.selector_.model.classifier.in_features == 16
    assert (active.classifier.predict(active.dataset) == Y).mean() > 0.8
    target = factory.fit_target()
    assert target.classifier.in_features == 32
    assert (active.classifier.predict(active.dataset) == Y).mean() > 0.8
    stages = [row.stage for row in factory.estimator.costs_.rows()]
    assert (stages.count("prune"), stages.count("train_proxy")) == (1, 3)


def test_a_classifier_of_an_earlier_round_stays_what_it_was() -> None:
    active = learner(ScorerStrategy())
    first = active.classifier
    before = first.predict_proba(active.dataset)
    rows = active.query(num_samples=10)
    active.update(Y[rows])
    assert active.classifier is not first
    np.testing.assert_array_equal(first.predict_proba(active.dataset), before)
    again = PruneFuseClassifierFactory(estimator(), 3).new().fit(dataset()[np.arange(30)])
    np.testing.assert_array_equal(again.predict_proba(active.dataset), before)


def test_the_pool_is_repaired_on_if_the_factory_is_given_it() -> None:
    def rows(**options: Any) -> tuple[int, Any]:
        own = {"pretrained": True, **options.pop("own", {})}
        factory = PruneFuseClassifierFactory(estimator(**own), 3, **options)
        learner(ScorerStrategy("margin"), factory)
        selector = factory.estimator.selector_
        return selector._state.start.repair_report.rows, selector._state.start.module

    (few, bare), (many, given), (same, own) = (
        rows(),
        rows(unlabelled=dataset()),
        rows(own={"unlabelled": inputs_of(dataset())}),
    )
    assert (few, many, same) == (30, N, N)
    torch.testing.assert_close(given.state_dict(), own.state_dict())
    assert not torch.equal(given.state_dict()["pre_classifier.weight"], bare.state_dict()["pre_classifier.weight"])


def test_a_probe_reads_each_text_once() -> None:
    factory = PruneFuseClassifierFactory(estimator(proxy=Probe()), 3, unlabelled=dataset())
    active = learner(ScorerStrategy("margin"), factory)
    for _ in range(2):
        rows = active.query(num_samples=10)
        active.update(Y[rows])
    computed = [row.samples for row in factory.estimator.costs_.rows() if row.stage == "features"]
    assert sum(computed) == N
    assert factory.fit_target().classifier.in_features == 32


@pytest.mark.touches_global_rng  # small-text's own strategies draw from NumPy's
@pytest.mark.parametrize(
    "name", ["BreakingTies", "PredictionEntropy", "EmbeddingKMeans", "LightweightCoreset", "ContrastiveActiveLearning"]
)
def test_small_texts_own_strategies(name: str) -> None:
    options = {"k": 3} if name == "ContrastiveActiveLearning" else {}
    rows = learner(getattr(small_text, name)(**options)).query(num_samples=6)
    assert len(set(rows.tolist())) == 6
    assert min(rows) >= 30


@pytest.fixture(scope="module")
def trained() -> Any:
    return PruneFuseClassifierFactory(estimator(), 3).new().fit(dataset()[np.arange(60)])


def test_answers_have_the_hosts_shapes(trained: Any) -> None:
    data = dataset()
    labels, proba = trained.predict(data, return_proba=True)
    assert (labels.shape, proba.shape, proba.dtype) == ((N,), (N, 3), np.float64)
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_array_equal(trained.predict(data), proba.argmax(1))
    features, same = trained.embed(data, return_proba=True, pbar="tqdm")
    assert features.shape == (N, 16)
    np.testing.assert_array_equal(same, proba)
    np.testing.assert_array_equal(trained.embed(data), features)
    assert trained.predict_proba(data[np.arange(0)]).shape == (0, 3)
    view = data[np.arange(50)][np.array([3, 7])]
    np.testing.assert_allclose(trained.predict_proba(view), proba[[3, 7]], rtol=1e-5)


def test_weights_count() -> None:
    data = dataset()[np.arange(60)]
    weights = np.where(Y[:60] == 0, 1e-6, 1.0)
    blind = PruneFuseClassifierFactory(estimator(), 3).new().fit(data, weights=weights)
    assert (blind.predict(dataset()) == 0).mean() < 0.05


def test_any_scorer_with_small_texts_own_classifiers() -> None:
    x = RNG.normal(size=(60, 4)) + 2 * np.eye(3, 4)[Y[:60]]
    data = SklearnDataset(x, Y[:60], target_labels=np.arange(3))
    active = PoolBasedActiveLearner(SklearnClassifierFactory(LogisticRegression(), 3), ScorerStrategy("entropy"), data)
    active.initialize_data(np.arange(20), Y[:20])
    p = active.classifier.predict_proba(data[np.arange(20, 60)])
    negative = np.concatenate([np.zeros(20), (p * np.log(p)).sum(1)])
    assert_same_picks(active.query(num_samples=5), negative.argsort()[:5], negative)
    with pytest.raises(AttributeError, match="embed"):
        ScorerStrategy(Spread()).query(active.classifier, data, np.arange(20, 60), np.arange(20), Y[:20], 5)
    needy = ScorerStrategy(Passes())
    with pytest.raises(InputError, match="reads mc_logits, but all that was given here is labels, logits"):
        needy.query(active.classifier, data, np.arange(20, 60), np.arange(20), Y[:20], 5)


class Passes:
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "mc_logits"})

    def select(self, signals: Any, k: int, *, rng: Any = None) -> Selection:
        raise AssertionError("asked without its signals")


def test_features_reach_a_scorer(trained: Any) -> None:
    data, free = dataset(), np.arange(60, N)
    rows = ScorerStrategy(Spread()).query(trained, data, free, np.arange(60), Y[:60], 4)
    features = torch.from_numpy(trained.embed(data))
    far = (features - features[60:].mean(0)).norm(dim=1)
    assert_same_picks(rows, 60 + far[60:].argsort(descending=True)[:4], far)


def test_an_estimator_goes_into_small_texts_own_factory() -> None:
    x = (RNG.normal(size=(60, 4)) + 2 * np.eye(3, 4)[Y[:60]]).astype(np.float32)
    data = SklearnDataset(x, Y[:60], target_labels=np.arange(3))
    factory = SklearnClassifierFactory(PruneFuseEstimator(classes=range(3), random_state=0), 3)
    active = PoolBasedActiveLearner(factory, small_text.BreakingTies(), data)
    active.initialize_data(np.arange(20), Y[:20])
    rows = active.query(num_samples=5)
    active.update(Y[rows])
    assert active.classifier.model.score(x, Y[:60]) > 0.7


def test_a_learner_is_saved_and_loaded(tmp_path: Any) -> None:
    pytest.importorskip("dill")
    active = learner(ScorerStrategy("entropy"))
    active.save(tmp_path / "learner")
    loaded = PoolBasedActiveLearner.load(tmp_path / "learner")
    np.testing.assert_array_equal(loaded.query(num_samples=7), active.query(num_samples=7))
    assert str(pickle.loads(pickle.dumps(active.query_strategy))) == "ScorerStrategy(Entropy())"


def test_what_cannot_work_is_said(trained: Any) -> None:
    factory = PruneFuseClassifierFactory(estimator(), 3)
    data = dataset()
    with pytest.raises(InputError, match="estimator is a LogisticRegression; pass a PruneFuseEstimator"):
        PruneFuseClassifierFactory(LogisticRegression(), 3)  # type: ignore[arg-type]
    for wrong, found in ((DATA, "is a list"), (data[np.arange(0)], "is a dataset of no texts"), (3, "is a int")):
        with pytest.raises(InputError, match=f"unlabelled {found}; pass a dataset of small-text"):
            PruneFuseClassifierFactory(estimator(), 3, unlabelled=wrong)
    with pytest.raises(InputError, match="unlabelled= was given to the factory and to the estimator"):
        PruneFuseClassifierFactory(estimator(unlabelled=inputs_of(data)), 3, unlabelled=data)
    with pytest.raises(InputError, match=r"a validation set was given \(indices_validation=\)"):
        factory.new().fit(data, validation_set=data)
    several = TransformersDataset(
        [(ids, mask, [0]) for ids, mask, _ in DATA], multi_label=True, target_labels=np.arange(3)
    )
    several.y = scipy.sparse.csr_matrix(np.eye(3)[Y].astype(int))
    with pytest.raises(InputError, match="the dataset is multi-label"):
        factory.new().fit(several)
    with pytest.raises(NotFittedError, match="embed: this classifier is not trained yet"):
        factory.new().embed(data)
    with pytest.raises(NotFittedError, match="fit_target"):
        factory.fit_target()
    unlabelled = (*DATA[0][:2], -1)
    with pytest.raises(ValueError, match="must be labeled"):
        factory.new().fit(TransformersDataset([unlabelled, *DATA[1:]], target_labels=np.arange(3)))
    strategy = ScorerStrategy()
    with pytest.raises(PoolExhaustedException, match="2 available / 3 requested"):
        strategy.query(trained, data, np.arange(2), np.arange(60), Y[:60], 3)
    with pytest.raises(EmptyPoolException):
        strategy.query(trained, data, np.arange(0), np.arange(60), Y[:60], 3)
