"""What the dense network's layers were given, at sampled positions of every row, and the statistics of its channels."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...data import map_leaves
from ...fusing import ChannelMap, TensorMap
from ...network import named_tensors
from .products import BatchNormed, Event, Grouped, Normed, Product, Watcher
from .scouting import Plan, Site, refuse_nonfinite

_ROWS = 16
"""Rows of activations that are copied to double precision at once."""


@dataclass
class Statistics:
    """Mean and variance of each channel over rows and positions, pooled over batches; double precision, [c]."""

    n: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None  # sums of squares about the mean

    def add(self, x: Tensor) -> Statistics:
        """Take in a batch [b c ...]; return these statistics."""
        for rows in x.split(_ROWS):
            values = computable(rows).movedim(1, 0).flatten(1).double()  # [c n]
            n, mean = values.shape[1], values.mean(1)
            squares = (values - mean[:, None]).square().sum(1)
            if self.mean is None or self.squares is None:
                self.n, self.mean, self.squares = n, mean, squares
                continue
            total, apart = self.n + n, mean - self.mean
            self.squares = self.squares + squares + apart.square() * (self.n * n / total)
            self.mean, self.n = self.mean + apart * (n / total), total
        return self

    def at(self, kept: Tensor | None) -> Statistics:
        """Return the statistics of these channels alone; None is all."""
        if kept is None or self.mean is None or self.squares is None:
            return self
        kept = kept.to(self.mean.device)
        return Statistics(self.n, self.mean[kept], self.squares[kept])

    @property
    def var(self) -> Tensor:
        """Variance, [c]."""
        assert self.squares is not None
        return self.squares / self.n


@dataclass
class Remembered:
    """What was seen of the dense network.

    Attributes:
        rows: how many rows were passed.
        positions: of a layer per input channel, at most.
        seed: of the positions.
        samples: key -> of a product, what it summed for the outputs that stay, without bias, [p m], or where that is
            more, its inputs [p d]; of a norm, what it gave at the kept channels [p d'].
        kept: key -> the inputs of a product at the kept channels [p d'], where layers are fitted to those.
        statistics: key -> of the inputs of batch norms, and of the outputs of convolutions by groups.
    """

    rows: int
    positions: float
    seed: int
    samples: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def sample(self, key: str, site: Site, inputs: Tensor, first: int, rows: int) -> Tensor | None:
        """Return the sampled positions [p d] of `rows` rows of inputs [... d]; None if there are not as many as were.

        Args:
            key: of the event.
            site: what is known of it.
            inputs: of these rows.
            first: which row the first of them is.
            rows: how many.
        """
        if inputs.numel() != rows * site.places * inputs.shape[-1]:
            return None
        places = self._places(key, site)[first : first + rows].to(inputs.device)
        each = torch.arange(rows, device=inputs.device)[:, None]
        return site.by_rows(inputs, rows)[each, places].flatten(0, 1)

    def count(self, site: Site) -> int:
        """Return how many positions of each row are sampled."""
        wanted = -(-round(self.positions * site.width) // self.rows)
        return max(1, min(site.places, wanted))

    def held(self, site: Site, device: torch.device) -> Tensor:
        """Return which of the sampled positions are held out, bool [p]: those of every fifth row."""
        rows = torch.arange(self.rows, device=device).repeat_interleave(self.count(site))
        return (rows if self.rows >= 5 else torch.arange(len(rows), device=device)) % 5 == 4

    def _places(self, key: str, site: Site) -> Tensor:
        """Return which positions are sampled, int64 [rows s]; the same whoever asks."""
        count = self.count(site)
        if count == site.places:
            return torch.arange(count).expand(self.rows, count)
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode(), self.seed))
        return torch.randint(site.places, (self.rows, count), generator=generator)


def remember(
    model: nn.Module,
    run: Callable[[Any], Any],
    inputs: Any,
    plan: Plan,
    channel_map: ChannelMap,
    memory: Remembered,
    batch_size: int,
    *,
    sequential: bool,
) -> None:
    """Pass all rows through the dense network and fill `memory`; its `kept` unless `sequential`.

    Raises:
        NonFiniteError: something a layer is given is NaN or infinite.
    """
    watcher = _Rememberer(named_tensors(model), plan, channel_map, memory, sequential=sequential)
    for first in range(0, memory.rows, batch_size):
        part = slice(first, min(first + batch_size, memory.rows))
        with watcher.batch(first, part.stop - first):
            run(map_leaves(inputs, lambda leaf, part=part: leaf[part]))  # type: ignore[misc]
    for (kind, key), parts in watcher.parts.items():
        if len(parts) == watcher.batches:
            joined = torch.cat(parts)
            parts.clear()
            refuse_nonfinite(key.rpartition("#")[0], joined)
            (memory.samples if kind == "samples" else memory.kept)[key] = joined


class _Rememberer(Watcher):
    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        plan: Plan,
        channel_map: ChannelMap,
        memory: Remembered,
        *,
        sequential: bool,
    ) -> None:
        super().__init__(tensors)
        self.plan, self.maps, self.memory, self.sequential = plan, channel_map.tensors, memory, sequential
        self.parts: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        self._wide: dict[str, Tensor] = {}
        self.batches = self._first = self._rows = 0

    def batch(self, first: int, rows: int) -> _Rememberer:
        """Begin a batch of rows."""
        self._first, self._rows = first, rows
        self.batches += 1
        self._uses.clear()
        return self

    def meet(self, event: Event) -> None:
        """Keep what products and batch norms are given."""
        if isinstance(event, Product) and event.key in self.plan.products:
            self._keep_product(event, self.plan.products[event.key])
        if isinstance(event, BatchNormed) and event.key in self.plan.batch_norms:
            self.memory.statistics.setdefault(event.key, Statistics()).add(event.inputs)

    def leave(self, event: Event, out: Any) -> None:
        """Keep what other norms, and convolutions by groups, give."""
        if isinstance(event, Normed) and event.key in self.plan.norms:
            given = out[0].movedim(event.axis, -1)
            found = self.memory.sample(event.key, self.plan.norms[event.key], given, self._first, self._rows)
            if found is not None:
                self.parts["samples", event.key].append(_chosen(found, self.maps[event.weight.name].kept[0]))
        if isinstance(event, Grouped) and event.key in self.plan.grouped:
            self.memory.statistics.setdefault(event.key, Statistics()).add(out)

    def _keep_product(self, event: Product, site: Site) -> None:
        found = self.memory.sample(event.key, site, event.inputs, self._first, self._rows)
        if found is None:
            return
        tensor_map = self.maps[event.weight.name]
        if not self.sequential:
            self.parts["kept", event.key].append(_chosen(found, tensor_map.kept[event.dim]))
        if site.summed:
            if event.key not in self._wide:
                wide = wide_of(event.weight.tensor, tensor_map, event.dim).flatten(0, -2)
                self._wide[event.key] = wide.to(torch.promote_types(wide.dtype, torch.float32))
            wide = self._wide[event.key]
            found = found.to(wide.dtype) @ wide.T
        self.parts["samples", event.key].append(found)


def _chosen(sample: Tensor, kept: Tensor | None) -> Tensor:
    return sample if kept is None else sample[:, kept.to(sample.device)]


def wide_of(dense: Tensor, tensor_map: TensorMap, dim: int) -> Tensor:
    """Return a dense weight, of the outputs that stay, with all of its inputs in the last dimension, [o ... d]."""
    for other, kept in tensor_map.thinned(dense.device):
        if other != dim:
            dense = dense.index_select(other, kept)
    return dense.movedim(dim, -1)


def computable(tensor: Tensor) -> Tensor:
    """Return a tensor where there is double precision: on the CPU, if it lies on a device without it."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor
