"""Files of selectors that an earlier version wrote load, and pick what they picked then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import assert_same_picks
from safetensors import safe_open
from safetensors.torch import save_file
from saved_before import CASES, FOLDER, K, X, network

from prunefuse_al.errors import FallbackWarning
from prunefuse_al.scorers import margin
from prunefuse_al.selector import PrunedProxySelector
from prunefuse_al.selector.checkpoint import FORMAT

PICKS = json.loads((FOLDER / "picks.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_a_file_written_before_loads_and_picks_the_same(name: str) -> None:
    _, data, _, options = CASES[name]
    another = {"proxy": options["proxy"]} if "proxy" in options else {}
    with pytest.warns(FallbackWarning, match="digest covers the tensors and not the configuration"):
        loaded = PrunedProxySelector.load(FOLDER / f"{name}.safetensors", network(name), **another)
    assert loaded.round == 2
    picked = loaded.select(data, K, scorer="margin").indices
    # The picks were made on another machine, whose last bits may be others.
    assert_same_picks(picked, PICKS[name], margin(loaded.signals(data, frozenset({"logits"})).logits))


def test_an_unfitted_selector_of_before_loads() -> None:
    with pytest.warns(FallbackWarning, match="written by an earlier version"):
        loaded = PrunedProxySelector.load(FOLDER / "unfitted.safetensors", network("v1"))
    assert (loaded.round, loaded.options.pruning_ratio) == (0, 0.25)
    assert len(loaded.fit(X[:30], CASES["v1"][2][:30]).query(X, K)) == K


@pytest.mark.parametrize("name", CASES)
def test_written_again_it_is_covered_and_picks_the_same(name: str, tmp_path: Path) -> None:
    _, data, _, options = CASES[name]
    another = {"proxy": options["proxy"]} if "proxy" in options else {}
    with pytest.warns(FallbackWarning):
        before = PrunedProxySelector.load(FOLDER / f"{name}.safetensors", network(name), **another)
    before.save(tmp_path / "s")
    loaded = PrunedProxySelector.load(tmp_path / "s", network(name), **another)  # no warning
    assert loaded.costs == before.costs
    assert loaded.select(data, K, scorer="margin").indices.tolist() == PICKS[name]


def test_a_place_to_write_to_in_a_file_of_before_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim.npy"
    victim.write_bytes(b"precious")
    with safe_open(FOLDER / "pictures.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        config = json.loads(file.metadata()["config"])
    config["options"]["features_path"] = str(victim)  # outside the digest of such a file
    save_file(tensors, tmp_path / "s", metadata={"format": FORMAT, "config": json.dumps(config)})
    with pytest.warns(FallbackWarning) as caught:
        loaded = PrunedProxySelector.load(tmp_path / "s", network("pictures"))
    assert "pass features_path=... to load(), or None to have features in memory" in str(caught[1].message)
    data, labels = CASES["pictures"][1:3]
    loaded.fit(data[:30], labels[:30]).query(data, K)  # k_center keeps features where it is told to
    assert loaded.options.features_path is None
    assert victim.read_bytes() == b"precious"
