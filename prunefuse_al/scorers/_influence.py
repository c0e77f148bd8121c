"""Dataset pruning by influence on generalisation: a group whose removal moves the weights least (Yang et al., 2023).

Removing row i from a mean loss moves trained weights by about S_i = H^-1 g_i / n, with g_i the row's gradient and H the
mean Hessian, and removing several by the sum of theirs. So what matters is the sum over the group, in which rows cancel
each other, and not how little each row matters alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import frame_scale, largest_entry
from ._dynamics import head_errors
from ._features import check_features, read_features
from ._given import given_features, given_labels, given_logits
from ._select import check_finite, check_k, check_k_of, read_labels, read_logits
from ._sketch import Sketch

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Solve = Callable[[Tensor, Tensor], Tensor]
_EXACT = 4096
"""Weights of the last layer up to which its Hessian is inverted as it is, and not by Kronecker factors."""
_ROWS = 4096
_NUMBERS = 1 << 20  # in gradients that are written out at once
_LEAST_PROPOSALS, _PROPOSALS_A_ROW = 5000, 50
_RANDOM = 20


@dataclass(frozen=True, eq=False)
class Removal:
    """A group of rows that can be removed together.

    Attributes:
        rows: int64 [r], ascending.
        norm: of the sum of their vectors.
        random_norm: the median of the same of 20 random groups of that size; beside it `norm` says what was gained.
    """

    rows: Tensor
    norm: float
    random_norm: float


def influence(
    logits: Tensor,
    features: Tensor,
    labels: Tensor,
    k: SupportsIndex,
    *,
    damping: float = 0.01,
    bias: bool = True,
    centre: bool = True,
    width: int = 512,
    rng: RngLike = None,
) -> Tensor:
    """Return the `k` rows that are left when the n - k others go that `smallest_removal` finds by `influence_vectors`.

    This is the paper's problem of a given size, by which it compares. The other, of a given error, is
    `largest_removal`, which takes the same vectors.

    Args:
        logits: float [n c], c >= 2.
        features: float [n d], the input of the last linear layer.
        labels: int [n]: given ones. With predicted ones gradients of sure rows vanish, they go as a group of any size,
            and what else goes is left to chance.
        k: how many to keep, 1 to n.
        damping: see `influence_vectors`.
        bias: see `influence_vectors`.
        centre: see `influence_vectors`.
        width: see `influence_vectors`.
        rng: draws the projection, where the search starts, and its steps. Very different groups are equally good, so
            two seeds may share no more than chance has it.

    Returns:
        int64 [k] on the CPU, the longest vectors first.

    Raises:
        BudgetError: k is out of range.
        InputError: an option or shapes that cannot be used.
        NonFiniteError: NaN or infinity.
    """
    method = Influence(damping, bias, centre, width)
    logits, features, labels = _given("influence", logits, features, labels)
    k = check_k("influence", k, len(logits))
    return _influence(method, logits, features, labels, k, rng)


def influence_vectors(
    logits: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    damping: float = 0.01,
    bias: bool = True,
    centre: bool = True,
    width: int = 512,
    rng: RngLike = None,
) -> Tensor:
    """Return by what the weights of the last layer move when a row is removed, S_i = H^-1 g_i / n, float64 [n r].

    The paper leaves open which layers are meant and how H^-1 g is had; here it is the last layer, whose Hessian needs
    no labels: the mean of (diag q - q q') kron h h'. Up to 4,096 weights it is inverted as it is, beyond by its
    Kronecker factors. Recursions for whole networks (LiSSA) would take one solve for each row, and are not offered.

    Args:
        logits: float [n c], c >= 2.
        features: float [n d], the input h of the last linear layer.
        labels: int [n].
        damping: added to the Hessian, in shares of its mean eigenvalue, above 0.
        bias: the layer has a bias: h gets a further 1.
        centre: subtract the mean of all S_i. Weights retrained without r rows move by about n / (n - r) times the sum
            of the centred ones; False is the paper.
        width: only norms of sums matter, so longer vectors are projected to so many numbers.
        rng: draws the projection.

    Raises:
        InputError: an option or shapes that cannot be used.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> h, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])
        >>> influence_vectors(torch.zeros(3, 2), h, labels, bias=False, damping=3 / 14).round(decimals=4)
        tensor([[-0.0645,  0.0645],
                [-0.1290,  0.1290],
                [ 0.1935, -0.1935]], dtype=torch.float64)
    """
    method = Influence(damping, bias, centre, width)
    return _vectors(method, *_given("influence_vectors", logits, features, labels), as_rng(rng))


def smallest_removal(vectors: Tensor, size: SupportsIndex, *, rng: RngLike = None) -> Removal:
    """Return `size` rows whose vectors have a sum of small norm: the paper's problem of a given size.

    How it was solved at scale the paper leaves open. Here rows are swapped one for another, from a random start: with
    a temperature that falls from half the median change of a swap to a thousandth of that over max(5,000, 50 size)
    proposals, then downhill alone for a quarter as many; the best found is returned. A descent from the shortest
    vectors would stop where no single swap helps.

    Args:
        vectors: float [n r].
        size: how many rows, 0 to n.
        rng: draws the start and the steps.

    Raises:
        InputError: shapes that do not fit, or another size.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> smallest_removal(torch.tensor([[3.0, 0], [0, 1], [-2, -1], [-1, 1], [0, -1]]), 2, rng=0).rows.tolist()
        [1, 4]
    """
    values = _given_vectors("smallest_removal", vectors)
    size = checks.whole("smallest_removal: size", size, least=0, most=len(values))
    return _smallest(values, size, as_rng(rng))


def largest_removal(
    vectors: Tensor, tolerance: float, *, keep: int = 1, relative: bool = True, rng: RngLike = None
) -> Removal:
    """Return as many rows as can go with a sum of norm up to `tolerance`: the paper's problem of a given error.

    Sizes are tried by bisection, each by `smallest_removal`. At a minimum the vectors of all rows sum to 0, so without
    a floor everything would go: `keep` is that floor, which the paper does not have.

    Args:
        vectors: float [n r].
        tolerance: of the norm, not below 0.
        keep: rows that stay at least, 0 to n.
        relative: the tolerance is in shares of the median norm of 20 random groups of the size; False: in units of
            weights, as in the paper, which no two networks share.
        rng: draws the starts and the steps.

    Raises:
        InputError: shapes that do not fit, or an option that cannot be used.
        NonFiniteError: NaN or infinity.
    """
    values = _given_vectors("largest_removal", vectors)
    tolerance = checks.number("largest_removal: tolerance", tolerance, least=0)
    keep = checks.whole("largest_removal: keep", keep, least=0, most=len(values))
    relative, generator = checks.flag("largest_removal: relative", relative), as_rng(rng)
    rounding = 1e-12 * float(np.abs(values).sum())

    def within(removal: Removal) -> bool:
        return removal.norm <= tolerance * (removal.random_norm if relative else 1) + rounding

    low, high = 0, len(values) - keep
    best = _smallest(values, 0, generator)
    size = high
    while low < high:
        found = _smallest(values, size, generator)
        if within(found):
            best, low = found, size
        else:
            high = size - 1
        size = (low + high + 1) // 2
    return best


def _influence(method: Influence, logits: Tensor, features: Tensor, labels: Tensor, k: int, rng: RngLike) -> Tensor:
    """Return the k rows kept for checked input."""
    generator = as_rng(rng)
    vectors = _vectors(method, logits, features, labels, generator)
    kept = torch.ones(len(vectors), dtype=torch.bool)
    kept[_smallest(vectors.numpy(), len(vectors) - k, generator).rows] = False
    rows = kept.nonzero()[:, 0]
    return rows[vectors[rows].norm(dim=1).argsort(descending=True, stable=True)]


def _vectors(
    method: Influence, logits: Tensor, features: Tensor, labels: Tensor, generator: np.random.Generator
) -> Tensor:
    """Return S, float64 [n r] on the CPU, for checked input."""
    layer = _Layer(logits, features, labels, method.bias)
    solver = _exact if layer.c * layer.d <= _EXACT else _factored
    solve = solver(layer, method.damping, method.width, generator)
    found = torch.cat([solve(errors, h) for _, errors, h in layer]) * (layer.unit / layer.n)
    return found - found.mean(0) if method.centre else found


class _Layer:
    """The last layer and what it is given: blocks of q [b c], q - onehot(y) [b c] and h [b d], in double precision.

    Attributes:
        unit: a power of two by which h is multiplied, so that no square is beyond the range.
    """

    def __init__(self, logits: Tensor, features: Tensor, labels: Tensor, bias: bool) -> None:
        self._given = tuple(x.detach().cpu() for x in (logits, features, labels))
        self._bias = int(bias)
        self.n, self.c, self.d = len(logits), logits.shape[1], features.shape[1] + int(bias)
        self.unit = frame_scale(max(float(bias), largest_entry(features)), torch.float64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rows = max(1, min(_ROWS, _NUMBERS // (self.c * self.d)))
        for logits, features, labels in zip(*(x.split(rows) for x in self._given), strict=True):
            h = torch.nn.functional.pad(features.double(), (0, self._bias), value=1.0) * self.unit
            yield logits.double().softmax(1), head_errors(logits.double(), labels), h


def _exact(layer: _Layer, damping: float, width: int, generator: np.random.Generator) -> Solve:
    """Return what multiplies gradients by the inverse of the damped Hessian itself."""
    c, d = layer.c, layer.d
    hessian = torch.zeros(c, d, c, d, dtype=torch.float64)
    for q, _, h in layer:
        for i in range(c):
            for j in range(i + 1):
                weight = q[:, i] * (float(i == j) - q[:, j])  # [b]
                hessian[i, :, j] += (h * weight[:, None]).T @ h
    for i in range(c):
        for j in range(i):
            hessian[j, :, i] = hessian[i, :, j].T
    matrix = hessian.view(c * d, c * d) / layer.n
    matrix.diagonal().add_(damping * _mean_eigenvalue(matrix))
    sketch = None if c * d <= width else Sketch.drawn(c, d, width, generator, torch.device("cpu")).matrix()
    factor = torch.linalg.cholesky(matrix)
    inverse = torch.cholesky_solve(torch.eye(c * d, dtype=torch.float64) if sketch is None else sketch, factor)  # [D r]
    return lambda errors, h: (errors[:, :, None] * h[:, None]).flatten(1) @ inverse


def _factored(layer: _Layer, damping: float, width: int, generator: np.random.Generator) -> Solve:
    """Return what multiplies gradients by the inverse of the Hessian's Kronecker factors, each damped by its share."""
    inputs = torch.zeros(layer.d, layer.d, dtype=torch.float64)
    outputs = torch.zeros(layer.c, layer.c, dtype=torch.float64)
    for q, _, h in layer:
        inputs += h.T @ h / layer.n
        outputs += (torch.diag(q.sum(0)) - q.T @ q) / layer.n
    for factor in (inputs, outputs):
        factor.diagonal().add_(math.sqrt(damping) * _mean_eigenvalue(factor))
    firsts, seconds = torch.linalg.cholesky(outputs), torch.linalg.cholesky(inputs)
    drawn = Sketch.drawn(layer.c, layer.d, min(width, layer.c * layer.d), generator, torch.device("cpu"))
    sketch = Sketch(torch.cholesky_solve(drawn.first, firsts), torch.cholesky_solve(drawn.second, seconds))
    return sketch.of


