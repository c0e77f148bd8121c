"""The encoder of architectures: a variational graph autoencoder over random graphs of the family; no network is
trained.

After Jain et al. (2023) and their code: four rounds x <- ReLU(BN(MLP((1 + e) x + A x))) and linear maps to mean and
log standard deviation of 16 numbers a node. That code's loss holds the KL term alone and takes the softmax over
operations along the batch. Here it is what the paper says, an autoencoder's: operations (cross-entropy), log2 width
and stride (squared error), edges (cross-entropy of sigmoid(z z'), both kinds of pairs weighing the same), and KL
over the number of nodes as in Kipf & Welling (2016). Ours: a hidden width of 32 for 128, as the graphs are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .graphs import FEATURES, OPERATIONS, Graphs

LATENT, HIDDEN, ROUNDS, DROPOUT = 16, 32, 4, 0.3
BATCH, RATE, CLIP = 32, 1e-3, 5.0


class NodeNorm(nn.Module):
    """BatchNorm over the nodes that there are; all other places are 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [b places width] to the same."""
        out = torch.zeros_like(x)
        out[mask] = self.norm(x[mask])
        return out


class Round(nn.Module):
    """One round of a graph isomorphism network (Xu et al., 2019)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(()))
        self.first, self.inner = nn.Linear(inputs, width), NodeNorm(width)
        self.second, self.outer = nn.Linear(width, width), NodeNorm(width)

    def forward(self, x: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        """Map [b places inputs] to [b places width]."""
        x = (1 + self.own) * x + adjacency @ x
        x = self.second(torch.relu(self.inner(self.first(x), mask)))
        return torch.relu(self.outer(x, mask))


class Encoder(nn.Module):
    """Graphs to a Gaussian of `LATENT` numbers for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(Round(HIDDEN if place else FEATURES, HIDDEN) for place in range(ROUNDS))
        self.dropout = nn.Dropout(DROPOUT)
        self.mean, self.log_deviation = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor, adjacency: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, each [b places z] and 0 where there is no node."""
        for layer in self.rounds:
            x = self.dropout(layer(x, adjacency, mask))
        there = mask[:, :, None]
        return self.mean(x) * there, self.log_deviation(x) * there


class Decoder(nn.Module):
    """What nodes are, from their embeddings, and which of them are connected."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nn.Linear(LATENT, FEATURES)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map [b places z] to features, operations as logits, [b places f] and logits of edges [b places places]."""
        return self.nodes(z), z @ z.transpose(1, 2)


@dataclass(frozen=True)
class Loss:
    """The parts of the autoencoder's loss, each a number; see the top of the file."""

    operations: Tensor
    numbers: Tensor
    edges: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.operations + self.numbers + self.edges + self.kl


def autoencoder_loss(encoder: Encoder, decoder: Decoder, graphs: Graphs) -> Loss:
    """Return the loss of a batch; the sample of the embeddings is drawn from torch's global generator."""
    mean, log_deviation = encoder(graphs.x, graphs.adjacency, graphs.mask)
    z = (mean + log_deviation.exp() * torch.randn_like(mean)) * graphs.mask[:, :, None]
    features, edges = decoder(z)
    real, ops = graphs.mask, len(OPERATIONS)
    kl = gaussian_kl(mean[real], log_deviation[real]) / real.sum(1).float().mean()
    return Loss(
        functional.cross_entropy(features[real][:, :ops], graphs.x[real][:, :ops].argmax(1)),
        functional.mse_loss(features[real][:, ops:], graphs.x[real][:, ops:]),
        edge_loss(edges, graphs),
        kl,
    )


def gaussian_kl(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return the KL divergence of Gaussians [n z] from the standard one, summed over z, the mean over n."""
    return 0.5 * (mean**2 + (2 * log_deviation).exp() - 1 - 2 * log_deviation).sum(1).mean()


def pairs(graphs: Graphs) -> Tensor:
    """Return which pairs of places are two different nodes, bool [b places places]."""
    both = graphs.mask[:, :, None] & graphs.mask[:, None, :]
    return both & ~torch.eye(both.shape[1], dtype=torch.bool)


def edge_loss(logits: Tensor, graphs: Graphs) -> Tensor:
    """Return the cross-entropy of edges; those that there are weigh as much in sum as those that there are not."""
    among = pairs(graphs)
    there = graphs.adjacency[among]
    weight = (len(there) - there.sum()) / there.sum()
    return functional.binary_cross_entropy_with_logits(logits[among], there, pos_weight=weight)


def new_encoder(seed: int) -> tuple[Encoder, Decoder]:
    """Return an encoder and its decoder, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Encoder(), Decoder()


def train_encoder(encoder: Encoder, decoder: Decoder, graphs: Graphs, epochs: int, seed: int) -> None:
    """Train both on graphs, thousands of random ones, by Adam; leaves them in eval mode."""
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    encoder.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for _ in range(epochs):
            for rows in torch.randperm(len(graphs)).split(BATCH):
                optimizer.zero_grad()
                autoencoder_loss(encoder, decoder, graphs[rows]).total.backward()
                nn.utils.clip_grad_norm_(parameters, CLIP)
                optimizer.step()
    encoder.eval()


@torch.no_grad()
def embedded(encoder: Encoder, graphs: Graphs) -> Tensor:
    """Return the embeddings of nodes, the means, [b places z], by an encoder in eval mode."""
    mean: Tensor = encoder(graphs.x, graphs.adjacency, graphs.mask)[0]
    return mean


def whole(nodes: Tensor, mask: Tensor) -> Tensor:
    """Return an embedding of each graph, the mean of its nodes', [b z]."""
    return (nodes * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def reconstructed(encoder: Encoder, decoder: Decoder, graphs: Graphs) -> dict[str, float]:
    """Return how often operations are told from embeddings, and edges: the mean of those that there are and are not."""
    features, edges = decoder(embedded(encoder, graphs))
    ops, among = len(OPERATIONS), pairs(graphs)
    right = features[graphs.mask][:, :ops].argmax(1) == graphs.x[graphs.mask][:, :ops].argmax(1)
    there, said = graphs.adjacency[among] > 0, edges[among] > 0
    balanced = (said[there].float().mean() + (~said[~there]).float().mean()) / 2
    return {"operations": float(right.float().mean()), "edges": float(balanced)}
