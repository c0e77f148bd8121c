"""Importance from activations on unlabelled data: what the layers that read a channel would lose with it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import BatchLoader, as_dataset, check_finite, isolated_rng
from ..errors import FallbackWarning, NonFiniteError, warn
from ..network import copied, explained, forward_for, named_tensors
from .elimination import Consumer
from .repairing import Event, Product, Watcher, computable, plain_operations
from .sensitivity import BATCH, estimate_statistics

POSITIONS = 32
"""Positions (pixels, tokens) that are looked at for each input channel of a layer, drawn where it has more."""
RIDGE = 1e-3
"""Share of the mean variance that is added to every variance: what so few positions can tell apart."""
MEMORY = 2 * 2**30
"""Bytes of all covariances together."""


@dataclass(frozen=True, eq=False)
class Activation:
    """Importance by what would be lost with a channel, told by activations on unlabelled data.

    A channel matters by the variance that the layers which sum over it would miss without it, as a share of all they
    sum, after the channels that are left have made up for it as far as they can: optimal brain surgeon (Hassibi et al.
    1993) for channels, as in ZipLM (Kurtic et al. 2023, arXiv 2302.04089). The weakest leave in eight steps, each of
    which is told what left before, so that of two channels that say the same one stays. This is what `repair` brings
    about, so it suits trained networks whose proxies are repaired. Channels that no linear layer or convolution reads
    are measured by "l2".

    Attributes:
        inputs: rows as the network takes them: array or tensor [n ...], a tuple or dict of them, or a Dataset; labels
            are ignored. A few hundred will do.

    Raises:
        InputError: `inputs` hold no rows.

    Example:
        >>> from prunefuse_al import prune
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> prune(net, torch.zeros(2, 8), 0.5, importance=Activation(torch.eye(8))).module[0].out_features
        8
    """

    inputs: Any = field(repr=False)

    def __post_init__(self) -> None:
        as_dataset(self.inputs)

    def measure(self, model: nn.Module) -> Consumers:
        """Return what each layer sums over, passing the inputs through a copy of the network in eval mode.

        Raises:
            InputError: the network cannot take the inputs.
            NonFiniteError: NaN or infinity in inputs or in what they become.

        Warns:
            FallbackWarning: of the widest layers' inputs not all covariances fit into memory.
        """
        data, network = as_dataset(self.inputs), copied(model).eval()
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        with isolated_rng(0, device), torch.inference_mode(False), plain_operations(network):
            check_finite(data, network=network)
            forward = forward_for(network, device)
            estimate_statistics(network, forward, data)
            listener = _Listener(named_tensors(network), len(data))
            for rows, x, _, _ in BatchLoader(data, BATCH, network=network, labelled=False).batches():
                with explained(network, x), listener.batch(len(rows)):
                    forward(network, forward.inputs(x))
        return Consumers(tuple(listener.consumers()))


@dataclass(frozen=True, eq=False)
class Consumers:
    """The layers of a network that sum over channels."""

    layers: tuple[Consumer, ...]


class _Use(NamedTuple):
    """Of a weight: its name, the dimension that is summed over, the first of its outputs, and how many are used."""

    weight: str
    dim: int
    first: int
    outputs: int


@dataclass
class _Moments:
    """Sums over positions of inputs [n d]: of themselves, and of their products [d d], or of squares alone [d]."""

    weight: Tensor  # [o d]
    n: int
    total: Tensor
    products: Tensor

    def add(self, x: Tensor) -> None:
        self.n += len(x)
        self.total += x.sum(0)
        self.products += x.T @ x if self.products.ndim == 2 else x.square().sum(0)

    def consumer(self, use: _Use) -> Consumer:
        mean, weight = (self.total / self.n).cpu(), computable(self.weight).double().cpu()
        _refuse_nonfinite(use.weight, weight)
        whole = self.products.ndim == 2
        second = torch.outer(mean, mean) if whole else mean.square()
        gram = weight.T @ weight if whole else weight.square().sum(0)
        return Consumer.of(use.weight, use.dim, gram, self.products.cpu() / self.n - second, RIDGE)


class _Listener(Watcher):
    """Adds up, for every layer that sums over channels, what it is given."""

    def __init__(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        super().__init__(tensors)
        self._moments: dict[_Use, _Moments] = {}
        self._total, self._rows, self._batches = rows, 0, 0
        self._bytes, self._alone = 0, 0

    def batch(self, rows: int) -> _Listener:
        """Begin a batch of rows."""
        self._rows, self._batches = rows, self._batches + 1
        self._uses.clear()
        return self

    def meet(self, event: Event) -> None:
        """Add up what a layer is given at some positions."""
        if not isinstance(event, Product):
            return
        x = event.inputs.reshape(-1, event.inputs.shape[-1])
        _refuse_nonfinite(event.weight.name, x)
        quota = max(self._rows, -(-POSITIONS * x.shape[1] * self._rows // self._total))
        if len(x) > quota:
            generator = torch.Generator().manual_seed(zlib.crc32(event.key.encode(), self._batches))
            x = x[torch.randint(len(x), (quota,), generator=generator).to(x.device)]
        self._of(event).add(computable(x).double())

    def consumers(self) -> Iterator[Consumer]:
        """Yield what was seen of each layer, in the order in which they first ran."""
        if self._alone:
            warn(
                f"importance='activation': the covariances of {self._alone} of {len(self._moments)} layers' inputs do "
                f"not fit into {MEMORY / 2**30:g} GiB; there each channel is measured as if no other could make up for "
                "it",
                FallbackWarning,
            )
        for use in list(self._moments):
            yield self._moments.pop(use).consumer(use)

    def _of(self, event: Product) -> _Moments:
        use = _Use(event.weight.name, event.dim, event.start, event.count)
        if use not in self._moments:
            weight = event.weight.tensor.movedim(event.dim, -1)[event.start : event.start + event.count]
            width = weight.shape[-1]
            size = 2 * 8 * width * width  # what is summed, and later the weights' products
            fits = self._bytes + size <= MEMORY
            self._bytes, self._alone = self._bytes + size * fits, self._alone + (not fits)
            zeros = computable(event.inputs).new_zeros(width, dtype=torch.float64)
            products = torch.outer(zeros, zeros) if fits else zeros.clone()
            self._moments[use] = _Moments(weight.detach().reshape(-1, width), 0, zeros, products)
        return self._moments[use]


def _refuse_nonfinite(name: str, values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise NonFiniteError(
            f"importance='activation': weights of {name!r}, or what it is given, are NaN or infinite though the inputs "
            "are finite: the weights may have diverged, or the precision be too low; repair them before pruning"
        )
