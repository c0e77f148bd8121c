"""A classifier that scikit-learn and the toolkits built on it accept."""

from __future__ import annotations

import contextlib
import copy
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import blobs, mlp, seeded
from scipy.sparse import csc_array, csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor, nn

from prunefuse_al.errors import InputError
from prunefuse_al.estimator import PruneFuseEstimator
from prunefuse_al.scorers import Margin
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.training import TorchTrainer

X, Y = (values.numpy() for values in blobs(150))
WORDS = np.array(["pear", "apple", "fig"])[Y]


quick = partial(fakes.trainer, epochs=20)


def estimator(**options: Any) -> PruneFuseEstimator:
    options = {"module": mlp(6, 16, 12, 3), "trainer": quick(), "random_state": 0, **options}
    return PruneFuseEstimator(**options)


@pytest.mark.touches_global_rng  # one of scikit-learn's checks shuffles with it; every other test here is guarded
@parametrize_with_checks([PruneFuseEstimator()])  # type: ignore[untyped-decorator]
def test_scikit_learn_accepts_it(estimator: PruneFuseEstimator, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_the_active_learning_loop() -> None:
    est = estimator()
    labelled = list(range(12))
    for _ in range(3):
        est.fit(X[labelled], Y[labelled])
        rest = np.setdiff1d(np.arange(150), labelled)
        labelled += est.query(X, 10, candidates=rest).tolist()
    assert len(set(labelled)) == 42
    proxy_answer = est.fit(X[labelled], Y[labelled]).predict_proba(X)
    assert est.fit_target() is est
    assert est.target_.get_submodule("0").out_features == 16
    assert est.score(X, Y) > 0.9
    assert not np.allclose(est.predict_proba(X), proxy_answer)
    np.testing.assert_allclose(est.fit(X[labelled], Y[labelled]).predict_proba(X), proxy_answer)
    assert not hasattr(est, "target_")
    assert [row.round for row in est.costs_.rows() if row.stage == "train_proxy"] == [1, 2, 3, 4, 5]
    assert [row.stage for row in est.costs_.rows()].count("prune") == 1
    assert est.costs_.ratio() < 0.6


def test_without_a_network_one_is_sized_from_the_table() -> None:
    est = PruneFuseEstimator(random_state=0).fit(X * 1e4 + 7e5, WORDS)
    assert est.score(X * 1e4 + 7e5, WORDS) > 0.95
    assert est.n_features_in_ == 6
    assert est.predict_proba(X).dtype == np.float64
    rounds = [row.round for row in est.fit(X[:50], WORDS[:50]).costs_.rows() if row.stage == "train_proxy"]
    assert rounds == [1, 2]
    with pytest.raises(InputError, match="pass an array"):
        PruneFuseEstimator().fit(torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))


class Pictures(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.conv(x)).relu().amax((2, 3))
        logits: Tensor = self.head(hidden)
        return logits


IMAGES = np.random.default_rng(0).normal(size=(60, 1, 6, 6)).astype(np.float32)
DIGITS = np.arange(60) % 3
IMAGES[DIGITS == 1] += 1
IMAGES[DIGITS == 2] -= 1


def test_pictures_in_every_form_give_the_same(tmp_path: Path) -> None:
    tensor, labels = torch.from_numpy(IMAGES), torch.from_numpy(DIGITS)
    pairs = torch.utils.data.TensorDataset(tensor, labels)
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = np.arange(60)[:, None]
    forms: list[tuple[Any, Any, Any]] = [
        (IMAGES, DIGITS, None),
        (tensor, labels, None),
        (mapped, DIGITS, None),
        (IMAGES.tolist(), DIGITS.tolist(), None),
        (pairs, None, None),
        (pairs, DIGITS, None),
        (rows, DIGITS, pairs),
        (rows[:, 0], None, pairs),
        (rows, DIGITS, IMAGES),
    ]
    answers = []
    for data, y, dataset in forms:
        est = estimator(module=seeded(Pictures), dataset=dataset).fit(data, y)
        assert est.query(data, 5).shape == (5,)
        est.fit_target()
        answers.append(est.predict_proba(data))
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)


def test_row_numbers_of_a_dataset() -> None:
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    est = estimator(dataset=pairs)
    assert clone(est).dataset is pairs
    labelled, pool = np.arange(30), np.arange(30, 150)[:, None]
    picked = est.fit(labelled[:, None], Y[:30]).query(pool, 4)
    direct = estimator().fit(X[:30], Y[:30]).query(X[30:], 4)
    np.testing.assert_array_equal(picked, direct)
    for rows, found in ((X, r"\[150, 6\] of float32"), (5, r"\[\] of int64")):
        with pytest.raises(InputError, match=f"row numbers of it.* found {found}"):
            est.predict(rows)
    with pytest.raises(InputError, match="row 150"):
        est.predict([150])


