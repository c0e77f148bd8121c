"""The weights with which a layer, from the inputs it has left, comes nearest to what it summed from all of them.

Ridge reconstruction (He et al. 2017, arXiv 1707.06168): a layer y = W h is to work on other inputs x. With covariances
over samples, W' = W C_hx (C_xx + lambda I)^-1, in double precision. How much to shrink is chosen on held-out rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""Multiples of the mean variance that are tried; the smallest serves inputs that determine all there was."""
_BLOCK = 8192
"""Positions whose products are formed at once."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What a layer was and what it sees.

    Attributes:
        dense: what the dense layer sums, of the outputs that stay, [p o]; or its inputs, [p d].
        thin: inputs of the thin one at the same positions, [p d'].
        wide: weights on the dense inputs, of the outputs that stay, [o d]; None where `dense` is what they sum.
        cut: weights on the thin inputs as they are, [o d'].
        centred: a constant may be added to the outputs.
    """

    dense: Tensor
    thin: Tensor
    wide: Tensor | None
    cut: Tensor
    centred: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """What a layer is to become.

    Attributes:
        weight: [o d'].
        shift: what to add to the outputs, [o].
        ridge: how much it was shrunk, as a multiple of the mean variance; None: the weights are those that were cut.
        before: share of the dense outputs' held-out variance that was missed.
        after: share that is missed with these weights.
    """

    weight: Tensor
    shift: Tensor
    ridge: float | None
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over positions of targets t [p m] and inputs x [p d']: their products, with each other and with 1."""

    n: int
    t: Tensor
    x: Tensor
    tt: Tensor
    tx: Tensor
    xx: Tensor

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def about(self, t: Tensor, x: Tensor) -> _Moments:
        """Return the sums of t and x less these constants."""
        n = self.n
        return _Moments(
            n,
            self.t - n * t,
            self.x - n * x,
            self.tt - _outer(self.t, t) - _outer(t, self.t) + n * _outer(t, t),
            self.tx - _outer(self.t, x) - _outer(t, self.x) + n * _outer(t, x),
            self.xx - _outer(self.x, x) - _outer(x, self.x) + n * _outer(x, x),
        )


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, None] * b


def refit(layer: Layer, held: Tensor) -> Fit:
    """Return the weights, among those that were cut and a range of ridges, that miss least on held-out positions.

    Args:
        layer: what it was and what it sees.
        held: bool [p], the positions that are held out; some are, and some are not.
    """
    dense, cut, mix = layer.dense, layer.cut.double(), None if layer.wide is None else layer.wide.double()
    thin, basis = layer.thin, None
    if len(thin) < thin.shape[1]:  # fewer positions than inputs: nothing is known but in the span of what was seen
        basis = torch.linalg.qr(thin.double().T).Q  # [d' p]
        thin, cut_seen = thin.double() @ basis, cut @ basis
    else:
        cut_seen = cut
    train, check = _moments(dense, thin, ~held), _moments(dense, thin, held)
    means = (train.t / train.n, train.x / train.n) if layer.centred else (train.t * 0, train.x * 0)
    ridge, after = _chosen(train.about(*means), check.about(*means), mix, width=cut.shape[1])
    energy = max(_energy(check.about(check.t / check.n, check.x * 0) if layer.centred else check, mix), 1e-300)
    before = _missed(check, mix, cut_seen)
    moved = _missed(check.about(*means), mix, cut_seen)
    whole = train + check
    t, x = (whole.t / whole.n, whole.x / whole.n) if layer.centred else means
    worse = min(before, moved) <= after
    weight = cut_seen if worse else _solved(whole.about(t, x), mix, ridge, width=cut.shape[1])
    shift = _mixed(mix, t[:, None])[:, 0] - weight @ x
    if worse:
        return Fit(cut, shift, None, before / energy, moved / energy)
    return Fit(weight if basis is None else weight @ basis.T, shift, ridge, before / energy, after / energy)


def _moments(t: Tensor, x: Tensor, chosen: Tensor) -> _Moments:
    rows = chosen.nonzero().flatten()
    parts = [_block(t[part], x[part]) for part in rows.split(_BLOCK)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _block(t: Tensor, x: Tensor) -> _Moments:
    t, x = t.double(), x.double()
    return _Moments(len(t), t.sum(0), x.sum(0), t.T @ t, t.T @ x, x.T @ x)


def _mixed(mix: Tensor | None, moments: Tensor) -> Tensor:
    return moments if mix is None else mix @ moments


def _energy(moments: _Moments, mix: Tensor | None) -> float:
    return float(moments.tt.trace() if mix is None else ((mix @ moments.tt) * mix).sum())


def _missed(moments: _Moments, mix: Tensor | None, weight: Tensor) -> float:
    """Return the sum of squares of what `weight` [o d'] misses."""
    crossed = (_mixed(mix, moments.tx) * weight).sum()
    own = ((weight @ moments.xx) * weight).sum()
    return max(0.0, _energy(moments, mix) - 2 * float(crossed) + float(own))


def _chosen(train: _Moments, check: _Moments, mix: Tensor | None, *, width: int) -> tuple[float, float]:
    """Return the ridge that misses least on what was held out, and what it misses, for so many inputs."""
    values, vectors = torch.linalg.eigh(train.xx)
    values = values.clamp(min=0)
    scale = float(values.sum()) / width
    if scale == 0:  # inputs that never change
        return RIDGES[-1], float("inf")
    target = _mixed(mix, train.tx @ vectors)  # [o r]
    crossed, own = _mixed(mix, check.tx @ vectors), vectors.T @ check.xx @ vectors
    energy, missed = _energy(check, mix), {}
    for ridge in RIDGES:
        weight = target / (values + ridge * scale)
        missed[ridge] = energy - 2 * float((crossed * weight).sum()) + float(((weight @ own) * weight).sum())
    best = min(missed, key=missed.__getitem__)
    return best, max(0.0, missed[best])


def _solved(whole: _Moments, mix: Tensor | None, ridge: float, *, width: int) -> Tensor:
    eye = torch.eye(len(whole.xx), dtype=torch.float64, device=whole.xx.device)
    damped = whole.xx + eye * (ridge * whole.xx.trace() / width)
    solved: Tensor = torch.linalg.solve(damped, _mixed(mix, whole.tx).T).T  # [o d']
    return solved
