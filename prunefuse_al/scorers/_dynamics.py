"""Scores from how a network answered while it was trained: forgetting, AUM, EL2N, and last-layer gradients.

The pure functions take what the network said at t moments of its training, logits [t n c] and labels [n]; `Recorder`
keeps the same numbers while training goes on, one value per sample whatever t is. Labels are given ones on labelled
data and predicted ones on a pool: the caller says which, and `Selection.labels` records it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..types import Signals
from ._given import given_column, given_labels, given_passes
from ._ranker import Ranker
from ._select import in_blocks, read_dynamics

DYNAMICS = frozenset({"aum", "correct", "el2n", "forgetting", "grand", "moso"})
"""Names of what is kept about each sample: `correct` is the share of right answers, the others as the functions."""
EARLY = 10
"""Epochs over which el2n and grand are averaged (Paul et al., 2021)."""


class Answers(NamedTuple):
    """How a network answered samples once.

    Attributes:
        correct: bool [n], the likeliest class is the label.
        margin: float [n], q_y - max_{c != y} q_c with q = softmax(logits), between -1 and 1.
        error: float [n], ||q - onehot(y)||, between 0 and sqrt(2).
    """

    correct: Tensor
    margin: Tensor
    error: Tensor


def answers(logits: Tensor, labels: Tensor) -> Answers:
    """Return what logits [n c], c >= 2, say about labels, int64 [n]; half precision is computed in single."""
    q = _probabilities(logits)
    own = q.gather(1, labels[:, None])[:, 0]  # [n]
    others = q.scatter(1, labels[:, None], 0.0)  # [n c]
    most = others.amax(1)  # [n]
    # Divided by the largest before they are squared, because squares of small probabilities are zero.
    scaled = others / most.clamp_min(torch.finfo(most.dtype).tiny)[:, None]
    error = most * (scaled.sum(1).square() + scaled.square().sum(1)).sqrt()
    return Answers(logits.argmax(1) == labels, own - most, error)


def head_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Return q - onehot(y), [n c]: the gradient of the cross-entropy in the logits."""
    others = _probabilities(logits).scatter(1, labels[:, None], 0.0)
    # q_y - 1 as the sum of the others, which does not round to zero where q_y rounds to one.
    return others.scatter(1, labels[:, None], -others.sum(1, keepdim=True))


def _probabilities(logits: Tensor) -> Tensor:
    return (logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits).softmax(1)


def forgetting(correct: Tensor) -> Tensor:
    """Return how often a sample went from right to wrong; t, more than any count, if it never was right.

    Args:
        correct: bool or 0/1 [t n], one row per presentation (Toneva et al., 2019).

    Returns:
        float64 [n]; higher means label it sooner.

    Raises:
        InputError: another shape, or something else than 0 and 1.

    Examples:
        >>> forgetting(torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]])).tolist()
        [2.0, 4.0, 0.0]
    """
    given = checks.array("forgetting: correct", correct, "bool or 0/1, [t n]")
    right = given.bool()
    if given.ndim != 2 or not len(given) or not bool((given == right).all()):
        raise checks.refused("forgetting: correct", correct, "bool or 0/1, one row for each presentation [t n]")
    forgotten = (right[:-1] & ~right[1:]).sum(0).double()
    return torch.where(right.any(0), forgotten, float(len(right)))


def aum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over t of q_y - max_{c != y} q_c (Pleiss et al., 2020, with probabilities as CCS has it).

    Args:
        logits: float [t n c], c >= 2.
        labels: int64 [n].

    Returns:
        float64 [n], between -t and t; *lower* means harder.

    Raises:
        InputError: shapes that do not fit, or labels that are no classes.
    """
    logits, labels = _answered("aum", logits, labels)
    return torch.stack([answers(each, labels).margin.double() for each in logits]).sum(0)


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the first `EARLY` of t epochs of ||q - onehot(y)|| (Paul et al., 2021).

    Args:
        logits: float [t n c], c >= 2.
        labels: int64 [n].

    Returns:
        float64 [n], between 0 and sqrt(2); higher means label it sooner.

    Raises:
        InputError: shapes that do not fit, or labels that are no classes.
    """
    logits, labels = _answered("el2n", logits, labels)
    return torch.stack([answers(each, labels).error.double() for each in logits[:EARLY]]).mean(0)