def test_a_factory_is_told_shape_and_classes() -> None:
    asked: list[tuple[tuple[int, ...], int]] = []

    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        asked.append((shape, classes))
        return Pictures(classes)

    est = estimator(module=make).fit(IMAGES, DIGITS)
    assert asked == [((1, 6, 6), 3)]
    first = est.predict_proba(IMAGES)
    np.testing.assert_array_equal(est.fit(IMAGES, DIGITS).predict_proba(IMAGES), first)
    np.testing.assert_array_equal(clone(est).fit(IMAGES, DIGITS).predict_proba(IMAGES), first)
    with pytest.raises(InputError, match=r"shape \(6,\) of an input and 3 classes, .* must return an nn\.Module"):
        estimator(module=lambda shape, classes: None).fit(X, Y)


def test_labels_of_any_kind() -> None:
    est = estimator().fit(X, WORDS)
    assert est.classes_.tolist() == ["apple", "fig", "pear"]
    assert set(est.predict(X)) <= set(WORDS)
    assert est.score(X, WORDS) > 0.8
    few = estimator(classes=["pear", "apple", "fig"]).fit(X[Y < 2], WORDS[Y < 2])
    assert few.classes_.tolist() == ["pear", "apple", "fig"]
    assert few.predict_proba(X).shape == (150, 3)
    numbers = estimator().fit(X[Y != 1], Y[Y != 1])  # class 1 not seen, but the head has a place for it
    assert numbers.classes_.tolist() == [0, 1, 2]
    far = estimator().fit(X, Y * 100 - 7)
    assert far.classes_.tolist() == [-7, 93, 193]
    assert estimator(classes=[0, 1, 2]).fit(X[Y == 1], Y[Y == 1]).predict(X[:2]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({}, WORDS[:2].repeat(75), r"2 classes \(apple, pear\), the network has 3 outputs; pass classes="),
        ({}, np.arange(150) % 5, r"5 classes \(0, 1, 2, 3, 4\), the network has 3 outputs.*at least 5 outputs"),
        ({"classes": ["a", "b"]}, WORDS, "classes= has 2 labels, the network has 3 outputs"),
        ({"classes": ["a", "b", "b"]}, WORDS, r"two different labels or more"),
        ({"classes": ["pear", "apple", "plum"]}, WORDS, "50 of 150 labels are not among the 3 classes.*: fig;"),
        ({"module": None}, np.zeros(150), "one class only"),
        ({"module": mlp(6, 8, 1)}, np.zeros(150, int), "one class only"),
    ],
)
def test_labels_that_do_not_fit(options: dict[str, Any], y: Any, message: str) -> None:
    est = estimator(**options)
    with pytest.raises(InputError, match=message):
        est.fit(X, y)
    assert not [name for name in vars(est) if name.endswith("_") or name.startswith("_")]


def test_a_failed_fit_leaves_the_fitted_one() -> None:
    est = estimator().fit(X, Y)
    est.fit_target()
    before = est.predict_proba(X)
    for bad_X, bad_y in ((X, np.arange(150) % 5), (X[:, :4], Y), (np.full_like(X, np.nan), Y), (X, Y[:7])):
        with pytest.raises(ValueError):
            est.fit(bad_X, bad_y)
    np.testing.assert_array_equal(est.predict_proba(X), before)
    assert len([row for row in est.costs_.rows() if row.stage == "train_proxy"]) == 1


def test_partial_fit_goes_on_from_the_present_weights() -> None:
    est = estimator(trainer=quick(epochs=1))
    est.partial_fit(X[:50], WORDS[:50], classes=["fig", "apple", "pear"])
    first = est.score(X, WORDS)
    for _ in range(30):
        est.partial_fit(X[:50], WORDS[:50])
    assert est.score(X, WORDS) > max(first, 0.8)
    assert est.classes_.tolist() == ["fig", "apple", "pear"]
    with pytest.raises(InputError, match="plum"):
        est.partial_fit(X[:2], ["plum", "fig"])
    with pytest.raises(ValueError, match="features"):
        est.partial_fit(X[:, :4], WORDS)
    assert est.fit_target().score(X, WORDS) > 0.8


