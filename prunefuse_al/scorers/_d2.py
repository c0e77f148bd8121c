"""D2 pruning (Maharana et al., 2024): difficulty passed along a graph of neighbours, then taken greedily and spread."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from .. import checks
from ..types import PointScorer, RngLike, Scorer, Selection, Signals, as_rng
from ._balance import class_budgets
from ._ccs import check_mislabelled, difficulty_scorer, given_difficulty, read_difficulty, without_hardest
from ._features import check_features, read_features
from ._given import given_features, given_labels
from ._neighbours import check_neighbours, knn
from ._parts import MadeOfScorers
from ._select import check_k, check_k_of, read_labels

Floats = np.ndarray[Any, np.dtype[np.float64]]
_LEAST = 1e-7  # a difficulty of zero still passes something on


def d2(
    difficulty: Tensor,
    features: Tensor,
    k: SupportsIndex,
    *,
    labels: Tensor | None = None,
    n_neighbors: int = 5,
    gamma: float = 0.1,
    mislabelled: float = 0.1,
    neighbours: Any = None,
    rng: RngLike = None,
) -> Tensor:
    """Return k samples that are difficult together with their neighbours, and not next to one another.

    The floor(mislabelled * n) hardest are dropped, fewer where k would not be left. With x the difficulty shifted to
    a minimum of 0 and d the distances in a graph of nearest neighbours, made symmetric, a sample starts at
    s_i = x_i + sum_j exp(-d_ij) max(x_j, 1e-7). Then, k times, the highest is taken and s_j falls by
    exp(-gamma d_ij) s_i for each of its neighbours j. Only the second kernel has gamma.

    Args:
        difficulty: finite float [n], higher is harder (for AUM, its negative).
        features: finite float [n d].
        k: how many, 1 to n.
        labels: int [n]: every class is a graph of its own and gets a share of k, the smallest classes first and at
            most an equal one; None is one graph.
        n_neighbors: nearest neighbours of each sample in the graph, before it is made symmetric.
        gamma: how fast the fall fades with distance, >= 0; smaller spreads more.
        mislabelled: share dropped, 0 <= share < 1.
        neighbours: object with `fit(X)` and `kneighbors(X, n_neighbors)`; None is scikit-learn's exact search.
        rng: breaks ties; None takes fresh entropy.

    Returns:
        int64 [k], positions: all classes' first picks, then their second ones, and so on; within a turn by difficulty.

    Raises:
        BudgetError: `k` is not between 1 and n.
        InputError: an option is out of range, or shapes do not fit.
        NonFiniteError: NaN or infinity.
    """
    method = D2("margin", mislabelled, n_neighbors, gamma, neighbours)  # checks them
    values = given_difficulty("d2", difficulty)
    features = given_features("d2", features, rows=len(values))
    check_features("d2", features)
    labels = None if labels is None else given_labels("d2", labels, len(values))
    return _d2(method, values, features, check_k("d2", k, len(values)), labels, rng)


def _d2(method: D2, values: Tensor, features: Tensor, k: int, labels: Tensor | None, rng: RngLike) -> Tensor:
    """Return the picks for checked input; `values` are the difficulties, float64 [n] on the CPU."""
    generator, mislabelled = as_rng(rng), method.mislabelled
    kept = without_hardest(values, k, mislabelled, generator)
    values = values - values[kept].min()
    classes = torch.zeros_like(kept) if labels is None else torch.unique(labels.cpu()[kept], return_inverse=True)[1]
    picked, turns = [], []
    for label, budget in enumerate(class_budgets(torch.bincount(classes), k).tolist()):
        if budget:
            rows = kept[classes == label]
            graph = neighbour_graph(features[rows.to(features.device)], method.n_neighbors, method.neighbours)
            tie = generator.permutation(len(rows))
            picked.append(rows[spread(values[rows].numpy(), graph, budget, method.gamma, tie)])
            turns.append(torch.arange(budget))
    chosen, turn = torch.cat(picked), torch.cat(turns)
    return chosen[torch.from_numpy(np.lexsort((-values[chosen].numpy(), turn.numpy())))]


def neighbour_graph(features: Tensor, n_neighbors: int, neighbours: Any = None) -> csr_array:
    """Return the symmetric graph of nearest neighbours of rows [n d]: an edge if either is a neighbour of the other.

    Distances are stored plus 1, because a sparse array would drop those of duplicates, which are 0.
    """
    distances, rows = knn(features, n_neighbors, neighbours=neighbours)  # [n k]
    n, k = rows.shape
    ends = np.arange(n).repeat(k), rows.numpy().ravel()
    one_way = csr_array((distances.numpy().ravel() + 1, ends), shape=(n, n))
    return one_way.maximum(one_way.T).tocsr()


def spread(difficulty: Floats, graph: csr_array, k: int, gamma: float, tie: Any) -> Tensor:
    """Return k rows, int64 [k], as `d2` takes them from one graph, in the order they are taken.

    Args:
        difficulty: float64 [n], >= 0.
        graph: see `neighbour_graph`.
        k: how many, 1 to n.
        gamma: see `d2`.
        tie: int [n], of equal rows the one with the lower number is taken.
    """
    starts, ends, distances = graph.indptr, graph.indices, graph.data - 1
    forward = csr_array((np.exp(-distances), ends, starts), shape=graph.shape)
    fall = np.exp(-gamma * distances)
    score = difficulty + forward @ np.maximum(difficulty, _LEAST)  # [n]
    # A heap whose entries are outdated once a row's score has changed: each change adds one entry, nothing is sought.
    heap = list(zip(-score, tie, range(len(score)), strict=True))
    heapq.heapify(heap)
    taken = np.zeros(len(score), dtype=bool)
    order: list[int] = []
    while len(order) < k:
        negative, _, row = heapq.heappop(heap)
        if taken[row] or negative != -score[row]:
            continue
        taken[row] = True
        order.append(row)
        edges = slice(starts[row], starts[row + 1])
        near = ends[edges]
        score[near] -= fall[edges] * score[row]
        for other in near[~taken[near]]:
            heapq.heappush(heap, (-score[other], tie[other], other))
    return torch.tensor(order, dtype=torch.int64)


@dataclass(frozen=True)
class D2(MadeOfScorers):
    """Prefers difficult samples with difficult neighbours, spread over the data and evenly over classes; see `d2`.

    Attributes:
        difficulty: name of a point scorer, or one; higher scores are harder.
        mislabelled: share dropped as too hard, 0 <= share < 1.
        n_neighbors: see `d2`.
        gamma: see `d2`.
        neighbours: object with `fit(X)` and `kneighbors(X, n_neighbors)`; None is scikit-learn's exact search.
    """

    difficulty: str | PointScorer = "aum"
    mislabelled: float = 0.1
    n_neighbors: int = 5
    gamma: float = 0.1
    neighbours: Any = None
    reads = frozenset({"features", "labels"})

    def __post_init__(self) -> None:
        check_neighbours("D2", self.neighbours)
        checks.settle(
            self,
            mislabelled=check_mislabelled(self.mislabelled),
            n_neighbors=checks.whole("n_neighbors", self.n_neighbors, least=1),
            gamma=checks.number("gamma", self.gamma, least=0),
        )
        difficulty_scorer(self.difficulty)

    @property
    def parts(self) -> tuple[Scorer, ...]:
        """See `MadeOfScorers`."""
        return (difficulty_scorer(self.difficulty),)

    def without_dynamics(self) -> D2:
        """Return the same with the margin as difficulty: AUM at one moment, for the predicted label."""
        return replace(self, difficulty="margin")

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k samples as `d2` orders them, with their difficulties; `rng` breaks ties."""
        k = check_k_of("D2", k, signals)
        values = read_difficulty(difficulty_scorer(self.difficulty), signals)  # [n]
        features, labels = read_features("D2", signals), read_labels("D2", signals)
        check_features("D2", features, signals.indices)
        picked = _d2(self, values, features, k, labels, rng)
        return Selection(signals.indices.cpu()[picked], values[picked])