def grand(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over t of the norm of the cross-entropy's gradient in the *last layer* (Paul et al., 2021).

    That norm is ||q - onehot(y)|| sqrt(1 + ||h||^2), with h the layer's input and 1 for its bias.

    Args:
        logits: float [t n c], c >= 2: at t moments of one training, or of several short ones.
        features: float [t n d], the inputs h of the last layer.
        labels: int64 [n].

    Returns:
        float64 [n]; higher means label it sooner.

    Raises:
        InputError: shapes that do not fit, or labels that are no classes.
    """
    logits, labels = _answered("grand", logits, labels)
    features = _inputs("grand", features, logits)
    norms = [gradient_norms(z, h, labels) for z, h in zip(logits, features, strict=True)]
    return torch.stack(norms).mean(0)


def gradient_norms(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return the last-layer gradient's norm, float64 [n], of logits [n c] and features [n d]."""
    squares = in_blocks(lambda h: h.double().square().sum(1), features)  # [n]; features are the most of what is read
    return answers(logits, labels).error.double() * (1 + squares).sqrt()


def moso(logits: Tensor, features: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
    """Return how much the empirical risk is estimated to rise without a sample, from *last-layer* gradients.

    The sum over checkpoints of lr (G - g/n) . g, with g the sample's gradient and G the mean of all n (Tan et al.,
    2024, whose gradients are of all layers). g is the outer product of q - onehot(y) and (h, 1) and is never built.

    Args:
        logits: float [t n c], c >= 2, at t checkpoints.
        features: float [t n d], the inputs h of the last layer.
        labels: int64 [n].
        rates: float [t], learning rates at the checkpoints.

    Returns:
        float64 [n]; higher means label it sooner.

    Raises:
        InputError: shapes that do not fit, or labels that are no classes.
    """
    logits, labels = _answered("moso", logits, labels)
    features, rates = _inputs("moso", features, logits), given_column("moso", "rates", rates)
    if len(rates) != len(logits):
        raise InputError(f"moso: {len(rates)} rates for {len(logits)} checkpoints; pass one learning rate for each")
    total = torch.zeros(len(labels), dtype=torch.float64)
    for z, h, rate in zip(logits, features, rates, strict=True):
        mean = gradient_sum(z, h, labels) / len(labels)
        total += rate.double() * gradient_products(z, h, labels, mean, len(labels))
    return total


def _answered(name: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as floats [t n c] and labels, int64 [n] on their device, or raise `InputError`."""
    logits = given_passes(name, logits, least=1, what="logits")
    return logits, given_labels(name, labels, logits.shape[1], logits.shape[2]).to(logits.device)


def _inputs(name: str, features: Tensor, logits: Tensor) -> Tensor:
    """Return features as floats [t n d], one for each row of the logits [t n c], or raise `InputError`."""
    features = given_passes(name, features, rows=logits.shape[1], least=1, width=1, what="features")
    if len(features) != len(logits):
        raise InputError(f"{name}: features at {len(features)} moments and logits at {len(logits)}; pass both at each")
    return features


def gradient_sum(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over samples of their last-layer gradients, float64 [c d+1]."""
    return head_errors(logits.double(), labels).T @ _with_bias(features)


def gradient_products(logits: Tensor, features: Tensor, labels: Tensor, mean: Tensor, n: int) -> Tensor:
    """Return (G - g/n) . g for each sample, float64 [n], with G = `mean` [c d+1] of `n` samples."""
    errors, inputs = head_errors(logits.double(), labels), _with_bias(features)
    own = errors.square().sum(1) * inputs.square().sum(1)  # ||g||^2, [n]
    return ((errors @ mean) * inputs).sum(1) - own / n


def _with_bias(features: Tensor) -> Tensor:
    return torch.nn.functional.pad(features.double(), (0, 1), value=1.0)  # [n d+1]


@dataclass(frozen=True)
class Forgetting(Ranker):
    """Prefers samples that were learnt and forgotten most often, and those never learnt above all; see `forgetting`."""

    needs: ClassVar[frozenset[str]] = frozenset({"dynamics"})
    dynamics: ClassVar[frozenset[str]] = frozenset({"forgetting"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return read_dynamics("Forgetting", signals, "forgetting")


@dataclass(frozen=True)
class AUM(Ranker):
    """Prefers samples whose margin, summed over the epochs, is smallest; see `aum`."""

    needs: ClassVar[frozenset[str]] = frozenset({"dynamics"})
    dynamics: ClassVar[frozenset[str]] = frozenset({"aum"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n], the negative of `aum`; higher means label it sooner."""
        return -read_dynamics("AUM", signals, "aum")


@dataclass(frozen=True)
class EL2N(Ranker):
    """Prefers samples with the largest errors early in training; see `el2n`."""

    needs: ClassVar[frozenset[str]] = frozenset({"dynamics"})
    dynamics: ClassVar[frozenset[str]] = frozenset({"el2n"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return read_dynamics("EL2N", signals, "el2n")


@dataclass(frozen=True)
class GraNd(Ranker):
    """Prefers samples with the largest *last-layer* gradients early in training; see `grand`."""

    needs: ClassVar[frozenset[str]] = frozenset({"dynamics"})
    dynamics: ClassVar[frozenset[str]] = frozenset({"grand"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return read_dynamics("GraNd", signals, "grand")


@dataclass(frozen=True)
class MoSo(Ranker):
    """Prefers samples without which the risk would rise most, going by *last-layer* gradients; see `moso`."""

    needs: ClassVar[frozenset[str]] = frozenset({"dynamics"})
    dynamics: ClassVar[frozenset[str]] = frozenset({"moso"})

    def score(self, signals: Signals) -> Tensor:
        """Return float [n]; higher means label it sooner."""
        return read_dynamics("MoSo", signals, "moso")


def dynamics_of(*scorers: Any) -> frozenset[str]:
    """Return the names of the training dynamics that any of the scorers reads; all of one that names none."""
    reading = (scorer for scorer in scorers if "dynamics" in scorer.needs)
    return frozenset().union(*(getattr(scorer, "dynamics", DYNAMICS) for scorer in reading))
