"""Networks are built inside a forked generator, so that tests may use torch's defaults and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _forked_rng(_global_rng_untouched: None) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
