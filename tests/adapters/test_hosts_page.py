"""docs/hosts.md counts what is run; the suites of the other hosts are held against it where they run."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator
from suite_counts import PAGE, documented

from prunefuse_al import PruneFuseEstimator


def test_the_checks_of_scikit_learn():
    """tests/test_estimator.py runs them, and all of those that are not skipped have to pass there."""
    said = documented("scikit-learn", "scikit-learn")
    if said is None:
        pytest.skip("the page counts another version")
    assert sum(said) == len(list(estimator_checks_generator(PruneFuseEstimator())))
    assert said.failed == 0


def test_a_row_that_is_not_there_is_said():
    with pytest.raises(LookupError, match=r"hosts.md has 0 rows that begin with '\| torch \|'"):
        documented("torch", "torch")


def test_every_command_of_the_page_names_files_that_exist():
    root = PAGE.parents[1]
    named = {word for word in PAGE.read_text().replace("`", " ").split() if word.endswith(".py") and "/" in word}
    assert len(named) >= 4
    assert [word for word in named if not (root / word).exists()] == []
