"""What records of whole loops say of proxies before anything is trained: law.json, written by examples/paper/law.py.

The records are of networks trained from scratch, so it is these that it can speak of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = Callable[[Floats, Floats], Floats]
FORMS: Mapping[str, Features] = {  # (shares of the dense network's MACs, labels), float [n] -> features, float [n f]
    "mean": lambda share, labels: np.zeros((len(share), 0)),
    "share": lambda share, labels: np.stack([1 - share], 1),
    "log share": lambda share, labels: np.stack([-np.log(share)], 1),
    "log share, log labels": lambda share, labels: np.stack([-np.log(share), np.log(labels)], 1),
}


@dataclass(frozen=True)
class Law:
    """A linear law of features of a proxy's size and the labels, with its error on plans that it was not fitted to.

    Attributes:
        form: whose features, a name in `FORMS`; "mean" is no law: nothing surely predicted plans left out better.
        intercept: of the law.
        coefficients: one a feature.
        error: mean absolute error on single runs of plans left out, one plan at a time.
        error_of_mean: that of the mean over the other plans, which is no law at all.
        shares: least and largest share of the dense network's MACs in the records.
        labels: least and most labels.
        plans: how many set-ups, of data and network, the records are of.
        runs: how many runs there were.
    """

    form: str
    intercept: float
    coefficients: tuple[float, ...]
    error: float
    error_of_mean: float
    shares: tuple[float, float]
    labels: tuple[float, float]
    plans: int
    runs: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Law:
        """Return the law of an entry of the file."""
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in entry.items()}
        return cls(**values)

    def predicted(self, share: float, labels: float) -> float | None:
        """Return what the law says of a proxy; None outside of the sizes and labels that it was fitted to."""
        ranges = ((share, self.shares), (labels, self.labels))
        if not all(low <= value <= high for value, (low, high) in ranges):
            return None
        features = FORMS[self.form](np.array([share]), np.array([float(labels)]))
        return float(self.intercept + features[0] @ np.array(self.coefficients))


@cache
def laws() -> Mapping[str, Law]:
    """Return the laws in the file: "difference", in accuracy from the dense loop's network; "agreement", in rank."""
    found = json.loads(files(__package__).joinpath("law.json").read_text(encoding="utf-8"))
    return {name: Law.of(law) for name, law in found.items()}
