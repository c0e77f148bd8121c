"""What the dense network's layers were given, at sampled positions of every row, and the statistics of its channels."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...data import map_leaves
from ...fusing import ChannelMap
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
            values = rows.movedim(1, 0).flatten(1).double()  # [c n]
            n, mean = values.shape[1], values.mean(1)
            squares = (values - mean[:, None]).square().sum(1)
            if self.mean is None or self.squares is None:
                self.n, self.mean, self.squares = n, mean, squares
                continue
            total, apart = self.n + n, mean - self.mean
            self.squares = self.squares + squares + apart.square() * (self.n * n / total)
            self.mean, self.n = self.mean + apart * (n / total), total
        return self

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
        samples: key -> inputs of a product [p d], or what a norm gave, at the kept channels [p d'].
        statistics: key -> of the inputs of batch norms, and of the outputs of convolutions by groups.
    """

    rows: int
    positions: float
    seed: int
    samples: dict[str, Tensor] = field(default_factory=dict)
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

    @property
    def nbytes(self) -> int:
        """Memory that the samples take."""
        return sum(tensor.nbytes for tensor in self.samples.values())


def remember(
    model: nn.Module,
    run: Callable[[Any], Any],
    inputs: Any,
    plan: Plan,
    channel_map: ChannelMap,
    memory: Remembered,
    batch_size: int,
) -> None:
    """Pass all rows through the dense network and fill `memory`.

    Raises:
        NonFiniteError: something a layer is given is NaN or infinite.
    """
    watcher = _Rememberer(named_tensors(model), plan, channel_map, memory)
    for first in range(0, memory.rows, batch_size):
        part = slice(first, min(first + batch_size, memory.rows))
        with watcher.batch(first, part.stop - first):
            run(map_leaves(inputs, lambda leaf, part=part: leaf[part]))  # type: ignore[misc]
    for key, parts in watcher.parts.items():
        if len(parts) == watcher.batches:
            memory.samples[key] = torch.cat(parts)
            parts.clear()
            refuse_nonfinite(key.rpartition("#")[0], memory.samples[key])


class _Rememberer(Watcher):
    def __init__(self, tensors: Mapping[str, Tensor], plan: Plan, channel_map: ChannelMap, memory: Remembered) -> None:
        super().__init__(tensors)
        self.plan, self.maps, self.memory = plan, channel_map.tensors, memory
        self.parts: dict[str, list[Tensor]] = {}
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
            self._keep(event.key, self.plan.products[event.key], event.inputs, None)
        if isinstance(event, BatchNormed) and event.key in self.plan.batch_norms:
            self.memory.statistics.setdefault(event.key, Statistics()).add(event.inputs)

    def leave(self, event: Event, out: Any) -> None:
        """Keep what other norms, and convolutions by groups, give."""
        if isinstance(event, Normed) and event.key in self.plan.norms:
            kept = self.maps[event.weight.name].kept[0]
            self._keep(event.key, self.plan.norms[event.key], out[0].movedim(event.axis, -1), kept)
        if isinstance(event, Grouped) and event.key in self.plan.grouped:
            self.memory.statistics.setdefault(event.key, Statistics()).add(out)

    def _keep(self, key: str, site: Site, inputs: Tensor, kept: Tensor | None) -> None:
        found = self.memory.sample(key, site, inputs, self._first, self._rows)
        if found is not None:
            found = found if kept is None else found[:, kept.to(found.device)]
            self.parts.setdefault(key, []).append(found)
