"""An estimator in a file: what comes back answers, picks and goes on as the one that was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pandas
import pytest
from fakes import blobs, mlp
from torch import nn

from prunefuse_al import PrunedProxySelector, PruneFuseEstimator
from prunefuse_al.errors import CheckpointError, InputError, NotFittedError
from prunefuse_al.selector import checkpoint

X, Y = (values.numpy() for values in blobs(120))
WORDS = np.array(["pear", "apple", "fig"])[Y]
NET = mlp(6, 16, 12, 3)


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    return mlp(*shape, 16, 12, classes)


def estimator(module: Any = NET, **options: Any) -> PruneFuseEstimator:
    trainer = None if module is None else fakes.trainer(epochs=5)
    return PruneFuseEstimator(module, **{"trainer": trainer, "random_state": 0, **options})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "estimator"


def assert_equal(first: PruneFuseEstimator, second: PruneFuseEstimator) -> None:
    np.testing.assert_array_equal(first.classes_, second.classes_)
    assert first.classes_.dtype == second.classes_.dtype
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    np.testing.assert_array_equal(first.query(X, 9), second.query(X, 9))
    assert first.costs_.totals()["total"]["macs"] == second.costs_.totals()["total"]["macs"]


@pytest.mark.parametrize("module", [NET, network, None], ids=["network", "function", "perceptron"])
@pytest.mark.parametrize("labels", [Y, WORDS, WORDS.astype(object)], ids=["numbers", "texts", "objects"])
@pytest.mark.parametrize("with_target", [False, True])
def test_what_comes_back_is_what_was_saved(path: Path, module: Any, labels: Any, with_target: bool) -> None:
    est = estimator(module).fit(X[:40], labels[:40])
    if with_target:
        est.fit_target()
    est.save(path)
    again = PruneFuseEstimator.load(path, module)
    assert_equal(est, again)
    assert hasattr(again, "target_") == with_target
    assert_equal(est.fit(X[:60], labels[:60]), again.fit(X[:60], labels[:60]))
    assert again.selector_.round == 2


@pytest.mark.parametrize("step", ["partial_fit", "fit_target"])
def test_it_goes_on_where_it_was(path: Path, step: str) -> None:
    est = estimator(warm_start=True).fit(X[:40], Y[:40])
    est.save(path)
    again = PruneFuseEstimator.load(path, NET)
    assert again.get_params(deep=False)["warm_start"] is True
    for each in (est, again):
        getattr(each, step)(X[:60], Y[:60])
    assert_equal(est, again)


def test_columns_by_name_are_asked_for_again(path: Path) -> None:
    table = pandas.DataFrame(X, columns=list("abcdef"))
    estimator(None).fit(table[:40], Y[:40]).save(path)
    again = PruneFuseEstimator.load(path)
    assert list(again.feature_names_in_) == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        again.predict(table[list("fedcba")])
    with pytest.raises(ValueError, match="6 features"), pytest.warns(UserWarning, match="feature names"):
        again.predict(X[:, :5])


def test_labels_of_which_a_row_may_have_several(path: Path) -> None:
    several = np.stack([Y == 0, Y != 1], axis=1).astype(int)
    est = PruneFuseEstimator(random_state=0).fit(X[:40], several[:40])
    est.save(path)
    again = PruneFuseEstimator.load(path)
    np.testing.assert_array_equal(est.predict(X), again.predict(X))
    assert again.multilabel_


def test_options_are_those_that_were_given(path: Path) -> None:
    est = estimator(pruning_ratio=0.4, scorer="entropy", cross="copy", classes=[2, 1, 0]).fit(X[:40], Y[:40])
    est.save(path)
    again = PruneFuseEstimator.load(path, NET).get_params(deep=False)
    for name in ("pruning_ratio", "scorer", "cross", "importance"):
        assert again[name] == est.get_params(deep=False)[name]
    assert list(again["classes"]) == [2, 1, 0]
    assert PruneFuseEstimator.load(path, NET, scorer="margin").scorer == "margin"


def test_rows_of_a_dataset(path: Path) -> None:
    est = estimator(dataset=X).fit(np.arange(40), Y[:40])
    est.save(path)
    with pytest.raises(CheckpointError, match=r"pass dataset=\.\.\. to load"):
        PruneFuseEstimator.load(path, NET)
    again = PruneFuseEstimator.load(path, NET, dataset=X)
    np.testing.assert_array_equal(again.query(np.arange(40, 120), 5), est.query(np.arange(40, 120), 5))


def test_what_json_cannot_hold_is_asked_for(path: Path) -> None:
    trainer = fakes.trainer(epochs=5, transform=lambda x: x)
    estimator(trainer=trainer).fit(X[:40], Y[:40]).save(path)
    with pytest.raises(CheckpointError, match=r"does not hold trainer; pass trainer=\.\.\. to load"):
        PruneFuseEstimator.load(path, NET)
    assert PruneFuseEstimator.load(path, NET, trainer=trainer).trainer is trainer


def test_its_selector_can_be_read_alone(path: Path) -> None:
    est = estimator().fit(X[:40], Y[:40]).fit_target()
    est.save(path)
    np.testing.assert_array_equal(PrunedProxySelector.load(path, NET).select(X, 7).indices, est.query(X, 7))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda path: estimator().save(path), NotFittedError, "not fitted yet"),
        (lambda path: PruneFuseEstimator.load(path), CheckpointError, r"does not hold module; pass module=\.\.\."),
        (lambda path: PruneFuseEstimator.load(path, mlp(6, 9, 3)), CheckpointError, "does not fit|network has|model"),
        (lambda path: PruneFuseEstimator.load(path, NET, scorers="margin"), InputError, "did you mean scorer="),
        (lambda path: PruneFuseEstimator.load(path, NET, pruning_ratio=2), InputError, "pruning_ratio"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, call: Callable[[Path], Any], kind: Any, words: str) -> None:
    estimator().fit(X[:40], Y[:40]).save(path)
    before = path.read_bytes()
    with pytest.raises(kind, match=words):
        call(path)
    assert path.read_bytes() == before


def test_a_selectors_file_is_no_estimators(path: Path) -> None:
    PrunedProxySelector(NET, trainer=fakes.trainer(epochs=1)).fit(X[:40], Y[:40]).save(path)
    with pytest.raises(CheckpointError, match="the file is of a selector"):
        PruneFuseEstimator.load(path, NET)


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words.pop("classes"),
        lambda words: words["classes"].update(dtype="O", values=[["a"], ["b"], ["c"]]),
        lambda words: words["classes"].update(dtype="V8"),
        lambda words: words["parameters"].update(nonsense=1),
        lambda words: words["parameters"].update(scorer={"as": "os.system", "items": {}}),
        lambda words: words.update(shape=[10**9, -1]),
        lambda words: words.update(columns="six"),
    ],
)
def test_a_file_that_lies_is_refused(path: Path, change: Callable[[Any], Any]) -> None:
    estimator(network).fit(X[:40], Y[:40]).save(path)
    tensors, config = checkpoint.read_file(path)
    words = json.loads(json.dumps(config["beside"]["words"]))
    change(words)
    config["beside"]["words"] = words
    checkpoint.write_file(path, tensors, config)
    with pytest.raises(CheckpointError):
        PruneFuseEstimator.load(path, network)
