"""modAL's own tests with our estimators in the place of theirs, wherever a test takes one.

They are in modAL's repository only, neither in its wheels nor in its source archives, so a checkout has to be named:

    curl -sL https://github.com/modAL-python/modAL/archive/bba6f6fd00dbb862b1e09259b78caf6cffa2e755.tar.gz | tar xz
    PRUNEFUSE_MODAL_TESTS=modAL-bba6f6fd00dbb862b1e09259b78caf6cffa2e755/tests python -m pytest THIS_FILE

Replaced are scikit-learn's classifiers, skorch's net, and modAL's mock of an estimator where the test does not dictate
what the mock answers. A test passes only if it came to use one of ours. What cannot apply is named with its reason;
where that is a failure, it has to say so, and the entry has to go should the test ever pass.
"""

# ruff: noqa: E402
from __future__ import annotations

import importlib
import os
import sys
import unittest
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import sklearn.ensemble
import sklearn.gaussian_process
import sklearn.neighbors
from hosts import need_host

need_host("modal", "modAL.models")
need_host("modal", "skorch", at_least="1.4")  # which modAL.dropout imports
ARCHIVE = "https://github.com/modAL-python/modAL/archive/bba6f6fd00dbb862b1e09259b78caf6cffa2e755.tar.gz"  # 0.4.2.1
CHECKOUT = os.environ.get("PRUNEFUSE_MODAL_TESTS", "")
if not CHECKOUT:
    pytest.skip(f"set PRUNEFUSE_MODAL_TESTS to the folder tests/ of {ARCHIVE}", allow_module_level=True)
pytest.importorskip("pandas", reason="modAL needs it")
sys.path.insert(0, str(Path(CHECKOUT).resolve()))  # they import `mock` and `example_tests`
with pytest.MonkeyPatch.context() as patch:  # without what NumPy dropped, modAL.expected_error cannot be imported
    patch.setattr(np, "float", float, raising=False)
    core_tests = importlib.import_module("core_tests")
mock = core_tests.mock

from prunefuse_al import TorchTrainer
from prunefuse_al.adapters.modal import DeepEstimator
from prunefuse_al.adapters.skorch import PruneFuseNet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.touches_global_rng,  # modAL draws from NumPy's, skorch from torch's
    pytest.mark.filterwarnings("default"),
]

ARRAYS = "tests functions of arrays"
TOLD = "the estimator, or the learner around it, is a mock that is told what to answer"
REGRESSOR = "takes a regressor, and ours is a classifier"
MARGINS = "reads the decision function of a support vector machine, of which a network has none"
TAKES_NONE = {
    "TestUtils": ARRAYS,
    "TestUtils.test_make_query_strategy": TOLD,
    "TestDensity": ARRAYS,
    "TestAcquisitionFunctions": REGRESSOR,
    "TestBayesianOptimizer": REGRESSOR,
    "TestCommitteeRegressor": REGRESSOR,
    "TestUncertainties": TOLD,
    "TestDisagreements": TOLD,
    "TestDisagreements.test_max_std_sampling": REGRESSOR,
    **dict.fromkeys(
        [f"TestActiveLearner.test_{name}" for name in ("predict", "predict_proba", "query", "score")], TOLD
    ),
    "TestActiveLearner.test_keras": "is empty",
    **dict.fromkeys(
        [f"TestCommittee.test_{name}" for name in ("predict", "predict_proba", "vote", "vote_proba")], TOLD
    ),
    "TestDropout.test_set_dropout_mode": "tests a function of modules",
    "TestExamples": "imports the examples, each of which is a test of its own here",
    "examples.active_regression": REGRESSOR,
    "examples.bayesian_optimization": REGRESSOR,
    "examples.ensemble_regression": REGRESSOR,
    "examples.information_density": ARRAYS,
    "examples.multidimensional_data": "does nothing when it is imported",
    "examples.multilabel_svm": MARGINS,
    "examples.stream_based_sampling": "stops only when 70 % of 250,000 pixels are right, which its few labels need not "
    "teach a network",
}
ONE_CLASS = "estimators that have seen one class only, from which a network can learn nothing"
FAILS = {  # why, and what the failure says
    "TestActiveLearner.test_add_training_data": ("labels of several columns; ours has one label a sample", "1d array"),
    "TestActiveLearner.test_nan": ("modAL hands `force_all_finite` on to `fit`", "unexpected keyword argument"),
    "TestCommittee.test_set_classes": (ONE_CLASS, "must be two different labels or more"),
    "TestUtils.test_check_class_labels": (ONE_CLASS, "must be two different labels or more"),
    "TestDeepActiveLearner.test_teach": ("labels are real numbers, and ours is a classifier", "continuous values"),
    "TestMultilabel.test_strategies": (MARGINS, "decision_function"),
}
EVERY = {"TestEER.test_eer": 60, "TestActiveLearner.test_sparse_matrices": 7}
"""Of loops over sizes that train 30,000 and 720 times, the first and every seventh is run."""
CLASSIFIERS = {
    "RandomForestClassifier": sklearn.ensemble,
    "KNeighborsClassifier": sklearn.neighbors,
    "GaussianProcessClassifier": sklearn.gaussian_process,
}
SUITES = unittest.defaultTestLoader.loadTestsFromModule(core_tests)
CASES = {case.id().removeprefix("core_tests."): case for suite in SUITES for case in suite}
EXAMPLES = [f"examples.{file.stem}" for file in sorted(Path(CHECKOUT, "example_tests").glob("[a-z]*.py"))]


