"""Files of selectors that an earlier version wrote load, and pick what they picked then."""

from __future__ import annotations

import json

import pytest
from fakes import assert_same_picks
from saved_before import CASES, FOLDER, K, X, network

from prunefuse_al.scorers import margin
from prunefuse_al.selector import PrunedProxySelector

PICKS = json.loads((FOLDER / "picks.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_a_file_written_before_loads_and_picks_the_same(name: str) -> None:
    _, data, _, options = CASES[name]
    another = {"proxy": options["proxy"]} if "proxy" in options else {}
    loaded = PrunedProxySelector.load(FOLDER / f"{name}.safetensors", network(name), **another)
    assert loaded.round == 2
    picked = loaded.select(data, K, scorer="margin").indices
    # The picks were made on another machine, whose last bits may be others.
    assert_same_picks(picked, PICKS[name], margin(loaded.signals(data, frozenset({"logits"})).logits))


def test_an_unfitted_selector_of_before_loads() -> None:
    loaded = PrunedProxySelector.load(FOLDER / "unfitted.safetensors", network("v1"))
    assert (loaded.round, loaded.options.pruning_ratio) == (0, 0.25)
    assert len(loaded.fit(X[:30], CASES["v1"][2][:30]).query(X, K)) == K
