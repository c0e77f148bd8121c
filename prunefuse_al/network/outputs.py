"""What a network's outputs mean, said in one place: for training, scoring and predicting alike.

It follows from the loss that a network is trained by, or is stated: ``TorchTrainer(outputs=...)``, or an attribute
`outputs` of a loss function or of a trainer of your own. The names:

* ``"softmax"``: logits, or log-probabilities, of classes of which each sample has one.
* ``"softmax_probabilities"``: the probabilities of such classes.
* ``"sigmoid"``: logits of labels that a sample has or has not, each for itself (multi-label). A single one is a
  question with two answers: scorers and `predict_proba` see it, z, as two classes, (0, z), whose softmax is the same.
* ``"sigmoid_probabilities"``: the probabilities of such labels, of a network that ends in a sigmoid.
* ``"values"``: numbers that say nothing of classes, as of a regression; what reads probabilities refuses them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..types import OUTPUTS, Signals, statement

SOFTMAX, SIGMOID, VALUES = OUTPUTS
STATED = (SOFTMAX, "softmax_probabilities", SIGMOID, "sigmoid_probabilities", VALUES)
"""The names by which outputs are stated."""

_BY_MODULE: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    (SOFTMAX, (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.KLDivLoss)),
    (SIGMOID, (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)),
    ("sigmoid_probabilities", (nn.BCELoss,)),
    (VALUES, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.MultiLabelMarginLoss)),
)
_BY_FUNCTION = {
    SOFTMAX: ("cross_entropy", "nll_loss", "multi_margin_loss", "kl_div"),
    SIGMOID: ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"),
    "sigmoid_probabilities": ("binary_cross_entropy",),
    VALUES: ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "multilabel_margin_loss"),
}
_BY_PATH = {
    **{f"torch.nn.functional.{name}": stated for stated, names in _BY_FUNCTION.items() for name in names},
    "torchvision.ops.focal_loss.sigmoid_focal_loss": SIGMOID,
}


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a network are.

    Attributes:
        kind: `SOFTMAX`, `SIGMOID` or `VALUES`.
        squashed: they are probabilities already, not logits.
    """

    kind: str
    squashed: bool = False

    @classmethod
    def named(cls, stated: str) -> Outputs:
        """Return what one of the names `STATED` says.

        Raises:
            InputError: another name.
        """
        if stated not in STATED:
            raise InputError(f"outputs={stated!r}; it must be one of {', '.join(map(repr, STATED))}")
        return cls(stated.removesuffix("_probabilities"), stated.endswith("_probabilities"))

    @property
    def name(self) -> str:
        """The name by which they are stated."""
        return self.kind + ("_probabilities" if self.squashed else "")

    def logits(self, given: Tensor) -> Tensor:
        """Return logits, of the same shape, in what a network gave.

        Raises:
            InputError: it should be probabilities, and some lie outside 0 to 1.
        """
        if not self.squashed:
            return given
        low, high = (float(edge) for edge in given.detach().aminmax()) if given.numel() else (0.0, 1.0)
        if low < -1e-3 or high > 1 + 1e-3:  # NaN is named elsewhere
            raise InputError(
                f"outputs {low:.3g} to {high:.3g} found where the loss takes probabilities ({self.name!r}), 0 to 1: "
                "end the network in a sigmoid or softmax, or take the loss that reads logits"
            )
        if self.kind == SOFTMAX:
            return as_logits(given)
        least = torch.finfo(given.dtype)
        return given.clamp_min(least.tiny).log() - torch.log1p(-given.clamp_max(1 - least.eps / 2))

    def seen(self, given: Tensor) -> tuple[Tensor, str]:
        """Return a network's outputs [n ...] as scorers see them, and of which kind these are.

        A single output with a sigmoid, [n] or [n 1 ...], becomes two classes.
        """
        logits = self.logits(given)
        if self.kind == SIGMOID and single(given):
            z = logits[:, None] if logits.ndim == 1 else logits
            return torch.cat([torch.zeros_like(z), z], 1), SOFTMAX
        return logits, self.kind


def single(given: Tensor) -> bool:
    """Tell whether outputs [n ...] are one for each sample (or position)."""
    return given.ndim == 1 or given.shape[1] == 1


