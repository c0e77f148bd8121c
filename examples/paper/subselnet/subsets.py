"""Which samples of a labelled set to keep, by the losses that are guessed for a network.

Jain et al. (2023) draw a subset from a distribution over samples that makes expected loss small and entropy large:
min over p of p.l - lambda H(p). Over the simplex this is least at p = softmax(-l / lambda), so the transductive
step needs no optimiser: the k largest of -l / lambda + Gumbel noise are a draw of k from p without replacement.
Their code descends instead, from a random start, on a free number for each sample, with rate and steps of no
default, and *adds* lambda H, which punishes entropy (`objective` states it). `Chooser` is their inductive network,
trained once and then asked about any architecture, with the sign of the paper.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CHOOSER_RATE, CHOOSER_STEPS = 1e-3, 20


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, [n], of logits [n c]."""
    return functional.cross_entropy(logits.double(), y, reduction="none")


def probabilities(loss: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the distribution over samples that makes p.l - temperature * H(p) least, [n]."""
    return (-loss.double() / temperature).softmax(0)


def drawn_order(loss: Tensor, rng: np.random.Generator, temperature: float = 1.0) -> np.ndarray:
    """Return all samples in an order drawn from `probabilities` without replacement: the first k are a subset of k.

    Subsets of one draw are nested, as labels are that only grow.
    """
    keys = probabilities(loss, temperature).log().numpy() + rng.gumbel(size=len(loss))
    return np.argsort(-keys, kind="stable")


def smallest_first(loss: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Return all samples by their loss, equal ones in a random order."""
    order = rng.permutation(len(loss))
    return order[np.argsort(loss.numpy()[order], kind="stable")]


def largest_first(pi: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Return all samples by their probability, equal ones in a random order."""
    return smallest_first(-pi, rng)


def objective(pi: Tensor, loss: Tensor, k: float, *, size: float = 1.0, entropy: float = 0.1) -> Tensor:
    """Return pi.l + size * |sum pi - k| - entropy * H(softmax pi), of numbers pi and losses [n].

    The inductive objective. The released transductive one is that of size=0.1, entropy=-1.
    """
    log_p = pi.log_softmax(0)
    return (pi * loss).sum() + size * (pi.sum() - k).abs() + entropy * (log_p.exp() * log_p).sum()


class Chooser(nn.Module):
    """The inductive network: architecture, sample, label and guess to the probability that the sample is kept."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers = (nn.Linear(inputs, 256), nn.LeakyReLU(), nn.Linear(256, 16), nn.LeakyReLU(), nn.Linear(16, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n inputs] to [n]."""
        return torch.sigmoid(self.layers(x)).squeeze(1)


def chooser_inputs(architecture: Tensor, samples: Tensor, y: Tensor, logits: Tensor) -> Tensor:
    """Return what the inductive network reads: architecture [z] for every sample, its embedding, label and guess."""
    n, c = logits.shape
    return torch.cat([architecture.expand(n, -1), samples, functional.one_hot(y, c).float(), logits], 1)


def new_chooser(inputs: int, seed: int) -> Chooser:
    """Return an inductive network that is untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Chooser(inputs)


def train_chooser(chooser: Chooser, inputs: Tensor, loss: Tensor, k: int, steps: int = CHOOSER_STEPS) -> None:
    """Train it by full-batch Adam on all training architectures at once; each is to keep k.

    Args:
        chooser: changed in place.
        inputs: of every training architecture, [a n inputs].
        loss: of the guesses for each, [a n].
        k: samples to keep.
        steps: of Adam.
    """
    optimizer = torch.optim.Adam(chooser.parameters(), lr=CHOOSER_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        pi = chooser(inputs.flatten(0, 1)).unflatten(0, loss.shape)
        sum(objective(one, of, k) for one, of in zip(pi, loss.float(), strict=True)).backward()  # type: ignore[union-attr]
        optimizer.step()