def test_partial_fit_may_meet_classes_one_by_one() -> None:
    est = PruneFuseEstimator(random_state=0).partial_fit(X[Y == 0], Y[Y == 0], classes=[0, 1, 2])
    est.partial_fit(X, Y)
    assert est.score(X, Y) > 0.9


def test_embeddings() -> None:
    est = estimator().fit(X, Y)
    assert est.embed(X).shape == (150, 6)  # the proxy's last hidden layer: half of 12
    proba, embedded = est.predict_proba(X, return_embeddings=True)
    np.testing.assert_array_equal(embedded, est.embed(X))
    np.testing.assert_array_equal(proba, est.predict_proba(X))
    assert est.fit_target().embed(X).shape == (150, 12)


def test_queries_take_another_scorer_and_seed() -> None:
    est = estimator().fit(X, Y)
    rows, scores = est.query(X, 5, scorer="margin", return_scores=True)
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_array_equal(rows, est.query(X, 5, scorer=Margin()))
    assert est.query(X, 5, scorer="random", return_scores=True)[1] is None
    a, b = (est.query(X, 20, scorer="random", random_state=seed) for seed in (1, 2))
    assert set(a) != set(b)
    np.testing.assert_array_equal(a, est.query(X, 20, scorer="random", random_state=1))
    assert set(a) != set(est.fit(X, Y).query(X, 20, scorer="random", random_state=1))  # another round


def test_sample_weights_count() -> None:
    flipped = np.where(Y == 0, 1, Y)
    both_X, both_y = np.concatenate([X, X]), np.concatenate([Y, flipped])
    weights = np.repeat([1.0, 0.0], 150)
    assert estimator().fit(both_X, both_y, weights).score(X, Y) > 0.8
    with pytest.raises(ValueError, match="sample_weight is zero in all 150 rows"):
        estimator().fit(X, Y, np.zeros(150))
    with pytest.raises(InputError, match="fit_target: sample_weight came without X"):
        estimator().fit(X, Y).fit_target(sample_weight=np.ones(150))


def test_copies_answer_alike() -> None:
    est = estimator().fit(X, WORDS)
    expected = est.predict_proba(X)
    for other in (copy.deepcopy(est), pickle.loads(pickle.dumps(est)), clone(est).fit(X, WORDS)):
        np.testing.assert_array_equal(other.predict_proba(X), expected)
    with pytest.raises(NotFittedError, match="not in memory"):
        pickle.loads(pickle.dumps(est)).fit_target()
    pickle.loads(pickle.dumps(est)).fit_target(X, WORDS)


def test_grid_search_and_pipeline() -> None:
    grid = {"pruneestimator__pruning_ratio": [0.0, 0.5], "pruneestimator__trainer__epochs": [1, 20]}
    grid = {name.replace("pruneestimator", "prunefuseestimator"): values for name, values in grid.items()}
    search = GridSearchCV(make_pipeline(StandardScaler(), estimator()), grid, cv=2).fit(X.astype(np.float32), Y)
    assert search.best_params_["prunefuseestimator__trainer__epochs"] == 20
    assert search.best_estimator_.score(X.astype(np.float32), Y) > 0.8


def test_changed_options_take_effect() -> None:
    est = estimator().fit(X, Y)
    assert est.set_params(pruning_ratio=0.25).fit(X, Y).embed(X).shape == (150, 9)
    assert est.set_params(trainer__epochs=1).fit(X, Y).selector_.history.epochs[-1]["epoch"] == 1
    assert len({id(est.selector_), id(est.fit(X, Y).selector_)}) == 1


@pytest.mark.parametrize("call", ["predict", "predict_proba", "query", "embed", "fit_target", "score"])
def test_before_fit(call: str) -> None:
    est = estimator()
    with pytest.raises(NotFittedError, match=re.escape("call fit(X, y) first")):
        getattr(est, call)(*((X, Y) if call == "score" else (X,)))


def test_costs_before_fit() -> None:
    with pytest.raises(NotFittedError):
        _ = estimator().costs_


def test_the_estimator_is_the_selector_in_other_words() -> None:
    est = estimator().fit(X, Y)
    direct = PrunedProxySelector(mlp(6, 16, 12, 3), trainer=quick(), random_state=0).fit(X, Y)
    np.testing.assert_array_equal(est.query(X, 9), direct.query(X, 9))
    np.testing.assert_array_equal(est.predict_proba(X), direct.predict_proba(X))