def as_logits(probabilities: Tensor) -> Tensor:
    """Return logits whose softmax gives `probabilities` [n c] back: their logarithms, finite also for 0."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def of_loss(loss: Any) -> Outputs | None:
    """Return what outputs a loss function takes; None where nothing says so.

    A loss of your own says it by an attribute: ``my_loss.outputs = "sigmoid"``.
    """
    if isinstance(loss, str):
        return Outputs(SOFTMAX)
    stated = getattr(loss, "outputs", getattr(unwrapped(loss), "outputs", None))
    if isinstance(stated, str):
        return Outputs.named(stated)
    loss = unwrapped(loss)
    for name, kinds in _BY_MODULE:
        if isinstance(loss, kinds):
            return Outputs.named(name)
    known = _BY_PATH.get(f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', '')}")
    return None if known is None else Outputs.named(known)


def of_trainer(trainer: Any) -> Outputs | None:
    """Return what the networks that a trainer trains give: the `outputs` it states, "auto" being what its loss says.

    None where nothing says so: then they are read as logits of classes.
    """
    said = statement(trainer)
    if isinstance(said.outputs, str) and said.outputs == "auto":
        return of_loss(said.loss)
    return Outputs.named(said.outputs) if isinstance(said.outputs, str) else None


def seen_by_scorers(signals: Signals, outputs: Outputs | None) -> Signals:
    """Return signals that a network gave as scorers see them; those that say what they are stay as they are."""
    if outputs is None or signals.outputs is not None:
        return signals
    kind, changes = None, dict[str, Any]()
    if signals.logits is not None:
        changes["logits"], kind = outputs.seen(signals.logits)
    if signals.mc_logits is not None:
        passes = signals.mc_logits  # [t n ...]
        found, kind = outputs.seen(passes.flatten(0, 1))
        changes["mc_logits"] = found.unflatten(0, passes.shape[:2])
    return replace(signals, outputs=kind, **changes)


def from_probabilities(indices: Tensor, p: Tensor) -> Signals:
    """Return as signals what a classifier of another library says: probabilities [n c] of the samples called `indices`.

    Rows that sum to 1 are of classes, others of independent labels.

    Raises:
        InputError: some lie outside 0 to 1. NaN is left to the scorers, which name the samples.
    """
    known = p[p.isfinite().reshape(len(p), -1).all(1)]
    low, high = (float(edge) for edge in known.aminmax()) if known.numel() else (0.0, 1.0)
    if low < -1e-6 or high > 1 + 1e-6:
        raise InputError(f"numbers {low:.3g} to {high:.3g} were given as probabilities, which lie between 0 and 1")
    exclusive = bool(((known.sum(1) - 1).abs() < 1e-3).all())
    outputs = Outputs(SOFTMAX if exclusive else SIGMOID, squashed=True)
    return Signals(indices, outputs.logits(p), outputs=outputs.kind)


def predicted_classes(signals: Signals) -> Tensor:
    """Return the likeliest class of each sample, int64 [n].

    Raises:
        InputError: the logits are of independent labels, or the outputs are values.
    """
    assert signals.logits is not None  # the caller asked for them
    if signals.outputs == SIGMOID:
        raise InputError(
            "the class of each sample was asked of a network of independent labels, of which a sample may have several "
            "or none: take a scorer that goes by no labels, such as ml_entropy, ml_badge or k_center"
        )
    return likeliest(signals.logits, signals.outputs)


def probabilities(logits: Tensor, kind: str | None) -> Tensor:
    """Return the probabilities that logits [n c ...] stand for: of classes, summing to 1, or of independent labels.

    Args:
        logits: as scorers see them.
        kind: `Signals.outputs` of them; None is `SOFTMAX`.

    Raises:
        InputError: they are of no such kind.
    """
    if kind == SIGMOID:
        return logits.sigmoid()
    if kind == VALUES:
        raise InputError(
            "probabilities were asked of a network whose outputs are values, as its loss says: read them by "
            "signals(X).logits, or pass TorchTrainer(outputs='softmax') if they are scores of classes"
        )
    if single(logits):
        raise InputError(
            f"probabilities of classes were asked of a network with outputs {list(logits.shape)}, one for each sample: "
            "pass TorchTrainer(outputs='sigmoid') if a sigmoid of it is the probability of class 1, and read values by "
            "signals(X).logits"
        )
    return logits.softmax(1)


def likeliest(logits: Tensor, kind: str | None) -> Tensor:
    """Return the likeliest class of each row of logits [n c ...], int64, or of independent labels 1 for those found.

    Raises:
        InputError: they are values.
    """
    if kind == VALUES:
        raise InputError(
            "classes were asked of a network whose outputs are values, as its loss says; pass "
            "TorchTrainer(outputs='softmax') if they are scores of classes"
        )
    return (logits > 0).long() if kind == SIGMOID else logits.argmax(1)


def unwrapped(loss: Any) -> Any:
    """Return the function that a `functools.partial` calls, or `loss` itself."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def name_of(loss: Any) -> str:
    """Return what a loss function is called."""
    if isinstance(loss, str):
        return loss
    own = getattr(unwrapped(loss), "__name__", None)
    return own if isinstance(own, str) else type(unwrapped(loss)).__name__
