"""Learning rate and weight decay, tuned for every arm with the same trials, on rows that are held out for it.

Before the first labels and before the last budget each trial trains the arm as a round does, with its settings, and
asks the target about as many held-out rows as there are labels. The best is kept until the next tuning. What trials
cost is recorded apart from what the arm costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from plan import Plan

RATES = (0.1, 3.0)  # of the plan's rate
DECAYS = (1e-5, 1e-2)


@dataclass(frozen=True)
class Settings:
    """What is tuned.

    Attributes:
        rate: factor on the rate, in every training of an arm.
        weight_decay: None is the optimiser's own.
    """

    rate: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Trial:
    """What came of some settings.

    Attributes:
        settings: those tried.
        accuracy: of the target, on the held-out rows.
        macs: multiply-accumulates, of choosing and the target.
        seconds: how long it took.
    """

    settings: Settings
    accuracy: float
    macs: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return what the same plan gives again."""
        return {**asdict(self.settings), "accuracy": self.accuracy, "macs": self.macs}


def drawn_settings(plan: Plan, seed: int, number: int) -> list[Settings]:
    """Return the settings that every arm tries: the plan's own, and others drawn evenly on logarithmic scales."""
    rng = np.random.default_rng([seed, number])
    logs = rng.uniform(np.log([RATES[0], DECAYS[0]]), np.log([RATES[1], DECAYS[1]]), (plan.tuning - 1, 2))
    return [Settings(), *(Settings(*(float(f"{value:.4g}") for value in row)) for row in np.exp(logs))]


def best(trials: Sequence[Trial]) -> Settings:
    """Return the settings of the most accurate trial, of equals the first."""
    return max(trials, key=lambda trial: trial.accuracy).settings
