"""scikit-activeml's own template tests of classifiers and query strategies, run on ours.

They are in the project's older wheels only; the newest of those is fetched, and its templates are run against the
version that is installed.
"""

# ruff: noqa: E402, PT009
from __future__ import annotations

import importlib
import subprocess
import sys
import types
import unittest
import zipfile

import numpy as np
import pytest
from hosts import need_host
from suite_counts import documented

skactiveml = need_host("skactiveml")
from skactiveml.classifier import ParzenWindowClassifier
from skactiveml.utils import MISSING_LABEL

from prunefuse_al import PruneFuseEstimator, TorchTrainer
from prunefuse_al.adapters.skactiveml import PruneFuseClassifier, PruneFuseQuery

LAST_WITH_TEMPLATES = "0.6.0"


def templates(folder):
    """Return the modules of templates of estimators and of query strategies."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*pip, f"scikit-activeml=={LAST_WITH_TEMPLATES}"], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith("skactiveml/tests/")])
    package = types.ModuleType("skactiveml.tests")
    package.__path__ = [str(folder / "skactiveml" / "tests")]
    sys.modules["skactiveml.tests"] = package
    names = ("template_estimator", "template_query_strategy")
    return [importlib.import_module(f"skactiveml.tests.{name}") for name in names]


def estimator():
    return PruneFuseEstimator(trainer=TorchTrainer(epochs=1, device="cpu", progress=False))


def classifier_tests(template):
    class Classifier(template.TemplateSkactivemlClassifier, unittest.TestCase):
        def setUp(self):
            labels = ["tokyo", "paris", "nan", "tokyo"]
            super().setUp(
                PruneFuseClassifier,
                {"estimator": estimator(), "classes": ["tokyo", "paris"], "missing_label": "nan"},
                {"X": np.zeros((4, 1)), "y": labels},
                {"X": [[1.0]]},
            )

        def test_init_param_estimator(self):
            self._test_param("init", "estimator", [("x", TypeError), (None, None), (estimator(), None)])

        def test_predict_proba_param_return_embeddings(self):
            clf = PruneFuseClassifier(**self.init_default_params).fit(**self.fit_default_params)
            p, embeddings = clf.predict_proba([[1.0]], return_embeddings=True)
            self.assertEqual((p.shape, embeddings.shape[0]), ((1, 2), 1))

        def test_fit(self):
            clf = PruneFuseClassifier(**self.init_default_params).fit(**self.fit_default_params)
            self.assertEqual(clf.classes_.tolist(), ["paris", "tokyo"])

        def test_predict(self):
            clf = PruneFuseClassifier(**self.init_default_params).fit(**self.fit_default_params)
            self.assertIn(clf.predict([[0.0]])[0], ["paris", "tokyo"])

        def test_predict_proba(self):
            clf = PruneFuseClassifier(**self.init_default_params).fit(**self.fit_default_params)
            np.testing.assert_allclose(clf.predict_proba(np.zeros((3, 1))).sum(1), 1)

    return Classifier


def query_tests(template, clf):
    class Query(template.TemplateSingleAnnotatorPoolQueryStrategy, unittest.TestCase):
        def setUp(self):
            X = np.random.RandomState(0).randn(8, 2)
            y = np.array([0, 1, 0, *[MISSING_LABEL] * 5])
            super().setUp(PruneFuseQuery, {}, {"X": X, "y": y, "clf": clf, "fit_clf": True})

        def test_init_param_scorer(self):
            self._test_param("init", "scorer", [("x", ValueError), ("entropy", None), (1, ValueError)])

        def test_query_param_clf(self):
            super().test_query_param_clf([(ParzenWindowClassifier(classes=[0, 1]), None)])

        def test_query(self):
            picked = PruneFuseQuery().query(**self.query_default_params_clf)
            self.assertIn(picked[0], range(3, 8))

    return Query


@pytest.mark.slow
@pytest.mark.touches_global_rng  # one template draws weights from NumPy's
def test_they_pass(tmp_path):
    estimators, strategies = templates(tmp_path)
    ours = PruneFuseClassifier(estimator(), classes=[0, 1], random_state=0)
    theirs = ParzenWindowClassifier(classes=[0, 1], random_state=0)
    cases = [classifier_tests(estimators), query_tests(strategies, ours), query_tests(strategies, theirs)]
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 50
    assert not result.skipped
    said = documented("scikit-activeml", "scikit-activeml")
    assert said in (None, (result.testsRun, 0, 0))  # None: the page counts another version
    assert result.wasSuccessful(), "\n".join(text for _, text in [*result.errors, *result.failures])
