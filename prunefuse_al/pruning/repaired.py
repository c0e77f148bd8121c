"""`repair`: give a proxy cut from a trained network back what it lost, without labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..data import BatchLoader, Collate, check_reading, describe_rows, isolated_rng, leaves, nonfinite_rows, to_dataset
from ..errors import FallbackWarning, FusionError, InputError, NoEffectWarning, NonFiniteError
from ..fusing import ChannelMap
from ..network import (
    Forward,
    Transform,
    afresh,
    check_model,
    copied,
    describe,
    explained,
    forward_for,
    frozen_tensors,
    home_device,
    named_tensors,
    resolve_device,
    stand_in,
)
from ..types import RngLike, as_rng
from .proxy import Proxy
from .repairing import (
    ROWS,
    Imitation,
    Plan,
    Remembered,
    RepairReport,
    Shown,
    imitate,
    last_layer,
    live_bytes,
    mend,
    of_other_shapes,
    plain_operations,
    remember,
    scout,
)

GIB = 2**30
_SLACK = 1.5
"""What kernels need beside what they return, as a multiple of it."""


def repair(
    model: nn.Module,
    proxy: Proxy,
    unlabelled: Any,
    *,
    sequential: bool = True,
    rows: int | None = 1024,
    positions: float = 32.0,
    batch_size: int = 64,
    memory: float = 4.0,
    distil: int | Imitation | None = None,
    device: str | torch.device = "auto",
    transform: Transform | None = None,
    collate: Collate | None = None,
    num_workers: int = 0,
    random_state: RngLike = 0,
) -> Proxy:
    """Give a proxy cut from a trained network back what it lost, from unlabelled data.

    Every layer that sums over channels of which some were removed gets the weights with which, from the channels that
    are left, it comes nearest to what it summed in the dense network: ridge reconstruction (He et al. 2017, arXiv
    1707.06168), its strength chosen on held-out rows, means moved into biases. Statistics of batch norms, and scales
    and shifts of other norms, are set so that each channel is distributed as it was. What is frozen, used more than
    once, or not understood stays as it was cut, which the report states with the reason.

    One pass of the dense network, and one of the proxy in which each layer is fitted to inputs that come from repaired
    layers, so that errors do not pile up.

    Args:
        model: the network that `proxy` was cut from; not touched.
        proxy: what `prune(model, ...)` returned, not yet trained: what it learned would be lost; not touched.
        unlabelled: arrays, tensors or a map-style dataset, as the network takes them; labels are ignored.
        sequential: False fits all layers to the dense network's own inputs, less those that were removed.
        rows: at most so many rows are used, drawn at random; None is all.
        positions: at most so many positions (pixels, tokens) per input channel are used of each layer.
        batch_size: rows that pass the dense network at once; all rows pass the proxy at once.
        memory: GiB that the rows, what the dense network's layers were given, and the proxy's activations may take
            together. Where more would be needed there are fewer positions, then fewer rows, with a warning. Imitating,
            the dense network is asked in every epoch where what it says of all rows would take more.
        distil: then train the proxy to answer like the dense network, without labels, for so many epochs, or as an
            `Imitation` says; None or 0 does not.
        device: where it is done: "auto", or a torch device. The proxy comes back on its own device.
        transform: applied to each batch of inputs; the one of inference.
        collate: makes a batch of a list of a dataset's inputs; None stacks them.
        num_workers: processes reading a dataset's items.
        random_state: seed or generator for the rows and positions.

    Returns:
        A new `Proxy` with the same map; `repair_report` says what was done, and `repaired` holds the values of what
        changed, from which training goes on.

    Raises:
        InputError: an argument or the data cannot be used, or the network cannot take the data.
        FusionError: `proxy` was not cut from `model`.
        NonFiniteError: NaN or infinity in inputs or in what they become in the dense network.
        UnsupportedModelError: `model` is no network.

    Warns:
        NoEffectWarning: there is nothing to repair.
        FallbackWarning: memory allows fewer rows or positions than were asked for.

    Example:
        >>> import torch
        >>> from prunefuse_al import prune
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        >>> x = torch.randn(200, 8)
        >>> proxy = prune(net, x[:2], 0.5)
        >>> better = repair(net, proxy, x)
        >>> better.repair_report.layers[0].after < better.repair_report.layers[0].before
        True
    """
    check_model(model)
    _check_proxy(model, proxy)
    batch_size, num_workers = check_reading(batch_size, num_workers, transform, collate)
    limits = _Limits(
        positions=checks.number("positions", positions, above=0),
        batch_size=batch_size,
        memory=checks.number("memory", memory, above=0) * GIB,
    )
    sequential, how = checks.flag("sequential", sequential), _imitation(distil)
    rows = checks.maybe(checks.whole, "rows", rows, least=1)
    seed = int(as_rng(random_state, "random_state").integers(2**31))
    place, data = resolve_device(device), to_dataset(unlabelled)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:rows]
    reading: dict[str, Any] = {"num_workers": num_workers, "seed": seed, "collate": collate, "device": place}
    reader = BatchLoader(data, len(order), network=model, labelled=False, **reading)
    with isolated_rng(seed, place), torch.inference_mode(False):
        pair = _Pair.of(model, proxy, place, transform)
        report = _fit(pair, partial(pair.read, reader), order, limits, seed, sequential=sequential)
        if how.epochs and not all(tensor_map.whole for tensor_map in proxy.channel_map.tensors.values()):
            reader = BatchLoader(data, how.batch_size, network=model, labelled=False, **reading)
            every = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: how.rows]
            report = replace(report, imitated=_imitated(pair, reader, every, how, seed, limits.memory))
        module = pair.given_back(proxy.module)
    return replace(proxy, module=module, repaired=_changed(proxy.module, module), repair_report=report)


@dataclass(frozen=True, eq=False)
class _Pair:
    """The dense network and the copy of the proxy that is repaired, both in eval mode where the work is done."""

    dense: nn.Module
    thin: nn.Module
    forward: Forward
    channel_map: ChannelMap
    frozen: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, proxy: Proxy, place: torch.device, transform: Transform | None) -> _Pair:
        dense, thin = stand_in(model).eval(), copied(proxy.module).eval()
        for network in (dense, thin):
            if home_device(network) is not None:  # not spread over several
                network.to(place)
        frozen = frozen_tensors(model) | frozen_tensors(proxy.module)
        return cls(dense, thin, forward_for(dense, place, transform=transform), proxy.channel_map, frozen)

    def read(self, reader: BatchLoader, rows: Tensor) -> Any:
        """Return these rows of the data as both networks take them."""
        _, x, _, _ = next(iter(reader.batches(rows)))
        inputs = self._prepared(rows, x, len(reader.dataset))
        if any(leaf.ndim == 0 or len(leaf) != len(rows) for leaf in leaves(inputs)):
            raise InputError(
                f"unlabelled: a batch of {len(rows)} rows is {describe(inputs)}; repair() compares row by row: give "
                "inputs that have a row for each sample"
            )
        return inputs

    def batches(self, reader: BatchLoader, rows: Tensor) -> Iterator[tuple[Tensor, Any]]:
        """Yield (row numbers, inputs) of these rows of the data, by batches."""
        for part, x, _, _ in reader.batches(rows, merge_single=True):
            yield part, self._prepared(part, x, len(reader.dataset))

    def _prepared(self, rows: Tensor, x: Any, total: int) -> Any:
        if len(bad := nonfinite_rows(x)):
            raise NonFiniteError(
                f"unlabelled: inputs hold NaN or infinity in {describe_rows(rows[bad], total)}: repair or drop them"
            )
        with explained(self.dense, x):
            return self.forward.inputs(x)

    def run_dense(self, inputs: Any) -> Any:
        """Pass inputs through the dense network."""
        return self.forward(self.dense, inputs)

    def run_thin(self, inputs: Any) -> Any:
        """Pass inputs through the proxy."""
        return self.forward(self.thin, inputs)

    def given_back(self, like: nn.Module) -> nn.Module:
        """Return the repaired network on the device and in the modes of `like`."""
        home = home_device(like)
        if home is not None:
            self.thin.to(home)
        for own, given in zip(self.thin.modules(), like.modules(), strict=True):
            own.training = given.training
        return afresh(self.thin, self.channel_map.computed)


@dataclass(frozen=True)
class _Limits:
    """How much of the data may be looked at, and in how many bytes."""

    positions: float
    batch_size: int
    memory: float
    rows: int = 0

    def within(self, pair: _Pair, plan: Plan, probe: Any, rows: int, *, sequential: bool) -> _Limits:
        """Return how much can be looked at: half of the memory is for activations, half for what is remembered."""
        few = len(leaves(probe)[0])
        own, thin, dense = (
            size / few
            for size in (
                sum(leaf.nbytes for leaf in leaves(probe)),
                _SLACK * live_bytes(partial(pair.run_thin, probe)),
                _SLACK * live_bytes(partial(pair.run_dense, probe)),
            )
        )
        half, bytes_each = self.memory / 2, max(4, pair.forward.dtype.itemsize)
        fit = max(1, min(rows, int(half / (own + thin))))
        if (least := plan.entries(fit, 0, sequential=sequential) * bytes_each) > half:  # with one position of each row
            fit = max(1, int(fit * half / least))
        batch = max(1, min(self.batch_size, int((half - fit * own) / dense))) if dense else self.batch_size
        positions = self.positions
        while (needed := plan.entries(fit, positions, sequential=sequential) * bytes_each) > half and positions > 1e-3:
            positions *= max(0.5, half / needed)
        return _Limits(positions, batch, self.memory, fit)

    def said(self, found: _Limits, rows: int) -> None:
        """Warn where less can be looked at than was asked for."""
        less = [f"{found.rows:,} of {rows:,} rows"] if found.rows < rows else []
        if found.positions < self.positions:
            less.append(f"{found.positions:.3g} of {self.positions:g} positions per input channel")
        if less:
            warnings.warn(
                f"repair(memory={self.memory / GIB:g}): {' and '.join(less)} fit into {self.memory / GIB:g} GiB and "
                "are used; give more memory where there is more",
                FallbackWarning,
                stacklevel=4,
            )


def _fit(
    pair: _Pair,
    read: Callable[[Tensor], Any],
    order: Tensor,
    asked: _Limits,
    seed: int,
    *,
    sequential: bool,
) -> RepairReport:
    """Repair the thin network of a pair in place."""
    with plain_operations(pair.dense, pair.thin):
        probe = read(order[:ROWS])
        with explained(pair.dense, probe):
            pair.run_dense(probe)
        plan = scout(pair.dense, pair.run_dense, probe, pair.channel_map, pair.frozen)
        if plan.empty:
            warnings.warn(
                f"repair(): nothing of {type(pair.dense).__name__} can be repaired, the proxy is as it was cut: "
                f"{'; '.join(f'{n}: {why}' for n, why in list(plan.left.items())[:3]) or 'nothing is thinned'}",
                NoEffectWarning,
                stacklevel=3,
            )
            return RepairReport(0, 0, (), (), plan.left)
        limits = asked.within(pair, plan, probe, len(order), sequential=sequential)
        asked.said(limits, len(order))
        inputs = probe if limits.rows <= len(leaves(probe)[0]) else read(order[: limits.rows])
        seen = Remembered(len(leaves(inputs)[0]), limits.positions, seed)
        remember(
            pair.dense, pair.run_dense, inputs, plan, pair.channel_map, seen, limits.batch_size, sequential=sequential
        )
        dense = named_tensors(pair.dense)
        outcome = mend(pair.thin, pair.run_thin, inputs, dense, plan, pair.channel_map, seen, sequential=sequential)
    return RepairReport(seen.rows, seen.positions, tuple(outcome.layers), tuple(outcome.norms), outcome.left)


def _imitation(distil: int | Imitation | None) -> Imitation:
    if isinstance(distil, Imitation):
        return distil
    what = "epochs, a whole number from 0, an Imitation(...), or None"
    return Imitation(epochs=0 if distil is None else checks.whole("distil", distil, least=0, what=what))


def _imitated(
    pair: _Pair, reader: BatchLoader, order: Tensor, how: Imitation, seed: int, memory: float
) -> tuple[float, ...]:
    """Train the thin network of a pair in place; return the loss of each epoch."""
    one = pair.read(reader, order[:1])
    with plain_operations(pair.dense):
        last = last_layer(pair.dense, partial(pair.run_dense, one))
    with torch.no_grad():
        without = of_other_shapes(pair.run_dense(one), pair.run_thin(one))
    dense, thin = (
        Shown(network, run, last, without)
        for network, run in ((pair.dense, pair.run_dense), (pair.thin, pair.run_thin))
    )
    return imitate(dense, thin, partial(pair.batches, reader), order, how, seed=seed, frozen=pair.frozen, memory=memory)


def _changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Return the values of the tensors that differ, by name."""
    old = named_tensors(before)
    return {name: t.detach().clone() for name, t in named_tensors(after).items() if not torch.equal(t, old[name])}


def _check_proxy(model: nn.Module, proxy: Proxy) -> None:
    what = "the Proxy that prune(model, ...) returned, whole: not its .module"
    checks.instance("proxy", proxy, Proxy, what)
    try:
        proxy.channel_map.check(named_tensors(proxy.module), named_tensors(model))
    except FusionError as error:
        raise FusionError(
            f"repair(): proxy was not cut from model ({error}); pass the network it was cut from"
        ) from error
