"""Warm starts from the last weights made smaller, with noise added ("shrink and perturb")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError


@dataclass(frozen=True)
class ShrinkPerturb:
    """Start each round's proxy from ``shrink`` times the last one's parameters plus ``perturb`` times fresh ones.

    Ash and Adams (NeurIPS 2020) found that training on from the last weights as they are can end at a worse network
    than a fresh start, and that shrinking keeps what was learnt and lets new labels weigh as much as old ones. The
    first round, and each whose proxy is newly cut, starts from the pruned initial weights and trains in full.

    Fresh parameters are normal with the mean and standard deviation that each tensor had before the first training:
    drawn at the scale of the initialiser. All parameters are shrunk, those of BatchNorm and LayerNorm too; as in a
    fresh network, scales that start at one get ``perturb`` added, and biases that start at zero get nothing. Left as
    they are: frozen parameters, entries that are exactly zero (the padding of an embedding, masked weights), and
    buffers (BatchNorm's running statistics, which training estimates anew). A network that was trained before it was
    pruned has its knowledge shrunk as well: fresh starts may be the better choice there.

    Attributes:
        shrink: factor on the last parameters, 0 <= shrink <= 1; 1 with ``perturb=0`` is ``warm_start=True``.
        perturb: factor on the fresh ones, >= 0.
        epochs: what such a round trains for: a number of epochs, as an int; a share of the trainer's, as a float in
            (0, 1]; None: the trainer's own number. Schedules by name shrink with it.

    Raises:
        InputError: a value out of range.

    Example:
        >>> ShrinkPerturb(epochs=1 / 3).epochs_of(30)
        10
    """

    shrink: float = 0.4
    perturb: float = 0.1
    epochs: int | float | None = None

    def __post_init__(self) -> None:
        what = "the factor on the last weights, 0 <= shrink <= 1"
        shrink = checks.number("shrink", self.shrink, least=0, most=1, what=what)
        perturb = checks.number("perturb", self.perturb, least=0, what="the factor on fresh weights, 0 or more")
        checks.settle(self, shrink=shrink, perturb=perturb, epochs=checks.maybe(_epochs, "epochs", self.epochs))
        if not self.shrink and not self.perturb:
            raise InputError("shrink=0 and perturb=0 leave weights of zero; for fresh starts pass warm_start=False")

    def epochs_of(self, whole: int) -> int:
        """Return how many epochs a warm round trains where the trainer says `whole`; at least one."""
        if self.epochs is None:
            return whole
        return self.epochs if isinstance(self.epochs, int) else max(1, round(self.epochs * whole))


def _epochs(name: str, value: int | float) -> int | float:
    what = "a number of epochs as an int from 1, a share of the trainer's epochs as a float above 0 and up to 1.0"
    found = checks.number(name, value, above=0, what=what)
    if isinstance(found, float) and found > 1:
        raise checks.refused(name, value, what)
    return found


@torch.no_grad()
def shrink_perturb(model: nn.Module, initial: nn.Module, rule: ShrinkPerturb, seed: int) -> None:
    """Shrink and perturb the parameters of `model` in place; see `ShrinkPerturb`.

    Args:
        model: the trained network.
        initial: it before training, or the wider one it was cut from: each tensor's mean and deviation are read.
        rule: the factors.
        seed: of the noise, which is drawn on the CPU, so that every device and process gets the same.
    """
    generator, before = torch.Generator().manual_seed(seed), dict(initial.named_parameters())
    for name, parameter in model.named_parameters():  # tied ones once
        fresh = _fresh(parameter, before[name], generator)  # drawn for frozen ones too, so that freezing shifts nothing
        if parameter.requires_grad and parameter.is_floating_point():
            mixed = rule.shrink * parameter + rule.perturb * fresh.to(parameter)
            parameter.copy_(torch.where(parameter == 0, parameter, mixed))


def _fresh(like: Tensor, initial: Tensor, generator: torch.Generator) -> Tensor:
    """Return a draw of the shape of `like`, normal with the mean and the standard deviation of `initial`."""
    noise, values = torch.randn(like.shape, generator=generator), initial.detach().cpu().double().flatten()
    if not len(values) or bool((values == values[0]).all()):  # whatever the mean rounds to, it must give that value
        return noise.zero_() + (values[0] if len(values) else 0)
    return noise * float(values.std(correction=0)) + float(values.mean())
