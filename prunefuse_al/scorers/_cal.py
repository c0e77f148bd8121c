"""CAL: samples on which the network says something else than on similar labelled ones (Margatina et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..types import RngLike, Selection, Signals
from ._features import check_features, check_labelled_features, read_features
from ._neighbours import nearest
from ._select import check_finite, check_k, read_logits, select_top

_BLOCK = 1 << 12


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
        float64 [n], >= 0; higher means label it sooner.

    Raises:
        InputError: shapes that do not fit.

    Examples:
        >>> near, far = torch.tensor([[0.0]]), torch.tensor([[0.0, 0.0]])
        >>> cal(torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.zeros(2, 1), far, near).round(decimals=2)
        tensor([0.0000, 0.6500], dtype=torch.float64)
    """
    count = min(n_neighbors, len(labelled_logits))
    if count < 1:
        raise InputError(
            f"cal: n_neighbors={n_neighbors} of {len(labelled_logits)} labelled samples; at least one is needed"
        )
    near = nearest("cal", labelled_features, features, count, neighbours)  # [n count]
    known = labelled_logits.double().log_softmax(1)  # [m c]
    scores = []
    for block, rows in zip(logits.split(_BLOCK), near.to(known.device).split(_BLOCK), strict=True):
        own, theirs = block.double().log_softmax(1)[:, None], known[rows]  # [b 1 c], [b count c]
        first, second = (theirs, own) if from_neighbours else (own, theirs)
        scores.append((first.exp() * (first - second)).sum(2).mean(1).clamp_min(0))
    return torch.cat(scores)


@dataclass(frozen=True)
class CAL:
    """Prefers samples that the network tells apart from the labelled ones nearest to them; see `cal`."""

    n_neighbors: int = 10
    from_neighbours: bool = False
    neighbours: Any = None
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "labelled_logits", "labelled_features"})

    def score(self, signals: Signals) -> Tensor:
        """Return float64 [n]; higher means label it sooner."""
        logits, features = read_logits("CAL", signals), read_features("CAL", signals)
        check_features("CAL", features, signals.indices)
        known, place = signals.labelled_logits, signals.labelled_features
        if known is None or place is None:
            raise InputError("CAL reads signals.labelled_logits and signals.labelled_features; one of them is None")
        check_labelled_features("CAL", place, features)
        if known.ndim != 2 or len(known) != len(place) or known.shape[1] != logits.shape[1]:
            raise InputError(
                f"CAL: labelled_logits have shape {list(known.shape)} for {len(place):,} labelled samples and "
                f"{logits.shape[1]} classes"
            )
        check_finite("CAL", "labelled logits", known, torch.arange(len(known)))
        return cal(
            logits,
            features,
            known,
            place,
            n_neighbors=self.n_neighbors,
            from_neighbours=self.from_neighbours,
            neighbours=self.neighbours,
        )

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k best, best first; `rng` breaks ties (None: the lower row first)."""
        check_k("CAL", k, len(signals))
        return select_top("CAL", self.score(signals), signals, k, rng)
