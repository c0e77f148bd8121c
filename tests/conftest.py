"""Guards every test: global random states stay as they were; one thread, so that timing and sums are stable."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from rounding import round_by_shape

from prunefuse_al.testing.contracts import unchanged_global_rng

# Properties are searched, not timed: a loaded two-core machine must not turn a slow draw into a failure.
settings.register_profile("repo", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repo")
torch.set_num_threads(int(os.environ.get("PRUNEFUSE_THREADS", "1")))
if os.environ.get("PRUNEFUSE_ROUNDING") == "by_shape":
    round_by_shape()


@pytest.fixture(autouse=True)
def _global_rng_untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("touches_global_rng"):
        yield
        return
    with unchanged_global_rng():
        yield
