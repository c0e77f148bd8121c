"""Joint information of a batch: BatchBALD (Kirsch, van Amersfoort & Gal, 2019), greedy and lazy.

The labels of what is picked so far can come out in many ways, the *outcomes*. Each has a probability and leaves a
posterior over the t passes; the next sample adds the expected information that its label holds about the passes under
these posteriors. That can only shrink as picks are added, so what it was before is an upper bound: most candidates are
never looked at again. Posteriors are normalised after every pick, so a batch of any size does not underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..types import RngLike, Selection, Signals, as_rng
from ._bald import bald
from ._given import given_passes
from ._select import check_finite, check_k, check_k_of, read_mc_logits, single, top_k

_TIE = 1e-10
"""Nats; gains closer than this differ by rounding only."""
_LEFT = 1e-3
"""Nats still to be learned, and share of them in outcomes that are left out, once outcomes are drawn."""
_ROUNDOFF = 1e-6
"""Nats by which single precision, of drawn outcomes, may be wrong about a gain."""
_LOOKED = 1024
"""Candidates at most that are looked at together."""
_CELLS = 2**18
"""Numbers computed at once: outcomes x candidates x classes. Drawn outcomes stay below it for one candidate."""


def batchbald(mc_logits: Tensor, k: int, *, outcomes: int = 1024, rng: RngLike = None) -> Tensor:
    """Return the positions of k samples whose labels together tell most about the network, greedily.

    Maximises I(y_1 .. y_k; w) one sample at a time. Exact as long as the c^b joint labels of the b samples picked are
    no more than `outcomes`; after that the joint labels are drawn, as many from each pass. No more than log(t) nats can
    be learned about t passes: when nothing is left, the batch is filled up with the highest `bald`. So for k beyond a
    handful use many passes (100, say), and the same thinned network for every sample in a pass, which `collect` does.
    A large pool wants to be cut down first: ``TwoStage("bald", "batchbald")``.

    Args:
        mc_logits: float [t n c], t >= 2 passes; pass t must be the same network for all samples.
        k: how many, 1 to n; meant for up to about 100.
        outcomes: joint labels looked at.
        rng: draws joint labels and breaks ties; None draws from a fixed seed and prefers the lower position.

    Returns:
        int64 [k] on the CPU, in the order in which they were picked. Memory is a few numbers a sample.

    Raises:
        BudgetError: k is out of range.
        InputError: logits that are no numbers or of another shape, or `outcomes` below 1.
        NonFiniteError: NaN or infinity.
    """
    mc_logits = given_passes("batchbald", mc_logits)
    t, n, c = mc_logits.shape
    k, outcomes = check_k("batchbald", k, n), _check_outcomes("batchbald", outcomes)
    check_finite("batchbald", "mc_logits", mc_logits.transpose(0, 1), torch.arange(n))
    generator = as_rng(0 if rng is None else rng)
    priority = torch.arange(n) if rng is None else torch.from_numpy(generator.permutation(n))  # [n], lowest first
    alone = bald(mc_logits).cpu()  # [n]
    bounds, picked = alone.double().clone(), list[int]()
    state = _Outcomes.none(t)
    while len(picked) < k and state.left() > (_TIE if state.drawn_from is None else _LEFT) and (bounds > _TIE).any():
        picked.append(_most_informative(state, mc_logits, bounds, priority))
        bounds[picked[-1]] = -torch.inf
        unused = picked[-1:]
        if state.drawn_from is None and len(state.chance) * c > outcomes:
            state, unused = _Outcomes.draws(t, max(t, min(outcomes, _CELLS // c))), picked
        for position in unused:
            state = state.learn(_probabilities(mc_logits[:, position]).double(), generator)
    rest = torch.ones(n, dtype=torch.bool)
    rest[picked] = False
    if len(picked) < k:  # nothing is left to learn
        left = rest.nonzero().flatten()
        picked += left[top_k(alone[left], k - len(picked), rng=None if rng is None else generator)].tolist()
    return torch.tensor(picked)


@dataclass(frozen=True, eq=False)
class _Outcomes:
    """How the labels of the samples picked so far may come out.

    Attributes:
        posterior: float64 [s t], what each outcome makes of the t passes; rows sum to 1.
        chance: float64 [s], how likely each outcome is; sums to 1.
        drawn_from: int64 [s], the pass each outcome is drawn from; None while all outcomes are listed.
    """

    posterior: Tensor
    chance: Tensor
    drawn_from: Tensor | None = None

    @classmethod
    def none(cls, t: int) -> _Outcomes:
        """Return the one outcome of no labels."""
        return cls(torch.full((1, t), 1 / t, dtype=torch.float64), torch.ones(1, dtype=torch.float64))

    @classmethod
    def draws(cls, t: int, s: int) -> _Outcomes:
        """Return at least `s` outcomes to be drawn, as many from each pass, before the first label."""
        drawn_from = torch.arange(t).repeat(-(-s // t))
        size = len(drawn_from)
        posterior = torch.full((size, t), 1 / t, dtype=torch.float64)
        return cls(posterior, torch.full((size,), 1 / size, dtype=torch.float64), drawn_from)

    def learn(self, q: Tensor, rng: np.random.Generator) -> _Outcomes:
        """Return the outcomes with the label of one more sample, of probabilities `q` [t c]."""
        q = q / q.sum(1, keepdim=True)
        return self._split(q) if self.drawn_from is None else self._draw(q, rng)

    def _split(self, q: Tensor) -> _Outcomes:
        """Return every outcome with every label."""
        joint = (self.posterior[:, :, None] * q).transpose(1, 2).flatten(0, 1)  # [s*c t]
        label = joint.sum(1)  # [s*c]
        chance = self.chance.repeat_interleave(q.shape[1]) * label
        possible = chance > 0
        return _Outcomes(joint[possible] / label[possible, None], chance[possible])._worthwhile(1e-15)

    def _draw(self, q: Tensor, rng: np.random.Generator) -> _Outcomes:
        """Return every outcome with one label, drawn from the outcome's own pass."""
        assert self.drawn_from is not None
        draws = torch.from_numpy(rng.random(len(self.chance)))  # [s]
        label = (draws[:, None] > q.cumsum(1)[self.drawn_from]).sum(1).clamp_max(q.shape[1] - 1)  # [s]
        joint = self.posterior * q.T[label]  # [s t]
        return _Outcomes(joint / joint.sum(1, keepdim=True), self.chance, self.drawn_from)._worthwhile(_LEFT)

    def _worthwhile(self, share: float) -> _Outcomes:
        """Return the outcomes but for those in which all but a `share` of what can still be learned is known."""
        left, order = (self.chance * torch.special.entr(self.posterior).sum(1)).sort()  # [s]
        keep = order[left.cumsum(0) > share * left.sum()]
        drawn_from = None if self.drawn_from is None else self.drawn_from[keep]
        return _Outcomes(self.posterior[keep], self.chance[keep], drawn_from)

    def left(self) -> float:
        """Return the nats about the passes that are still to be learned, on average."""
        return float(self.chance @ torch.special.entr(self.posterior).sum(1))

    def merged(self) -> _Outcomes:
        """Return the outcomes with those taken for one whose likeliest pass is the same, or two, if these are few."""
        first, second = self.posterior.topk(2, 1).indices.T  # [s]
        names, of = (first * self.posterior.shape[1] + second).unique(return_inverse=True)
        if 4 * len(names) > len(first):
            names, of = first.unique(return_inverse=True)
        chance = torch.zeros(len(names), dtype=torch.float64).index_add_(0, of, self.chance)  # [g]
        posterior = torch.zeros(len(names), self.posterior.shape[1], dtype=torch.float64)
        posterior.index_add_(0, of, self.posterior * self.chance[:, None])
        return _Outcomes(posterior / posterior.sum(1, keepdim=True), chance, self.drawn_from)

    def gains(self, q: Tensor) -> Tensor:
        """Return what each of some samples would add, float64 [b], of probabilities `q` [t b c]; some at a time."""
        most = max(1, _CELLS // (len(self.chance) * q.shape[2]))
        return torch.cat([self._gains(some) for some in q.split(most, 1)])

    def _gains(self, q: Tensor) -> Tensor:
        work = torch.float64 if self.drawn_from is None else torch.float32
        posterior, chance, q = self.posterior.to(work), self.chance.to(work), q.to(work)
        t, b, c = q.shape
        q = q.clamp_min(torch.finfo(work).tiny)  # so that no mean of them has a logarithm of infinity
        predicted = posterior @ q.reshape(t, b * c)  # [s b*c]
        given_pass = -(q.log() * q).sum(2).double()  # [t b]
        entropies = -(chance @ predicted.log().mul_(predicted)).double().view(b, c).sum(1)  # [b], over outcomes
        return entropies - (self.chance @ self.posterior) @ given_pass


def _most_informative(state: _Outcomes, mc_logits: Tensor, bounds: Tensor, priority: Tensor) -> int:
    """Return the position that adds most, and lower the `bounds` of those looked at to what they add now, or may."""
    few, slack = state.merged(), _TIE if state.drawn_from is None else _ROUNDOFF
    ranked, order = bounds.sort(descending=True)  # taken ones have no bound at all, and come last
    fresh: list[Tensor] = []
    best, start, size = -torch.inf, 0, 16
    while start < len(order) and ranked[start] >= max(best - _TIE, -1e300):
        near = order[start : start + size][ranked[start : start + size] >= max(best - _TIE, -1e300)]
        start, size = start + size, min(2 * size, _LOOKED)
        q = _probabilities(mc_logits[:, near])  # [t b c]
        if 2 * len(few.chance) < len(state.chance):
            bounds[near] = bounds[near].minimum(few.gains(q) + slack)
        left = bounds[near].sort(descending=True).indices
        for some in left.split(16):  # those that promise most first: they rule out the others
            some = some[bounds[near[some]] >= best - _TIE]
            if not len(some):
                break
            bounds[near[some]] = state.gains(q[:, some])
            fresh.append(near[some])
            best = max(best, float(bounds[near[some]].max()))
    looked = torch.cat(fresh)
    tied = looked[bounds[looked] >= best - _TIE]
    return int(tied[priority[tied].argmin()])


def _probabilities(mc_logits: Tensor) -> Tensor:
    """Return the class probabilities of some samples, [t b c] on the CPU, of logits on any device."""
    logits = single(mc_logits).cpu()
    odds = (logits - logits.amax(-1, keepdim=True)).exp_()  # several times as fast as torch's softmax of few classes
    return odds.div_(odds.sum(-1, keepdim=True))


def _check_outcomes(name: str, outcomes: int) -> int:
    return checks.whole(f"{name}: outcomes", outcomes, least=1, what="how many joint labels to look at, at least 1")


@dataclass(frozen=True)
class BatchBALD:
    """Prefers samples whose labels together tell most about the network; see `batchbald`.

    Attributes:
        outcomes: joint labels looked at; exact while there are no more.
    """

    outcomes: int = 1024
    needs: ClassVar[frozenset[str]] = frozenset({"mc_logits"})

    def __post_init__(self) -> None:
        checks.settle(self, outcomes=_check_outcomes("BatchBALD", self.outcomes))

    def select(self, signals: Signals, k: int, *, rng: RngLike = None) -> Selection:
        """Return k candidates in the order in which they were picked, without scores."""
        k = check_k_of("BatchBALD", k, signals)
        positions = batchbald(read_mc_logits("BatchBALD", signals), k, outcomes=self.outcomes, rng=rng)
        return Selection(signals.indices.cpu()[positions])
