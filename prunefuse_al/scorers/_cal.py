"""CAL: samples on which the network says something else than on similar labelled ones (Margatina et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import Signals
from ._features import check_features, check_labelled_features, given_labelled, read_features
from ._given import given_features, given_logits
from ._neighbours import check_neighbours, search_in
from ._ranker import Ranker
from ._select import check_finite, read_logits

_ASKED = 1 << 14
"""Rows whose neighbours are sought at once: a whole number of the parts in which scikit-learn does it."""
_NUMBERS = 1 << 18
"""Numbers in the distributions of the neighbours of some rows, looked at together in double precision."""


def cal(
    logits: Tensor,
    features: Tensor,
    labelled_logits: Tensor,
    labelled_features: Tensor,
    *,
    n_neighbors: int = 10,
    from_neighbours: bool = False,
    neighbours: Any = None,
) -> Tensor:
    """Return the mean of KL(q_x || q_n) over the labelled neighbours n of each x in the space of features.

    Args:
        logits: float [n c], c >= 2.
        features: float [n d].
        labelled_logits: float [m c] of the labelled samples, m >= 1.
        labelled_features: float [m d].
        n_neighbors: how many neighbours, at most m of them.
        from_neighbours: take KL(q_n || q_x) instead.
        neighbours: object with `fit(X)` and `kneighbors(X, n_neighbors)`; None is scikit-learn's exact search. Which
            of several equally distant neighbours counts is left to it.

    Returns:
        float64 [n], >= 0; higher means label it sooner. Needs the labelled logits in double precision and some 4 n
        numbers beside its inputs.

    Raises:
        InputError: shapes that do not fit, or an option that cannot be used.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> near, far = torch.tensor([[0.0]]), torch.tensor([[0.0, 0.0]])
        >>> cal(torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.zeros(2, 1), far, near).round(decimals=2)
        tensor([0.0000, 0.6500], dtype=torch.float64)
    """
    method = CAL(n_neighbors, from_neighbours, neighbours)
    logits = given_logits("cal", logits)
    features = given_features("cal", features, rows=len(logits))
    check_finite("cal", "logits", logits, torch.arange(len(logits)))
    check_features("cal", features)
    return _cal("cal", method, logits, features, labelled_logits, labelled_features)


@dataclass(frozen=True)
class CAL(Ranker):
    """Prefers samples that the network tells apart from the labelled ones nearest to them; see `cal`."""

    n_neighbors: int = 10
    from_neighbours: bool = False
    neighbours: Any = None
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "labelled_logits", "labelled_features"})

    def __post_init__(self) -> None:
        check_neighbours("CAL", self.neighbours)
        checks.settle(
            self,
            n_neighbors=checks.whole("CAL: n_neighbors", self.n_neighbors, least=1),
            from_neighbours=checks.flag("CAL: from_neighbours", self.from_neighbours),
        )

    def score(self, signals: Signals) -> Tensor:
        """Return float64 [n]; higher means label it sooner."""
        logits, features = read_logits("CAL", signals), read_features("CAL", signals)
        check_features("CAL", features, signals.indices)
        if signals.labelled_logits is None or signals.labelled_features is None:
            raise InputError("CAL reads signals.labelled_logits and signals.labelled_features; one of them is None")
        return _cal("CAL", self, logits, features, signals.labelled_logits, signals.labelled_features)


def _cal(name: str, method: CAL, logits: Tensor, features: Tensor, labelled_logits: Any, labelled: Any) -> Tensor:
    """Return the scores for checked logits [n c] and features [n d]; what is labelled is checked here."""
    place = given_labelled(name, labelled, features)
    known = checks.array(f"{name}: labelled_logits", labelled_logits, "an array of floats [m c]", floats=True)
    if place is None or known.ndim != 2 or len(known) != len(place) or known.shape[1] != logits.shape[1]:
        raise InputError(
            f"{name}: labelled_logits have shape {list(known.shape)} for {0 if place is None else len(place):,} "
            f"labelled samples and {logits.shape[1]} classes; pass one row of each for every labelled sample"
        )
    check_labelled_features(name, place)
    check_finite(name, "labelled logits", known, torch.arange(len(known)))
    count = min(method.n_neighbors, len(known))
    if count < 1:
        raise InputError(
            f"{name}: n_neighbors={method.n_neighbors} of {len(known)} labelled samples; at least one is needed: "
            "label some first, or take a scorer that reads none"
        )
    search, together = search_in(name, place, method.neighbours), max(1, _NUMBERS // (count * known.shape[1]))
    logs = torch.empty(known.shape, dtype=torch.float64, device=known.device)  # [m c]
    for rows in torch.arange(len(known), device=known.device).split(together):
        logs[rows] = known[rows].double().log_softmax(1)
    scores = []
    for some, asked in zip(logits.split(_ASKED), features.split(_ASKED), strict=True):
        near = search(asked, count).to(logs.device)  # [b count]
        for block, rows in zip(some.split(together), near.split(together), strict=True):
            own, theirs = block.double().log_softmax(1)[:, None], logs[rows]  # [b 1 c], [b count c]
            first, second = (theirs, own) if method.from_neighbours else (own, theirs)
            scores.append((first.exp() * (first - second)).sum(2).mean(1).clamp_min(0))
    return torch.cat(scores)
