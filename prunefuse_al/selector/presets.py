"""Named sets of a selector's options."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..training.warm import ShrinkPerturb


def selector_preset(name: str) -> dict[str, Any]:
    """Return options for `PrunedProxySelector` and `PruneFuseEstimator`, by name.

    * "cheap_rounds": each round's proxy goes on from the last one's weights for a third of the trainer's epochs, and a
      query scores a random 30 % of the candidates. For loops of several rounds whose trainer gives a fresh proxy
      epochs enough to end its training. Not for two or three rounds (the first one trains in full), not for trainers
      of so few epochs that a third of them is nothing, not where a query takes a large part of the pool (30 % must hold
      several times k), and not where every round must be a function of its labels alone: warm starts remember.

    Raises:
        InputError: there is no such preset.

    Example:
        >>> sorted(selector_preset("cheap_rounds"))
        ['candidate_fraction', 'warm_start']
    """
    presets: dict[str, dict[str, Any]] = {
        "cheap_rounds": {"warm_start": ShrinkPerturb(1.0, 0.0, epochs=1 / 3), "candidate_fraction": 0.3}
    }
    if name not in presets:
        raise InputError(f"preset {name!r} does not exist; there is {', '.join(map(repr, presets))}")
    return presets[name]
