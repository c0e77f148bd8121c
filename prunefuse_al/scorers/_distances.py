"""Euclidean distances exact enough to decide by: bounds for all pairs, and the value itself where bounds touch.

A matrix product in single precision gives every distance of a block of rows to a block of centres, to within a bound.
Only the few pairs that this leaves undecided are computed in double precision, from the differences of the given
numbers, summed in an order that does not depend on what else is computed: equal rows have equal distances, bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_PAIRS = 1 << 16
"""How many pairs are held in double precision at once."""
_SURVEY = 1 << 16
"""How many rows are looked at together where a temporary copy is made."""
_ROUNDOFF = {"tf32": 2.0**-11, "high": 2.0**-11, "bf16": 2.0**-8, "medium": 2.0**-8}


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of each row of `a` [p d] to the same row of `b` [p d], float64 [p]."""
    return row_sums((a.double() - b.double()).square_())


def row_sums(terms: Tensor) -> Tensor:
    """Return the sum of each row of [p d], [p]: of halves added to halves, whatever a library would do on a device."""
    while (width := terms.shape[1]) > 1:
        half = width // 2
        folded = terms[:, :half] + terms[:, half : 2 * half]
        terms = torch.cat([folded, terms[:, 2 * half :]], 1) if width % 2 else folded
    return terms[:, 0]


@dataclass(frozen=True, eq=False)
class Points:
    """Points as given, `raw` [b d], and as factors of a product that bounds distances, `factors` float32 [b d+2]."""

    raw: Tensor
    factors: Tensor

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(self.raw[rows], self.factors[rows])

    def __len__(self) -> int:
        return len(self.factors)


@dataclass(frozen=True, eq=False)
class Frame:
    """A shift and a scale under which single precision holds the features well, and how far it can be wrong.

    Attributes:
        shift: [d], a typical row times `scale`; ReLU features lie far from 0 and close to one another.
        scale: a power of two that brings the largest entry to about 1.
        slack: |x|^2 + |y|^2 - 2 x.y as it is computed is at most `slack` (|x|^2 + |y|^2) away from |x - y|^2.
    """

    shift: Tensor
    scale: float
    slack: float

    @classmethod
    def around(cls, features: Tensor, largest: float, work: torch.dtype) -> Frame:
        """Return a frame for rows [n d] and others like them, of entries up to `largest`, that `work` holds exactly."""
        scale = frame_scale(largest, work)
        some = features[:: max(1, len(features) // 4096)][:4096].to(work) * scale
        slack = (4 * features.shape[1] + 32) * 2.0**-24 + 8 * matmul_roundoff(features.device)
        return cls(some.mean(0), scale, slack)

    def samples(self, raw: Tensor) -> Points:
        """Return rows whose distances to others, `centres`, are to be bounded."""
        x, norms, ones = self._framed(raw)
        return Points(raw, torch.cat([x.mul_(-2), norms, ones], 1))

    def centres(self, raw: Tensor) -> Points:
        """Return rows to which the distances of others, `samples`, are to be bounded."""
        x, norms, ones = self._framed(raw)
        return Points(raw, torch.cat([x, ones, norms], 1))

    def _framed(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (raw.to(self.shift.dtype) * self.scale).sub_(self.shift).float()  # [b d]
        norms = x.square().sum(1, keepdim=True).mul_(1 - self.slack)  # [b 1]
        return x, norms, torch.ones_like(norms)

    def limit(self, squared: Tensor) -> Tensor:
        """Return squared distances, float64, as float32 in the frame, rounded up; 0 and less as minus infinity."""
        scaled = (squared * self.scale * self.scale).float() * (1 + 2.0**-20) + 1e-30
        return scaled.masked_fill_(squared <= 0, -math.inf)


def lower_bounds(samples: Points, centres: Points) -> Tensor:
    """Return (1 - slack) (|x|^2 + |y|^2) - 2 x.y of all pairs in their frame, float32 [b c]: not above |x - y|^2."""
    return samples.factors @ centres.factors.T


def lower_minima(minima: Tensor, samples: Points, centres: Points, frame: Frame) -> None:
    """Lower each of `minima`, float64 [b], to that sample's squared distance to the nearest centre, in place.

    A minimum of 0 cannot be lowered, and one below 0 marks a sample of no interest: both cost nothing more.
    """
    low = lower_bounds(samples, centres)  # [b c]
    rows = (low.amin(1) <= frame.limit(minima)).nonzero()[:, 0]
    if not len(rows):
        return
    low = low[rows]
    nearest = low.argmin(1)
    minima[rows] = torch.minimum(minima[rows], squared_distances(samples.raw[rows], centres.raw[nearest]))
    if len(centres) == 1:
        return
    low.scatter_(1, nearest[:, None], math.inf)
    for pairs in (low <= frame.limit(minima[rows])[:, None]).nonzero().split(_PAIRS):
        of = rows[pairs[:, 0]]
        minima.scatter_reduce_(0, of, squared_distances(samples.raw[of], centres.raw[pairs[:, 1]]), "amin")


def frame_scale(largest: float, work: torch.dtype) -> float:
    """Return the power of two that brings an entry of size `largest` to about 1, as far as `work` reaches."""
    room = 120 if work == torch.float32 else 500
    exponent = math.frexp(largest)[1] if largest else 0
    return 2.0 ** -max(-room, min(room, exponent))


def working_dtype(features: Tensor) -> torch.dtype:
    """Return double precision for double precision, else single, which holds every shorter format."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def largest_entry(features: Tensor) -> float:
    """Return the largest absolute value; NaN or infinity if there is one. Only a block is copied at a time."""
    peaks = [torch.stack(block.aminmax()).abs().amax().double() for block in features.split(_SURVEY) if block.numel()]
    return float(torch.stack(peaks).amax()) if peaks else 0.0


def matmul_roundoff(device: torch.device) -> float:
    """Return how far torch may round the factors of a float32 matrix product: 0 unless a setting lets it shorten them.

    A user who trains in TF32 leaves that setting on; the bounds widen then, and the answers stay the same.
    """
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = getattr(backend, "matmul", None)
    settings = [getattr(place, "fp32_precision", None) for place in (matmul, backend, torch.backends)]
    if settings == [None] * 3:  # before torch 2.9 there is one setting for all
        settings = [torch.get_float32_matmul_precision()]
    return max((_ROUNDOFF.get(str(setting), 0.0) for setting in settings), default=0.0)
