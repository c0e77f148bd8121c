"""VeSSAL: volume sampling of gradients in one pass over a stream, decided row by row (Saran et al., 2023).

Rows x are gradients of the last layer. With P the inverse of damping I + sum xx' over what is picked and A the mean
of xx' over all rows seen so far, row t of n is picked with probability rate_t x'Px / trace(A P), at most 1, where
rate_t = (k - picked) / (n - t + 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import BudgetError, InputError, NonFiniteError
from ..types import RngLike, Selection, Signals, as_rng
from ._distances import frame_scale, row_sums
from ._dynamics import head_errors
from ._features import check_features, check_labelled_features, given_labelled, read_features
from ._given import given_features, given_labels, given_logits
from ._select import check_finite, check_k, check_k_of, read_field, read_labels, read_logits
from ._sketch import Sketch

SCALES = ("rms", "raw")
_NUMBERS = 1 << 20  # in the gradients that are looked at together
_ROWS = 4096


def vessal(
    logits: Tensor,
    features: Tensor,
    k: SupportsIndex,
    *,
    labels: Tensor | None = None,
    labelled_logits: Any = None,
    labelled_features: Any = None,
    damping: float = 0.01,
    scale: str = "rms",
    width: int = 2560,
    rng: RngLike = None,
) -> Tensor:
    """Return `k` rows by one pass of `VeSSALStream` over all of them, in an order drawn with `rng`.

    The paper leaves open in which order a pool streams by; its code goes by index, so the sorting of a file decides
    what comes first, and here the order is drawn. The damping is absolute, and beside gradients far shorter than its
    root no diversity is left: so by default they are divided by their root mean square length, where the code takes
    them raw. Rank 1 alone is offered: for more the code divides a determinant by a trace, and the rate no longer holds.

    Args:
        logits: float [n c], c >= 2.
        features: float [n d], the input of the last linear layer, on the device of the logits.
        k: how many, 1 to n.
        labels: int [n], the classes that gradients are of; None: those predicted, as in the paper.
        labelled_logits: float [m c] of labelled samples, which then count as picked beforehand, with their predicted
            classes; None: they do not, as in the paper.
        labelled_features: float [m d] of the same.
        damping: of the matrix that is inverted, above 0.
        scale: "rms", or "raw" for gradients as they are.
        width: longer gradients are projected to so many numbers; see `VeSSALStream`.
        rng: draws the order, the projection, a number between 0 and 1 for each row, and what fills up.

    Returns:
        int64 [k] on the CPU, in the order picked; what fills up comes last. Takes n D^2 steps for D = min(c d, width),
        and 2 D^2 numbers beside its inputs.

    Raises:
        BudgetError: k is out of range.
        InputError: an option or shapes that cannot be used.
        NonFiniteError: NaN or infinity.

    Examples:
        >>> logits, features = torch.zeros(40, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(20, 1)
        >>> picked = vessal(logits, features, 2, rng=0)
        >>> sorted((picked % 2).tolist())
        [0, 1]
    """
    method = VeSSAL(damping, scale, width, labels is not None, labelled_features is not None)
    logits = given_logits("vessal", logits)
    features = given_features("vessal", features, rows=len(logits))
    k = check_k("vessal", k, len(logits))
    if labels is not None:
        labels = given_labels("vessal", labels, len(logits), logits.shape[1])
    check_finite("vessal", "logits", logits, torch.arange(len(logits)))
    largest = check_features("vessal", features)
    known = _given_known("vessal", labelled_logits, labelled_features, logits, features)
    return _vessal(method, _Gradients(logits, features, labels, largest), k, known, rng)


class VeSSALStream:
    """Picks k of n rows that stream by, in batches of any size; what it holds does not grow with them.

    It holds two matrices [D D] in double precision, D = min(c d, `width`). Each row's gradient is
    (q - onehot(argmax q)) outer features, q = softmax(logits). Gradients longer than `width` are projected: number r is
    (u_r . (q - onehot)) (v_r . features) / sqrt(width) with normal u_r, v_r, which keeps products of gradients in the
    mean and needs (c + d) width numbers. (The code multiplies by a normal matrix of c d width numbers, on one data
    set.)

    Args:
        k: how many rows to pick, 1 to n.
        n: how many rows will come.
        damping: of the matrix that is inverted, above 0.
        length: gradients are divided by it. Their root mean square is a good one, where it is known.
        width: longer gradients are projected to so many numbers.
        rng: draws the projection, a number between 0 and 1 for each row, and what fills up.

    Attributes:
        picked: numbers of the rows picked so far, counted from 0 as they came.
        seen: how many rows have come.

    Raises:
        BudgetError: k is out of range.
        InputError: an option that cannot be used.

    Example:
        >>> stream = VeSSALStream(k=3, n=60, rng=0)
        >>> features = torch.eye(3).repeat(20, 1)
        >>> for some in features.split(25):
        ...     _ = stream.offer(torch.zeros(len(some), 2), some)
        >>> sorted(row % 3 for row in stream.finish().tolist())
        [0, 1, 2]
    """

    def __init__(
        self,
        k: SupportsIndex,
        n: int,
        *,
        damping: float = 0.01,
        length: float = 1.0,
        width: int = 2560,
        rng: RngLike = None,
    ) -> None:
        self.n = checks.whole("VeSSALStream: n", n, least=1)
        self.k = check_k("VeSSALStream", k, self.n)
        self.damping = float(checks.number("VeSSALStream: damping", damping, above=0))
        self.length = float(checks.number("VeSSALStream: length", length, above=0))
        self.width = checks.whole("VeSSALStream: width", width, least=1)
        self.picked: list[int] = []
        self.seen = 0
        self._generator = as_rng(rng)
        self._volume: _Volume | None = None

    def offer(self, logits: Any, features: Any) -> Tensor:
        """Return which rows of a batch are picked, int64, positions in it, ascending.

        Args:
            logits: float [b c], c >= 2.
            features: float [b d].

        Raises:
            InputError: shapes that do not fit, also those of batches before, or more rows than were said to come.
            NonFiniteError: NaN or infinity.
        """
        name = "VeSSALStream.offer"
        batch = _checked(name, logits, features)
        if self.seen + len(batch) > self.n:
            found = f"{name}: logits of {len(batch):,} rows after {self.seen:,}"
            raise InputError(
                f"{found}, and n={self.n:,} were said to come: pass no more, or make a stream with n of all"
            )
        before = len(self.picked)
        start = self.seen
        self._offer(batch, torch.arange(len(batch)))
        return torch.tensor(self.picked[before:], dtype=torch.int64) - start

    def know(self, logits: Any, features: Any) -> None:
        """Count labelled rows as picked before the first one came, so that what is like them comes less.

        Args:
            logits: float [m c], c >= 2.
            features: float [m d].

        Raises:
            InputError: shapes that do not fit, or rows were offered before.
            NonFiniteError: NaN or infinity.
        """
        if self.seen:
            raise InputError(f"VeSSALStream.know: {self.seen:,} rows were offered already; call it before `offer`")
        self._know(_checked("VeSSALStream.know", logits, features))

    def finish(self) -> Tensor:
        """Return the rows picked, int64 [k], counted from 0 as they came.

        The last of n rows is not sure to be picked where one is missing: those still missing are drawn uniformly from
        all that were seen, and come last; `len(stream.picked)` is how many were picked by their gradients.

        Raises:
            BudgetError: fewer than k rows came.
        """
        if self.seen < self.k:
            raise BudgetError(f"VeSSALStream: k={self.k} but only {self.seen:,} rows came; pass more to `offer` first")
        missing = self.k - len(self.picked)
        if not missing:
            return torch.tensor(self.picked)
        rest = np.delete(np.arange(self.seen), self.picked)
        return torch.tensor([*self.picked, *self._generator.permutation(rest)[:missing].tolist()])

    def _offer(self, batch: _Gradients, rows: Tensor) -> None:
        volume = self._volume_for(batch)
        for some in rows.split(volume.rows):
            uniforms = self._generator.random(len(some))
            if len(self.picked) < self.k:
                x = volume.projected(*batch.factors(some, self.length))
                found = volume.sample(x, uniforms, self.k - len(self.picked), self.n - self.seen, self.seen)
                self.picked += [self.seen + at for at in found]
            self.seen += len(some)

    def _know(self, batch: _Gradients) -> None:
        volume = self._volume_for(batch)
        for some in torch.arange(len(batch)).split(volume.rows) if len(batch) else ():
            volume.know(volume.projected(*batch.factors(some, self.length)))

    def _volume_for(self, batch: _Gradients) -> _Volume:
        c, d = batch.logits.shape[1], batch.features.shape[1]
        if self._volume is None:
            self._volume = _Volume.begin(c, d, self.damping, self.width, self._generator, batch.logits.device)
        if self._volume.shape != (c, d):
            raise InputError(
                f"VeSSALStream: features of {d} numbers and logits of {c} classes, and before {self._volume.shape[1]} "
                f"and {self._volume.shape[0]}; pass what one network says"
            )
        return self._volume


@dataclass(eq=False)
class _Volume:
    """What is known of the rows seen.

    Attributes:
        shape: c and d of the rows.
        inverse: P, [D D].
        seen: the sum of xx' over the rows seen, [D D].
        trace: of `seen` times P.
        sketch: projects longer gradients; None: none is.
    """

    shape: tuple[int, int]
    inverse: Tensor
    seen: Tensor
    trace: float
    sketch: Sketch | None

    @classmethod
    def begin(
        cls, c: int, d: int, damping: float, width: int, generator: np.random.Generator, device: torch.device
    ) -> _Volume:
        size = min(c * d, width)
        sketch = Sketch.drawn(c, d, size, generator, device) if size < c * d else None
        eye = torch.eye(size, dtype=torch.float64, device=device)
        return cls((c, d), eye / damping, torch.zeros_like(eye), 0.0, sketch)

    @property
    def rows(self) -> int:
        """How many rows are looked at together."""
        return max(1, min(_ROWS, _NUMBERS // len(self.inverse)))

    def projected(self, a: Tensor, h: Tensor) -> Tensor:
        """Return the outer products of the rows of a [b c] and h [b d], as they are or projected, [b D]."""
        return (a[:, :, None] * h[:, None]).flatten(1) if self.sketch is None else self.sketch.of(a, h)

    def know(self, x: Tensor) -> None:
        """Count rows [b D] as picked."""
        v = self.inverse @ x.T  # [D b]
        inner = torch.eye(len(x), dtype=x.dtype, device=x.device) + x @ v
        self.inverse -= v @ torch.linalg.solve(inner, v.T)
        self.inverse = (self.inverse + self.inverse.T) / 2

    def sample(self, x: Tensor, uniforms: np.ndarray[Any, Any], k: int, left: int, before: int) -> list[int]:
        """Return which of the rows x [b D] are picked, ascending.

        Args:
            x: the next rows.
            uniforms: between 0 and 1, for each row.
            k: how many are still to be picked.
            left: how many rows are to come, these included.
            before: how many came before.
        """
        u = row_sums((x @ self.inverse) * x).clamp_min_(0)  # x'Px, [b]
        if not bool(u.isfinite().all()):
            raise NonFiniteError("VeSSAL: gradients too long to be squared; take scale='rms', or smaller features")
        draws, picked, start = torch.from_numpy(uniforms), list[int](), 0
        number = torch.arange(before + 1, before + len(x) + 1, dtype=torch.float64)  # t
        remaining = torch.arange(left, left - len(x), -1, dtype=torch.float64)  # n - t + 1
        while start < len(x) and len(picked) < k:
            own = u[start:].cpu()
            traces = self.trace + own.cumsum(0)  # t trace(A P), with each row's own x
            rates = (k - len(picked)) / remaining[start:]
            chances = torch.where(traces > 0, rates * number[start:] * own / traces, rates)
            hits = (draws[start:] < chances).nonzero()[:, 0]
            if not len(hits):
                self.trace = float(traces[-1])
                break
            at = start + int(hits[0])
            picked.append(at)
            self.trace = max(0.0, float(traces[hits[0]]) - self._pick(x, u, at))
            start = at + 1
        self.seen += x.T @ x
        return picked

    def _pick(self, x: Tensor, u: Tensor, at: int) -> float:
        """Count row `at` of x [b D] as picked, lower u [b], x'Px, in place, and return what the trace falls by."""
        v = (self.inverse @ x[at]) / (1 + u[at]).sqrt()
        products = (x @ v).square()  # [b]
        self.inverse -= torch.outer(v, v)
        u.sub_(products).clamp_min_(0)
        return float(v @ self.seen @ v + products[: at + 1].sum())


class _Gradients:
    """Rows (q - onehot(y)) outer h, held by logits [n c], features [n d] and, unless predicted, labels [n]."""

    def __init__(self, logits: Tensor, features: Tensor, labels: Tensor | None, largest: float) -> None:
        if logits.device != features.device:
            found = f"logits are on {logits.device} and features on {features.device}"
            raise InputError(f"VeSSAL: {found}; move one of them")
        self.logits, self.features = logits.detach(), features.detach()
        self.labels = None if labels is None else labels.to(logits.device)
        self._scale = frame_scale(largest, torch.float64)

    def __len__(self) -> int:
        return len(self.logits)

    def factors(self, rows: Tensor, length: float) -> tuple[Tensor, Tensor]:
        """Return q - onehot(y) [b c] and features [b d] of rows, over `length`, in double precision."""
        some = rows.to(self.logits.device)
        logits = self.logits[some].double()
        labels = logits.argmax(1) if self.labels is None else self.labels[some]
        return head_errors(logits, labels), self.features[some].double() / length

    def root_mean_square(self) -> float:
        """Return the root of the mean squared length of all rows, or 1 where all are 0."""
        total = 0.0
        for rows in torch.arange(len(self)).split(_ROWS):
            a, h = self.factors(rows, 1 / self._scale)  # by a power of two, so that no square is beyond the range
            total += float((row_sums(a.square()) * row_sums(h.square())).sum())
        return math.sqrt(total / len(self)) / self._scale or 1.0


def _vessal(method: VeSSAL, pool: _Gradients, k: int, known: _Gradients | None, rng: RngLike) -> Tensor:
    """Return k rows for checked input."""
    generator = as_rng(rng)
    length = pool.root_mean_square() if method.scale == "rms" else 1.0
    order = torch.from_numpy(generator.permutation(len(pool)))
    stream = VeSSALStream(k, len(pool), damping=method.damping, length=length, width=method.width, rng=generator)
    if known is not None:
        stream._know(known)
    stream._offer(pool, order)
    return order[stream.finish()]


def _checked(name: str, logits: Any, features: Any) -> _Gradients:
    logits = given_logits(name, logits)
    features = given_features(name, features, rows=len(logits))
    check_finite(name, "logits", logits, torch.arange(len(logits)))
    return _Gradients(logits, features, None, check_features(name, features))


def _given_known(name: str, logits: Any, features: Any, own: Tensor, beside: Tensor) -> _Gradients | None:
    """Return what is labelled, checked against the `own` logits of the pool and the features `beside` them."""
    if logits is None and features is None:
        return None
    if logits is None or features is None:
        raise InputError(f"{name}: labelled_logits and labelled_features go together; pass both, or neither")
    place, known = given_labelled(name, features, beside), given_logits(name, logits, what="labelled logits")
    if place is None or known.shape != (len(place), own.shape[1]):
        found = f"labelled logits have shape {list(known.shape)} for labelled features {list(features.shape)}"
        raise InputError(f"{name}: {found} and {own.shape[1]} classes; pass one row of each for every labelled sample")
    check_finite(name, "labelled logits", known, torch.arange(len(known)))
    return _Gradients(known, place, None, check_labelled_features(name, place))


@dataclass(frozen=True)
class VeSSAL:
    """Prefers samples whose labels would change the last layer in directions not yet taken, in one pass; see `vessal`.

    Attributes:
        damping: of the matrix that is inverted.
        scale: "rms" or "raw".
        width: longer gradients are projected to so many numbers.
        by_labels: gradients are those of labels (given ones in core-set mode) instead of predicted classes.
        include_labelled: what is labelled already counts as picked.
    """

    damping: float = 0.01
    scale: str = "rms"
    width: int = 2560
    by_labels: bool = False
    include_labelled: bool = False

    def __post_init__(self) -> None:
        checks.settle(
            self,
            damping=checks.number("VeSSAL: damping", self.damping, above=0),
            scale=checks.one_of("VeSSAL: scale", self.scale, SCALES),
            width=checks.whole("VeSSAL: width", self.width, least=1),
            by_labels=checks.flag("VeSSAL: by_labels", self.by_labels),
            include_labelled=checks.flag("VeSSAL: include_labelled", self.include_labelled),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Logits and features; labels and what is labelled where the options say so."""
        labels = {"labels"} if self.by_labels else set()
        known = {"labelled_logits", "labelled_features"} if self.include_labelled else set()
        return frozenset({"logits", "features"} | labels | known)

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in the order picked with `rng`, without scores."""
        name = "VeSSAL"
        k = check_k_of(name, k, signals)
        logits, features = read_logits(name, signals), read_features(name, signals)
        largest = check_features(name, features, signals.indices)
        labels = (
            given_labels(name, read_labels(name, signals), len(signals), logits.shape[1]) if self.by_labels else None
        )
        pool, known = _Gradients(logits, features, labels, largest), None
        if self.include_labelled:
            about, place = (read_field(name, signals, f"labelled_{field}") for field in ("logits", "features"))
            known = _given_known(name, about, place, logits, features)
        return Selection(signals.indices.cpu()[_vessal(self, pool, k, known, rng)])
