"""The order in which channels can leave so that the layers that read them miss least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .groups import Group
from .measures import Subject, filled_by_l2, positions_of

STEPS = 8
"""In how many the channels of a group leave, as many in each; after each it is told anew what would be missed."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer y = W h that sums over channels h, with d positions (of a convolution at every tap alike).

    What it misses in the mean square when its weights move by D is tr(D H D^T), H the covariance of h, damped.

    Attributes:
        name: of its weight.
        dim: dimension of the weight that is summed over.
        gram: W^T W, [d d]; its diagonal [d] where no covariances are known.
        inverse: of H, [d d], or [d].
        energy: variance of what is summed.
    """

    name: str
    dim: int
    gram: Tensor
    inverse: Tensor
    energy: float

    @classmethod
    def of(cls, name: str, dim: int, gram: Tensor, covariance: Tensor, ridge: float) -> Consumer:
        """Return the layer of these moments, [d d] or [d]; `ridge` is in multiples of the mean variance."""
        energy = float((gram * covariance).sum())
        own = covariance if covariance.ndim == 1 else covariance.diagonal()
        damp = max(ridge * float(own.mean()), np.finfo(float).tiny)
        if covariance.ndim == 1:
            return cls(name, dim, gram, 1 / (covariance + damp), energy)
        damped = covariance + damp * torch.eye(len(own), dtype=own.dtype)
        return cls(name, dim, gram, torch.cholesky_inverse(torch.linalg.cholesky(damped)), energy)

    def missed(self, positions: Tensor) -> Tensor:
        """Return the share that is missed without each of several channels, [n], which have positions [n c]."""
        if self.inverse.ndim == 1:
            return (self.gram / self.inverse)[positions].sum(1) / self.energy
        rows, columns = positions[:, :, None], positions[:, None, :]
        shares: Tensor = torch.linalg.solve(self.inverse[rows, columns], self.gram[rows, columns])
        return shares.diagonal(dim1=1, dim2=2).sum(1) / self.energy

    def without(self, gone: Tensor) -> Consumer:
        """Return the same layer when positions bool [d] are gone and its other weights have made up for that."""
        left = ~gone
        if self.inverse.ndim == 1:
            return replace(self, gram=self.gram[left], inverse=self.inverse[left])
        across = self.inverse[gone][:, left]  # [g l]
        moved = torch.linalg.solve(self.inverse[gone][:, gone], across)
        mixed = self.gram[left][:, gone] @ moved
        gram = self.gram[left][:, left] - mixed - mixed.T + moved.T @ self.gram[gone][:, gone] @ moved
        return replace(self, gram=gram, inverse=self.inverse[left][:, left] - across.T @ moved)


@dataclass
class _Readers:
    """A layer as channels leave, and what of it is owned by which group.

    Attributes:
        layer: with the positions that are left.
        owned: number of a group -> positions int64 [n c] of its channels, in the dense network.
        left: bool [d], the positions that are left.
    """

    layer: Consumer
    owned: dict[int, np.ndarray]
    left: np.ndarray

    def missed(self, alive: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield number of a group and what would be missed without each of its channels that are alive."""
        place = np.cumsum(self.left) - 1
        for number, positions in self.owned.items():
            own = place[positions[alive[number]]]
            if len(own):
                yield number, self.layer.missed(torch.from_numpy(own)).numpy()

    def settle(self, alive: Sequence[np.ndarray]) -> None:
        """Let go of the positions of channels that are no longer alive."""
        left = self.left.copy()
        for number, positions in self.owned.items():
            left[positions[~alive[number]].ravel()] = False
        gone = torch.from_numpy(~left[self.left])
        if gone.any():
            self.layer, self.left = self.layer.without(gone), left


def eliminated(layers: Sequence[Consumer], subject: Subject) -> np.ndarray:
    """Return what the layers that read each channel miss when it leaves, float64 [components], higher is later.

    The channels of all groups leave in `STEPS`, from each as many as from the others in proportion, those first whose
    layers miss least. A block of positions, as an attention head, has the mean of its positions.
    """
    groups = subject.found.groups
    readers = list(_readers(layers, subject))
    alive = [np.ones(len(group.channels), dtype=bool) for group in groups]
    scores = [np.zeros(len(group.channels)) for group in groups]
    for step in range(1, STEPS + 1):
        now = [np.zeros(len(group.channels)) for group in groups]
        for reader in readers:
            for number, missed in reader.missed(alive):
                now[number][alive[number]] += missed
        for own, left, values, group in zip(scores, alive, now, groups, strict=True):
            _leave(own, left, values / group.positions, len(own) - len(own) * step // STEPS)
        if step < STEPS:
            for reader in readers:
                reader.settle(alive)
    found = np.zeros(subject.count)
    for group, own in zip(groups, scores, strict=True):
        found[group.channels] = own
    read = {number for reader in readers for number in reader.owned}
    unread = [group for number, group in enumerate(groups) if number not in read]
    return filled_by_l2(
        subject,
        found,
        unread,
        "importance='activation'",
        "are read by no linear layer or convolution, or at weights of 0",
    )


def _leave(scores: np.ndarray, alive: np.ndarray, now: np.ndarray, stay: int) -> None:
    """Let all but so many of a group's channels leave, the weakest first; who leaves later is more important."""
    left, last = np.flatnonzero(alive), scores[~alive].max(initial=np.finfo(float).tiny)
    gone = left[np.argsort(-now[left], kind="stable")[stay:]]
    for channel in reversed(gone.tolist()):
        last = scores[channel] = max(now[channel], np.nextafter(last, np.inf))
    alive[gone] = False


def _readers(layers: Sequence[Consumer], subject: Subject) -> Iterator[_Readers]:
    """Yield the layers that read channels of groups, and which."""
    atoms = subject.found.trace.atoms
    axes = {(axis.name, axis.dim): axis for axis in atoms.axes}
    for layer in layers:
        axis = axes.get((atoms.registered[layer.name], layer.dim))
        if axis is None or layer.energy <= 0:
            continue
        owned = {
            number: positions_of(subject, group, axis)
            for number, group in enumerate(subject.found.groups)
            if _owns(group, axis)
        }
        if owned:
            yield _Readers(layer, owned, np.ones(axis.size, dtype=bool))


def _owns(group: Group, axis: object) -> bool:
    return any(own is axis for own, _ in group.axes)
