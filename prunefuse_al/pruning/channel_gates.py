"""Importance from gates that are learnt on the random weights of a network: "pruning from scratch"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from .. import checks
from ..data import BatchLoader
from .measures import Subject, filled_by_l2
from .sensitivity import OnData, copy_with_gradients, mean_loss

BATCH = 128
_TIE = 1e-9  # gates end at exactly 0 and 1 in numbers


@dataclass(frozen=True, eq=False)
class Gates(OnData):
    """Importance by gates in [0, 1] that every channel is multiplied by (Wang et al. 2020, arXiv 1909.12579).

    The network is taken as it is, its weights do not move: of one at its random start, which is what the paper prunes,
    only the gates learn, to minimise loss + gamma (mean gate - share)^2 over all channels of all layers. A channel is
    gated where layers read it, which is behind its normalisation and activation, and so once for a residual stream;
    the paper's code gates channels inside blocks alone. Meant for ``scope="global"``: how wide layers get is what it
    tells. Its control is `importance="random"` in that scope, and ``scope="local"``.

    Open in the paper, and decided here: the last gates count, where the code takes those of best validation accuracy;
    gates that tie, as most do at 0 and 1, are ordered by `random_state`; the share of channels is what `prune` is asked
    for, and not one of multiply-accumulates, which the code bisects; nothing is widened before.

    Attributes:
        inputs: rows as the network takes them, see `Taylor`. Ten epochs of 1,000 rows are what 0.2 of CIFAR-10 are.
        labels: see `Taylor`.
        loss: see `Taylor`.
        epochs: how many, in batches of 128.
        rate: learning rate of Adam.
        gamma: weight of the penalty, not below 0.
        share: that gates are pulled to in the mean, above 0 and at most 1.

    Raises:
        InputError: there are no labels, lengths differ, or an option is out of range.

    Example:
        >>> from prunefuse_al import prune
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> X, y = torch.eye(8)[:6], torch.arange(6) % 3
        >>> prune(net, X, 0.5, importance=Gates(X, y, epochs=2)).module[0].out_features
        8
    """

    epochs: int = 10
    rate: float = 0.01
    gamma: float = 0.5
    share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.settle(
            self,
            epochs=checks.whole("Gates: epochs", self.epochs, least=1),
            rate=checks.number("Gates: rate", self.rate, above=0),
            gamma=checks.number("Gates: gamma", self.gamma, least=0),
            share=checks.number("Gates: share", self.share, above=0, most=1),
        )

    def measure(self, model: nn.Module) -> Gates:
        """Return itself: what is gated is known once the channels are."""
        return self

    def learnt(self, subject: Subject) -> np.ndarray:
        """Return the gate of each channel, float64 [components].

        Raises:
            InputError: the network cannot take the inputs, or labels do not fit its outputs.
            NonFiniteError: NaN or infinity in inputs, or in the loss.
        """
        data = self.data()
        with copy_with_gradients(subject.model, data) as (network, forward):
            network.train()
            for parameter in network.parameters():
                parameter.requires_grad_(False)
            gated = GatedNetwork(network, subject)
            optimiser = torch.optim.Adam([gated.gates], self.rate)
            generator = torch.Generator().manual_seed(0)
            for _ in range(self.epochs):
                order = torch.randperm(len(data), generator=generator)
                for _, x, y, _ in BatchLoader(data, BATCH, network=network).batches(order, merge_single=True):
                    loss = mean_loss(gated, forward, x, y, self.loss)
                    optimiser.zero_grad()
                    (loss + penalty(gated.gates, self.share, self.gamma)).backward()
                    optimiser.step()
                    with torch.no_grad():
                        gated.gates.clamp_(0, 1)
            gates = gated.gates.detach().double().cpu().numpy()
        scores = np.zeros(subject.count)
        scores[gated.channels] = gates + _TIE * subject.rng.random(len(gates))
        without = [group for group in subject.found.groups if not np.isin(group.channels, gated.channels).all()]
        return filled_by_l2(subject, scores, without, "importance='gates'", "are read by no parameter")


def penalty(gates: Tensor, share: float, gamma: float) -> Tensor:
    """Return gamma (mean |gate| - share)^2 of all gates together; a gate at 0 is not moved by it."""
    return gamma * (gates.abs().mean() - share) ** 2


class GatedNetwork(nn.Module):
    """A network whose channels are multiplied by gates, where layers read them.

    Attributes:
        channels: int64 [g], components that have a gate.
        gates: float [g], 1 at first.
    """

    def __init__(self, network: nn.Module, subject: Subject) -> None:
        super().__init__()
        self.network = network
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        read = list(_read_axes(subject))
        gated = {number for group, _ in read for number in group.channels.tolist()}
        self.channels = np.array(sorted(gated), dtype=np.int64)
        self.gates = nn.Parameter(torch.ones(len(gated), device=device))
        place = np.full(subject.count, len(gated))
        place[self.channels] = np.arange(len(gated))
        axes = {(axis.name, axis.dim): axis for _, axis in read}
        self._places = {key: torch.from_numpy(place[subject.owners(axis)]).to(device) for key, axis in axes.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network answers, its readers' weights multiplied by the gates of what they read."""
        factors = torch.cat([self.gates, self.gates.new_ones(1)])
        tensors = dict(self.network.named_parameters())
        changed: dict[str, Tensor] = {}
        for (name, dim), places in self._places.items():
            weight = changed.get(name, tensors[name])
            shape = [-1 if d == dim else 1 for d in range(weight.ndim)]
            changed[name] = weight * factors[places].to(weight.dtype).view(shape)
        return functional_call(self.network, changed, args, kwargs)


def _read_axes(subject: Subject) -> Iterator[tuple[Any, Any]]:
    """Yield groups of channels, each with an axis of a parameter that is summed over them."""
    for group in subject.found.groups:
        for number in group.read:
            axis = group.axes[number].axis
            if axis.name in subject.parameters:
                yield group, axis