def test_network_and_trainer_of_the_user_stay_as_they_were() -> None:
    module, trainer = mlp(6, 16, 12, 3), quick()
    before, parameters = copy.deepcopy(module.state_dict()), trainer.get_params()
    est = estimator(module=module, trainer=trainer).fit(X, Y)
    est.fit_target().predict(X)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert trainer.get_params() == parameters


@pytest.mark.parametrize("kind", [csr_matrix, csc_array])
@pytest.mark.parametrize("module", [None, mlp(6, 16, 12, 3)])
def test_a_sparse_table_is_what_it_is_dense(module: Any, kind: Callable[[Any], Any]) -> None:
    """Only a batch of it ever becomes dense."""
    dense = np.where(np.abs(X) > 0.7, X, 0).astype(np.float32)
    table, weights = kind(dense), np.linspace(0.5, 2, 60)
    fits = [estimator(module=module).fit(x[:60], Y[:60], weights) for x in (dense, table)]
    answers = [est.predict_proba(x) for est, x in zip(fits, (dense, table), strict=True)]
    np.testing.assert_allclose(*answers, atol=1e-6)
    rows = [est.query(x, 5, scorer="k_center") for est, x in zip(fits, (dense, table), strict=True)]
    np.testing.assert_array_equal(*rows)
    assert fits[1].fit_target().score(table, Y) > 0.7
    with pytest.raises(ValueError, match="features"):
        fits[1].predict(table[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        fits[1].predict(kind(np.full((2, 6), np.nan)))


def test_words_counted_in_a_pipeline() -> None:
    texts = ["pears and apples", "a pear", "trains", "the train to town"] * 10
    pipeline = make_pipeline(CountVectorizer(), PruneFuseEstimator(random_state=0))
    pipeline.fit(texts, ["fruit", "fruit", "rail", "rail"] * 10)
    assert pipeline.predict(["apples", "the town"]).tolist() == ["fruit", "rail"]


# ---- losses of independent labels ----

BCE = TorchTrainer(30, 32, lr=0.2, loss=nn.BCEWithLogitsLoss(), device="cpu", progress=False)
SEVERAL = (X @ np.random.default_rng(1).normal(size=(6, 4)) > 0).astype(int)
TWO = WORDS == "fig"


@pytest.mark.parametrize("module", [mlp(6, 16, 1), lambda shape, classes: mlp(*shape, 16, 1), None])
@pytest.mark.parametrize("labels", ["words", "bool", "numbers", "column"])
def test_one_output_tells_two_classes(module: Any, labels: str) -> None:
    forms = {"words": np.where(TWO, "fig", "none"), "bool": TWO, "numbers": TWO * 7.0 - 3, "column": TWO[:, None] * 1}
    y = forms[labels]
    est = estimator(module=module, trainer=BCE)
    with pytest.warns(UserWarning, match="column-vector") if labels == "column" else contextlib.nullcontext():
        est.fit(X, y)
    assert est.classes_.tolist() == np.unique(y).tolist()
    proba = est.predict_proba(X)
    assert proba.shape == (150, 2)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert est.score(X, y.ravel()) > 0.8
    assert set(est.predict(X)) <= set(y.ravel().tolist())
    for scorer in ("margin", "badge", "class_balanced"):
        assert len(set(est.query(X, 4, scorer=scorer))) == 4
    assert est.fit_target().score(X, y.ravel()) > 0.8
    assert est.selector_.model[-1].out_features == 1


FORMS: dict[str, Callable[[Any], Any]] = {
    "int": np.asarray,
    "bool": lambda y: y.astype(bool),
    "float": lambda y: y.astype(float),
    "lists": lambda y: y.tolist(),
    "sparse": csr_matrix,
    "tensor": torch.from_numpy,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("module", "trainer"), [(None, None), (mlp(6, 16, 4), BCE), (mlp(6, 16, 4), None)])
def test_several_labels_a_row_as_scikit_learn_has_them(form: str, module: Any, trainer: Any) -> None:
    theirs = MLPClassifier(random_state=0, tol=1.0).fit(X, SEVERAL)  # whose answers only have to be of a form
    options = {"module": module, "trainer": trainer, "scorer": "ml_entropy"}
    est = estimator(**options).fit(X, FORMS[form](SEVERAL))
    assert est.classes_.tolist() == theirs.classes_.tolist() == [0, 1, 2, 3]
    assert est.multilabel_
    for ours, its in ((est.predict(X), theirs.predict(X)), (est.predict_proba(X), theirs.predict_proba(X))):
        assert ours.shape == its.shape == (150, 4)
        assert ours.dtype.kind == its.dtype.kind
    np.testing.assert_array_equal(est.predict(X), (est.predict_proba(X) > 0.5).astype(int))
    assert est.score(X, SEVERAL) == pytest.approx((est.predict(X) == SEVERAL).all(1).mean())
    assert (est.predict(X) == SEVERAL).mean() > 0.8
    assert len(set(est.query(X, 4))) == 4
    with pytest.raises(InputError, match="take ml_entropy"):
        est.query(X, 4, scorer="margin")
    again = clone(est).fit(X, SEVERAL, np.ones(150))
    np.testing.assert_array_equal(again.predict(X), est.predict(X))
    assert (est.partial_fit(X, SEVERAL).fit_target(X, SEVERAL).predict(X) == SEVERAL).mean() > 0.8


def test_scikit_learns_own_tools_take_several_labels_a_row() -> None:
    grid = {"pruning_ratio": [0.0, 0.5]}
    search = GridSearchCV(PruneFuseEstimator(random_state=0), grid, cv=2, scoring="f1_macro").fit(X, SEVERAL)
    assert search.best_score_ > 0.7
    assert get_tags(PruneFuseEstimator()).classifier_tags.multi_label
    pipe = make_pipeline(StandardScaler(), PruneFuseEstimator(random_state=0)).fit(X, SEVERAL)
    assert pipe.predict_proba(X).shape == (150, 4)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        (
            {"module": lambda shape, classes: mlp(*shape, 8, classes + 3)},
            WORDS,
            r"was called with 3 classes and returned a network with 6 outputs; its last layer must be as wide",
        ),
        (
            {"module": lambda shape, classes: mlp(*shape, 8, classes - 1)},
            Y,
            "was called with 3 classes and returned a network with 2 outputs",
        ),
        (
            {"module": lambda shape, classes: mlp(*shape, 8, 1)},
            TWO,
            r"2 classes and returned a network with 1 outputs.*trainer=TorchTrainer\(loss=nn\.BCEWithLogitsLoss",
        ),
        ({"module": mlp(6, 8, 1)}, TWO, r"the network has 1 outputs.*trainer=TorchTrainer\(loss=nn\.BCEWithLogitsLoss"),
        ({}, SEVERAL, r"y has 4 columns of 0 and 1, .*trains one class a row: .*BCEWithLogitsLoss\(\)\), or y\.argmax"),
        ({"trainer": BCE}, SEVERAL, "y has 4 columns, one for each label, and the network has 3 outputs"),
        ({"trainer": BCE, "module": None, "classes": [0, 1]}, SEVERAL, r"4 columns, .* classes= has 2 labels"),
        ({"trainer": BCE}, Y, "y is one label a row, and the network has 3 outputs whose labels are independent"),
        ({"trainer": BCE, "module": None}, Y, "y holds 3 classes, and the loss of the trainer tells two"),
        ({"trainer": BCE, "module": None}, SEVERAL * 2, "y should be a 1d array"),
        (
            {"module": None},
            np.where(np.arange(150) % 50 == 7, None, WORDS),
            r"labels are None in rows 7, 57, 107 \(3 of",
        ),
    ],
)
def test_outputs_and_labels_that_do_not_go_together(options: dict[str, Any], y: Any, message: str) -> None:
    est = estimator(**options)
    with pytest.raises(ValueError, match=message):
        est.fit(X, y)
    assert not [name for name in vars(est) if name.endswith("_") or name.startswith("_")]


def test_more_outputs_than_a_factory_was_told_are_classes_that_did_not_show_up_yet() -> None:
    est = estimator(module=lambda shape, classes: mlp(*shape, 8, 6)).fit(X, Y)
    assert est.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    assert est.predict_proba(X[:5]).shape == (5, 6)
    selector = est.selector_
    assert est.fit(X, Y + 2).selector_ is selector  # the same network, told nothing new
    assert est.classes_.tolist() == [0, 1, 2, 3, 4, 5]


def test_one_label_and_several_are_not_mixed_up_later() -> None:
    est = PruneFuseEstimator(random_state=0).fit(X, SEVERAL)
    before = est.predict_proba(X)
    for call in (est.partial_fit, est.fit_target):
        with pytest.raises(InputError, match=r"y is one label a row, \[n\], and the estimator was fitted with several"):
            call(X, Y)
    with pytest.raises(InputError, match="y has 3 columns, and there are 4 labels"):
        est.fit_target(X, SEVERAL[:, :3])
    np.testing.assert_array_equal(est.predict_proba(X), before)
    assert est.fit(X, Y).predict(X).shape == (150,)  # another fit may change it