def _mean_eigenvalue(matrix: Tensor) -> float:
    """Return the mean eigenvalue of a matrix [D D], or a small number where all are 0: of rows that are all sure."""
    return max(float(matrix.trace()) / len(matrix), 1e-12)


def _smallest(vectors: Floats, size: int, generator: np.random.Generator) -> Removal:
    """Return `size` of the vectors [n r] with a sum of small norm; see `smallest_removal`."""
    n = len(vectors)
    order = generator.permutation(n)
    search = _Search(vectors, order[:size], order[size:])
    if 0 < size < n:
        search.run(generator)
    norms = [np.linalg.norm(vectors[generator.permutation(n)[:size]].sum(0)) for _ in range(_RANDOM)]
    rows = np.sort(search.inside)
    norm = float(np.linalg.norm(vectors[rows].sum(0)))
    return Removal(torch.from_numpy(rows), norm, float(np.median(norms)))


class _Search:
    """Swaps rows inside a group for rows outside it, so that the sum of the group's vectors gets shorter."""

    def __init__(self, vectors: Floats, inside: Integers, outside: Integers) -> None:
        self.vectors, self.inside, self.outside = vectors, inside, outside
        self.total = vectors[inside].sum(0)  # [r]

    def run(self, generator: np.random.Generator) -> None:
        """Search, and leave the best group found in `inside`."""
        steps = max(_LEAST_PROPOSALS, _PROPOSALS_A_ROW * len(self.inside))
        start = float(np.median([abs(self._change(*pair)) for pair in self._pairs(200, generator)])) / 2
        cooling = 1e-3 ** (1 / steps)
        value = best = 0.0  # the squared norm, less what it was
        done: list[tuple[int, int]] = []
        kept = 0  # how many of the swaps done lead to the best
        for step, (i, j) in enumerate(self._pairs(steps + steps // 4, generator)):
            change = self._change(i, j)
            if change >= 0:
                heat = start * cooling**step if step < steps else 0.0
                if not heat or generator.random() >= math.exp(-min(change / heat, 700)):
                    continue
            self._swap(i, j)
            done.append((i, j))
            value += change
            if value < best:
                best, kept = value, len(done)
        for i, j in reversed(done[kept:]):
            self._swap(i, j)

    def _pairs(self, count: int, generator: np.random.Generator) -> Iterator[tuple[int, int]]:
        for start in range(0, count, _ROWS):
            size = min(_ROWS, count - start)
            inside, outside = (generator.integers(len(rows), size=size) for rows in (self.inside, self.outside))
            yield from zip(inside.tolist(), outside.tolist(), strict=True)

    def _step(self, i: int, j: int) -> Floats:
        step: Floats = self.vectors[self.outside[j]] - self.vectors[self.inside[i]]
        return step

    def _change(self, i: int, j: int) -> float:
        """Return by what the squared norm changes where row i inside is swapped for row j outside."""
        step = self._step(i, j)
        return float(step @ (2 * self.total + step))

    def _swap(self, i: int, j: int) -> None:
        self.total += self._step(i, j)
        self.inside[i], self.outside[j] = self.outside[j], self.inside[i]


def _given(name: str, logits: Any, features: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
    logits = given_logits(name, logits)
    features = given_features(name, features, rows=len(logits))
    labels = given_labels(name, labels, len(logits), logits.shape[1])
    check_finite(name, "logits", logits, torch.arange(len(logits)))
    check_features(name, features)
    if not len(logits):
        raise InputError(f"{name}: logits of 0 rows; pass at least one")
    return logits, features, labels


def _given_vectors(name: str, vectors: Any) -> Floats:
    found = given_features(name, vectors, what="vectors")
    check_features(name, found, what="vectors")
    values: Floats = found.detach().cpu().double().numpy()
    return values


@dataclass(frozen=True)
class Influence:
    """Keeps what is left when a group goes whose removal moves the last layer least; see `influence`.

    Attributes:
        damping: added to the Hessian, in shares of its mean eigenvalue.
        bias: the last layer has a bias.
        centre: count moves from their mean, as a mean loss has it.
        width: longer vectors are projected to so many numbers.
    """

    damping: float = 0.01
    bias: bool = True
    centre: bool = True
    width: int = 512
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features", "labels"})

    def __post_init__(self) -> None:
        checks.settle(
            self,
            damping=checks.number("Influence: damping", self.damping, above=0),
            bias=checks.flag("Influence: bias", self.bias),
            centre=checks.flag("Influence: centre", self.centre),
            width=checks.whole("Influence: width", self.width, least=1),
        )

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return the k candidates kept, the longest vectors first, without scores."""
        name = "Influence"
        k = check_k_of(name, k, signals)
        logits, features = read_logits(name, signals), read_features(name, signals)
        check_features(name, features, signals.indices)
        labels = given_labels(name, read_labels(name, signals), len(signals), logits.shape[1])
        return Selection(signals.indices.cpu()[_influence(self, logits, features, labels, k, rng)])
