"""Contract checks for scorers of your own, and a guard that global random states are left alone.

from prunefuse_al.testing import check_scorer
check_scorer(MyScorer())
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..types import Scorer
from .examples import example_signals
from .scorer_checks import CHECKS, expect

__all__ = ["check_scorer", "example_signals", "unchanged_global_rng"]


@contextmanager
def unchanged_global_rng() -> Iterator[None]:
    """Raise `AssertionError` if the block moved the global random state of `random`, NumPy or torch.

    Examples:
        >>> with unchanged_global_rng():
        ...     _ = torch.rand(3, generator=torch.Generator())
    """
    before = _global_rng()
    yield
    after = _global_rng()  # with CUDA's too, if the block was the first to use it
    moved = [name for name, state in before.items() if not _same(state, after[name])]
    expect(not moved, f"global random state of {', '.join(moved)} was moved; draw from the generator that is passed")


def check_scorer(scorer: Scorer, *, expected_failed_checks: Mapping[str, str] | None = None) -> list[str]:
    """Check that a scorer keeps the contract of `prunefuse_al.types.Scorer`.

    Picks are exactly k, unique and from the candidates, also where all rows are equal, logits are +-1e4 or in half
    precision, and there are two classes or a thousand. Renaming the candidates renames the picks, and putting them in
    another order does not change them (for a scorer that draws: not how often each is picked). The same seed gives
    the same picks, whatever kind of generator it is in. Nothing is written to, only declared signals are read. NaN,
    infinity and k > n are refused with an error that names them. Single and double precision agree; global random
    states are left alone; the scorer pickles and its `repr` evaluates back. Scorers with `score` must give finite
    scores, at the edges too, that do not depend on the other rows, and pick the highest, best first.

    Any scorer can be checked: those that read labels, training dynamics or labelled features are given random ones.

    Args:
        scorer: the object to check.
        expected_failed_checks: name of a check -> why it is known to fail; such a check must fail.

    Returns:
        Names of the checks that were run, so that a test can assert that none was left out.

    Raises:
        AssertionError: a check failed; the message starts with its name.
        InputError: `scorer` is no scorer at all.
    """
    checks.methods("scorer", scorer, ("select",), "an object with `needs` and `select(signals, k, *, rng=None)`")
    what = "a dict: name of a check -> why it is known to fail"
    known = dict(checks.maybe(checks.instance, "expected_failed_checks", expected_failed_checks, Mapping, what) or {})
    unknown = set(known) - set(CHECKS)
    expect(not unknown, f"expected_failed_checks names no check: {sorted(unknown)}; known: {', '.join(CHECKS)}")
    for name, check in CHECKS.items():
        try:
            with unchanged_global_rng():
                check(scorer)
        except Exception as error:
            if name not in known:
                raise AssertionError(f"{name}: {scorer!r}: {error}") from error
        else:
            expect(name not in known, f"{name}: was expected to fail ({known.get(name)}), but passed")
    return list(CHECKS)


def _global_rng() -> dict[str, Any]:
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["torch.cuda"] = torch.cuda.get_rng_state()
    return states


def _same(state: Any, other: Any) -> bool:
    if isinstance(state, tuple):
        return len(state) == len(other) and all(map(_same, state, other))
    if isinstance(state, Tensor):
        return torch.equal(state, other)
    return bool(np.array_equal(state, other))
