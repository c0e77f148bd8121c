"""The approximator: what a network of the family would say of a sample once it is trained, from its graph alone.

After Jain et al. (2023) and their code: one attention block over the nodes' embeddings, whose scores are not
divided by the root of the width; the token of the output node, joined with an embedding of the sample from one
fixed network; a perceptron to logits; KL divergence to the softmax of the trained networks. That code takes the
last token, which may be padding, the log of a softmax, which underflows, rows in order, architecture by
architecture, and the epoch that is best on the test architectures. Here: the output node by its place in the mask,
log-softmax, rows of all architectures shuffled, and the epoch that is best on validation architectures. The
attention knows no places, so the order of nodes does not matter. Ours: a hidden width of 128 for 256, a cosine over
all epochs for one that rises again every five, batches of 256 for 64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoder import CLIP, LATENT

INNER, WIDE, HIDDEN, DROPOUT = 8, 64, 128, 0.3
BATCH, RATE, DECAY = 256, 1e-3, 5e-3


@dataclass(frozen=True)
class Embedded:
    """Architectures as the approximator reads them.

    Attributes:
        nodes: embeddings of their nodes, float [a places z].
        mask: whether there is a node, bool [a places].
        output: place of the output node, int64 [a].
    """

    nodes: Tensor
    mask: Tensor
    output: Tensor

    def __getitem__(self, rows: Tensor) -> Embedded:
        return Embedded(self.nodes[rows], self.mask[rows], self.output[rows])

    def __len__(self) -> int:
        return len(self.nodes)


class Attention(nn.Module):
    """One block of attention over nodes, then a perceptron for each; both added to what they read, and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(LATENT, INNER, bias=False) for _ in range(3))
        self.out, self.norm1, self.norm2 = nn.Linear(INNER, LATENT), nn.LayerNorm(LATENT), nn.LayerNorm(LATENT)
        self.wide = nn.Sequential(nn.Linear(LATENT, WIDE), nn.ReLU(), nn.Linear(WIDE, LATENT))

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Map [a places z] to the same; what stands where there is no node is read by no other."""
        scores = self.query(nodes) @ self.key(nodes).transpose(1, 2)  # [a places places]
        shares = scores.masked_fill(~mask[:, None, :], -torch.inf).softmax(2)
        x = self.norm1(nodes + self.out(shares @ self.value(nodes)))
        return self.norm2(x + self.wide(x))


class Approximator(nn.Module):
    """Architectures and embeddings of samples to logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.attention = Attention()
        self.head = nn.Sequential(
            *(nn.Linear(LATENT + width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes)),
        )

    def tokens(self, architectures: Embedded) -> Tensor:
        """Return what stands for each architecture, the token of its output node, [a z]."""
        attended = self.attention(architectures.nodes, architectures.mask)
        return attended[torch.arange(len(architectures)), architectures.output]

    def forward(self, architectures: Embedded, which: Tensor, samples: Tensor) -> Tensor:
        """Return logits [b c] of architectures number `which` [b] for embeddings of samples [b d]."""
        return self.head(torch.cat([self.tokens(architectures)[which], samples], 1))


def kl(trained: Tensor, guessed: Tensor) -> Tensor:
    """Return KL(softmax(trained) || softmax(guessed)) of logits [n c], the mean over n."""
    return functional.kl_div(guessed.log_softmax(1), trained.log_softmax(1), reduction="batchmean", log_target=True)


def new_approximator(width: int, classes: int, seed: int) -> Approximator:
    """Return one that is untrained, for embeddings of samples of that width."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Approximator(width, classes)


@torch.no_grad()
def guesses(approximator: Approximator, architectures: Embedded, samples: Tensor) -> Tensor:
    """Return the logits guessed for every architecture and sample, [a n c], by an approximator in eval mode."""
    tokens = approximator.tokens(architectures)
    return torch.stack([approximator.head(torch.cat([t.expand(len(samples), -1), samples], 1)) for t in tokens])


@dataclass(frozen=True)
class Lessons:
    """What the approximator is trained on.

    Attributes:
        architectures: of the trained networks.
        samples: embeddings of samples, [n d].
        logits: what the trained networks say, [a n c].
    """

    architectures: Embedded
    samples: Tensor
    logits: Tensor

    def __getitem__(self, rows: Tensor) -> Lessons:
        return Lessons(self.architectures[rows], self.samples, self.logits[rows])

    def error(self, approximator: Approximator) -> float:
        """Return the KL divergence of the guesses, the mean over architectures and samples."""
        return float(
            kl(self.logits.flatten(0, 1), guesses(approximator, self.architectures, self.samples).flatten(0, 1))
        )


def train_approximator(
    approximator: Approximator, training: Lessons, validation: Lessons, epochs: int, seed: int
) -> list[float]:
    """Train by AdamW under a cosine; leaves the weights of the epoch that is best on validation, in eval mode.

    Returns:
        The KL divergence on the validation architectures after each epoch.
    """
    a, n = training.logits.shape[:2]
    optimizer = torch.optim.AdamW(approximator.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    errors: list[float] = []
    best = copy.deepcopy(approximator.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for _ in range(epochs):
            approximator.train()
            for cells in torch.randperm(a * n).split(BATCH):
                which, rows = cells // n, cells % n
                optimizer.zero_grad()
                guessed = approximator(training.architectures, which, training.samples[rows])
                kl(training.logits[which, rows], guessed).backward()
                nn.utils.clip_grad_norm_(approximator.parameters(), CLIP)
                optimizer.step()
            schedule.step()
            errors.append(validation.error(approximator.eval()))
            if errors[-1] == min(errors):
                best = copy.deepcopy(approximator.state_dict())
    approximator.load_state_dict(best)
    approximator.eval()
    return errors
