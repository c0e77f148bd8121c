"""Farthest-first traversal: pick what is farthest from all that is labelled or picked (Sener & Savarese, 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import checks
from ..data import bar
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import Frame, working_dtype
from ._features import check_features, check_labelled_features, given_labelled, labelled_rows, read_features
from ._given import given_features
from ._select import check_k, check_k_of
from ._traversal import Centres, Traversal


def k_center(
    features: Tensor,
    k: int,
    *,
    labelled: Any = None,
    labelled_features: Tensor | None = None,
    rng: RngLike = None,
    progress: bool = False,
) -> Tensor:
    """Return the `k` rows that farthest-first traversal picks: exactly those of computing every distance in float64.

    Args:
        features: float [n d], in half precision or memory-mapped too, on a CPU or CUDA device: all work is done there.
        k: how many, 1 to the number of rows that are not labelled.
        labelled: rows of `features` that are centres from the start and cannot be picked.
        labelled_features: float [m d], further centres from the start, which are no rows of `features`.
        rng: breaks ties, and picks the first row if nothing is labelled; None prefers the lower row.
        progress: a bar over the picks, where they take over five seconds and stderr is a terminal.

    Returns:
        int64 [k] on the CPU, in the order picked. Needs some 12 to 40 bytes a row and a copy of the centres beside its
        inputs.

    Raises:
        BudgetError: k is out of range.
        InputError: shapes or row numbers that do not fit.
        NonFiniteError: NaN or infinity in features.

    Examples:
        >>> line = torch.tensor([[0.0], [1.0], [6.0], [10.0]])
        >>> k_center(line, 2, labelled=[0])
        tensor([3, 2])
    """
    progress = checks.flag("progress", progress)
    features = given_features("k_center", features)
    labelled_features = given_labelled("k_center", labelled_features, features)
    largest = max(check_features("k_center", features), check_labelled_features("k_center", labelled_features))
    known = labelled_rows("k_center", labelled, len(features)).to(features.device)
    k = check_k("k_center", k, len(features) - len(known))
    return _traverse(features, k, known, labelled_features, largest, rng, progress=progress)


@dataclass(frozen=True)
class KCenter:
    """Prefers samples far from everything labelled and picked, so that the labels cover the pool; see `k_center`."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "labelled_features"})

    def select(self, signals: Signals, k: int, *, rng: RngLike = None, progress: bool = False) -> Selection:
        """Return k candidates in the order picked, without scores; `rng` breaks ties (None: the lower row first)."""
        progress = checks.flag("progress", progress)
        k = check_k_of("KCenter", k, signals)
        features = read_features("KCenter", signals)
        given = given_labelled("KCenter", signals.labelled_features, features)
        largest = max(check_features("KCenter", features, signals.indices), check_labelled_features("KCenter", given))
        nothing = torch.empty(0, dtype=torch.int64, device=features.device)
        positions = _traverse(features, k, nothing, given, largest, rng, progress=progress)
        return Selection(signals.indices.cpu()[positions])


def _traverse(
    features: Tensor, k: int, known: Tensor, given: Tensor | None, largest: float, rng: RngLike, *, progress: bool
) -> Tensor:
    """Return the picks for checked input; `largest` is the largest entry of any row."""
    given = features[:0] if given is None else given.to(features.device)
    work = torch.promote_types(working_dtype(features), working_dtype(given))
    order = None if rng is None else torch.from_numpy(as_rng(rng).permutation(len(features))).to(features.device)
    centres = Centres(features, given, Frame.around(features, largest, work), len(given) + len(known) + k)
    with bar("k_center", "picks", total=k, shown=progress) as picks:
        positions = Traversal(centres, known, order).run(k, picks.update)
    return (positions if order is None else order[positions]).cpu()
