"""How far it is from a public call to the network: through few files, in one direction, as CONTRIBUTING says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from fakes import blobs, mlp
from torch import Tensor, nn

import prunefuse_al
from prunefuse_al import PrunedProxySelector, TorchTrainer

X, Y = blobs(60)
PACKAGE = str(Path(prunefuse_al.__file__).parent) + os.sep
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(6, 16, 3)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


def way_to_the_network(call: Callable[[], Any]) -> list[str]:
    """Return the files between a call and the first call of the network, each time one is entered."""
    found: list[list[str]] = []

    def look(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code is Watched.forward.__code__ and not found:
            files, here = [], frame.f_back
            while here is not None:
                files.append(here.f_code.co_filename)
                here = here.f_back
            found.append([name.removeprefix(PACKAGE) for name in reversed(files) if name.startswith(PACKAGE)])

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [name for i, name in enumerate(found[0]) if i == 0 or name != found[0][i - 1]]


@pytest.mark.parametrize("call", ["fit", "query"])
def test_the_way_is_short_and_never_turns_back(call: str) -> None:
    chosen = PrunedProxySelector(
        Watched(), trainer=TorchTrainer(2, progress=False), example_inputs=X[:2], scorer="margin", random_state=0
    )
    chosen.prepare(X)
    with torch.random.fork_rng():
        way = way_to_the_network({"fit": lambda: chosen.fit(X, Y), "query": lambda: chosen.query(X, 5)}[call])
    assert len(way) <= 7
    assert len(set(way)) == len(way), "a file that was left is entered again"
    assert " → ".join(f"`{name}`" for name in way) in " ".join(CONTRIBUTING.read_text().split())
