"""Distillation from the proxy into the fused target (Hinton et al. 2015; PruneFuse, arXiv 2501.01118)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..network import SOFTMAX, Outputs

ANNEALING: dict[str, Callable[[float], float]] = {
    "none": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


@dataclass(frozen=True)
class Distillation:
    """Train on `(1 - lambda) * loss + lambda * tau**2 * KL(teacher || student)`.

    The paper gives no values, so the defaults are ours. In our study distilling from the weaker proxy *lost* accuracy
    (1.5 to 2.5 points at lambda 0.5, tau 4), which is why it is off unless asked for, and why it can be annealed.

    Attributes:
        lambda_: weight of the teacher, 0..1.
        tau: temperature > 0 of both softmaxes.
        annealing: how lambda falls over the epochs: "none", "linear", "cosine" (both reach 0), or a function from
            progress in [0, 1) to a factor.

    Raises:
        InputError: a value out of range or an unknown name.
    """

    lambda_: float = 0.3
    tau: float = 4.0
    annealing: str | Callable[[float], float] = "none"

    def __post_init__(self) -> None:
        checks.settle(
            self,
            lambda_=checks.number("lambda_", self.lambda_, least=0, most=1, what="the teacher's weight, 0 to 1"),
            tau=checks.number("tau", self.tau, above=0, what="a positive and finite temperature"),
            annealing=checks.named("annealing", self.annealing, ANNEALING, "progress in [0, 1) -> factor"),
        )

    def weight(self, epoch: int, epochs: int) -> float:
        """Return lambda in epoch `epoch` (from 0) of `epochs`."""
        anneal = self.annealing if callable(self.annealing) else ANNEALING[self.annealing]
        return self.lambda_ * anneal(epoch / epochs)


def distillation_loss(student: Tensor, teacher: Tensor, tau: float = 1.0, *, outputs: Outputs | None = None) -> Tensor:
    """Return tau**2 * KL(softmax(teacher / tau) || softmax(student / tau)) of each row.

    Of independent labels it is the mean over them of tau**2 * KL of one's probabilities, sigmoid(z / tau) and the rest.

    Args:
        student: outputs, [n c] (or [n ...] of independent labels).
        teacher: outputs, of the same shape; no gradient flows into them.
        tau: temperature > 0.
        outputs: what they are; None: logits of classes.

    Returns:
        float [n], >= 0.
    """
    given = teacher.detach()
    if outputs is not None:
        student, given = outputs.logits(student), outputs.logits(given)
    if outputs is None or outputs.kind == SOFTMAX:
        log_q = F.log_softmax(student / tau, dim=1)  # [n c]
        log_p = F.log_softmax(given / tau, dim=1)  # [n c]
        return tau**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1)
    z_q, z_p = (z.reshape(len(z), -1) / tau for z in (student, given))  # [n c]
    kl = [F.logsigmoid(p).exp() * (F.logsigmoid(p) - F.logsigmoid(q)) for p, q in ((z_p, z_q), (-z_p, -z_q))]
    return tau**2 * (kl[0] + kl[1]).mean(dim=1)
