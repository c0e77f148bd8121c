"""The table of scorers is what the code says, and no scorer is missing from it."""

from __future__ import annotations

import dataclasses

import pytest

from docs.make_scorers import PATH, page
from prunefuse_al.scorers import SCORERS
from prunefuse_al.scorers._about import ABOUT


def test_every_scorer_has_its_facts():
    missing = sorted(set(SCORERS) - set(ABOUT))
    assert not missing, f"say in scorers/_about.py what {missing} cost and when to use them"


@pytest.mark.parametrize("name", ABOUT)
def test_facts_fit_a_table(name):
    about = ABOUT[name]
    assert about.labels in ("no", "yes", "as its parts")
    assert all(value and "|" not in value and "\n" not in value for value in dataclasses.astuple(about))
    assert about.use.endswith(".")


def test_labels_are_read_where_the_table_says_so():
    for name, cls in SCORERS.items():
        reads = bool(cls().needs & {"labels", "dynamics"})
        assert reads == (ABOUT[name].labels == "yes"), name


def test_the_page_is_what_the_code_says():
    assert PATH.read_text() == page(), "run python docs/make_scorers.py"