def param(name):
    """Return a test's name with what is expected of it."""
    reason = None if name in FAILS else TAKES_NONE.get(name, TAKES_NONE.get(name.partition(".")[0]))
    return pytest.param(name, marks=[pytest.mark.skip(reason=reason)] if reason else [])


@pytest.fixture
def made(monkeypatch):
    """Put ours in the place of theirs; return the list of what has been made."""
    made = []

    def classifier(*args, classes=range(5), **kwargs):
        """Any test's labels are among 0..4, but a draw of few may show one of them only."""
        trainer = TorchTrainer(2, 4096, optimizer="adam", lr=0.01, device="cpu", progress=False)
        made.append(DeepEstimator(classes=classes, trainer=trainer, random_state=0))
        return made[-1]

    def net(*args, **kwargs):
        made.append(PruneFuseNet(*args, **kwargs))
        return made[-1]

    def mocked(predict_proba_return=None, predict_return=None, score_return=None, classes_=None, fitted=True):
        assert predict_proba_return is predict_return is score_return is None, "a mock told what to answer"
        if classes_ is None or not fitted:
            return classifier()
        return classifier(classes=np.unique(classes_)).fit(np.zeros((len(classes_), 1)), classes_)

    monkeypatch.setattr(mock, "MockEstimator", mocked)
    monkeypatch.setattr(core_tests, "NeuralNetClassifier", net)
    monkeypatch.setattr(core_tests, "SVC", classifier)
    for name, module in CLASSIFIERS.items():
        monkeypatch.setattr(module, name, classifier)
        monkeypatch.setattr(core_tests, name, classifier, raising=False)
    np.random.seed(0)
    return made


@pytest.mark.parametrize("name", [param(name) for name in CASES])
def test_core(name, made, monkeypatch):
    if name in EVERY:
        monkeypatch.setattr(core_tests, "product", lambda *ranges: islice(product(*ranges), 0, None, EVERY[name]))
    result = unittest.TestResult()
    CASES[name].run(result)
    said = "\n".join(text for _, text in [*result.errors, *result.failures])
    assert made
    if name in FAILS:
        reason, phrase = FAILS[name]
        assert phrase in said
        pytest.xfail(reason)
    assert result.wasSuccessful(), said


@pytest.mark.parametrize("name", [param(name) for name in EXAMPLES])
def test_example(name, made):
    importlib.import_module(name.replace("examples.", "example_tests."))
    assert any(hasattr(estimator, "selector_") for estimator in made)
