"""Training a repaired proxy to answer like the dense network, on unlabelled data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ... import checks
from ...errors import InputError, NonFiniteError
from ...network import first_output, named_answers, named_tensors
from .products import Event, Product, Watcher
from .ridge import Layer, refit

ON = ("both", "outputs", "features")


@dataclass(frozen=True)
class Imitation:
    """How a repaired proxy is trained to answer like the dense network (distillation: Hinton et al. 2015).

    Without dropout; batch norms that are not frozen learn the statistics of what they see. By AdamW, its rate falling
    to 0 on a cosine.

    Attributes:
        epochs: passes over the data.
        lr: rate of AdamW.
        batch_size: rows of a step.
        rows: at most so many rows are used, drawn at random; None is all.
        on: what is to be alike, by squared error: "outputs", all that both networks return in one shape; "features",
            what the last layer is given, which a linear map takes to the dense network's (a new head says little of
            what the network knows); or "both", where such a layer is seen.

    Raises:
        InputError: a value out of range or an unknown name.
    """

    epochs: int = 4
    lr: float = 1e-3
    batch_size: int = 32
    rows: int | None = None
    on: str = "both"

    def __post_init__(self) -> None:
        checks.settle(
            self,
            epochs=checks.whole("epochs", self.epochs, least=0),
            lr=checks.number("lr", self.lr, above=0),
            batch_size=checks.whole("batch_size", self.batch_size, least=1),
            rows=checks.maybe(checks.whole, "rows", self.rows, least=1),
            on=checks.one_of("on", self.on, ON),
        )


Read = Callable[[Tensor], Iterator[tuple[Tensor, Any]]]
"""Yields (row numbers [b], inputs) of the rows it is given, in order and by batches."""


@dataclass(eq=False)
class Shown:
    """A network that is run, and shows, beside what it answers, what one of its layers is given.

    Attributes:
        network: the network.
        run: passes inputs through it.
        layer: name of the module that is looked at, or None.
        without: names of answers that are not shown, as they have another shape in the other network.
    """

    network: nn.Module
    run: Callable[[Any], Any]
    layer: str | None
    without: frozenset[str] = frozenset()
    _given: list[Tensor] = field(default_factory=list)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the layer for the block."""
        owner = None if self.layer is None else self.network.get_submodule(self.layer)
        handle = None if owner is None else owner.register_forward_pre_hook(self._look)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()

    def _look(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self._given[:] = [args[0].movedim(1, -1) if isinstance(layer, _ConvNd) else args[0]]

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        """Return the "outputs" [b m] for a batch, and the "features" [b ... d] where there are any."""
        self._given.clear()
        outputs = first_output(self.run(inputs), self.without)
        return {"outputs": outputs, **({"features": self._given[0]} if self._given else {})}


def of_other_shapes(dense: Any, thin: Any) -> frozenset[str]:
    """Return the names of those answers that have another shape in the thin network, as an embedding may have."""
    other = named_answers(thin)
    return frozenset(name for name, leaf in named_answers(dense).items() if leaf.shape != other[name].shape)


def last_layer(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """Return the name of the last module that sums its input with a weight of its own; None where none is seen.

    Args:
        model: a network.
        run: passes some rows through it.
    """
    given: dict[str, Tensor] = {}

    def look(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            given[name] = args[0]

    handles = [m.register_forward_pre_hook(partial(look, name)) for name, m in model.named_modules()]
    try:
        with _Last(named_tensors(model)) as seen:
            run()
    finally:
        for handle in handles:
            handle.remove()
    if seen.product is None:
        return None
    name, summed = seen.product.weight.name.rpartition(".")[0], seen.product.inputs
    known = name in given and given[name].untyped_storage().data_ptr() == summed.untyped_storage().data_ptr()
    return name if known else None


class _Last(Watcher):
    product: Product | None = None

    def meet(self, event: Event) -> None:
        """Keep the last product."""
        if isinstance(event, Product):
            self.product = event


def imitate(
    dense: Shown, thin: Shown, read: Read, order: Tensor, how: Imitation, *, seed: int, frozen: Set[str], memory: float
) -> tuple[float, ...]:
    """Train a thin network in place to answer like a dense one; return the mean loss of each epoch.

    Args:
        dense: the teacher, in eval mode; passed each row once, or where memory is short in each epoch.
        thin: the network to be trained, in eval mode; what requires no gradient stays as it is.
        read: reads rows of the data.
        order: the rows, int64 [n].
        how: for how long, and by what.
        seed: of the order of rows.
        frozen: names of statistics that stay as they are, among others.
        memory: bytes that what the teacher says of all rows may take.

    Raises:
        InputError: features are wanted, and the layer could not be looked at.
        NonFiniteError: the loss became NaN or infinite.
    """
    with dense.watched(), thin.watched():
        lessons = _Lessons.of(dense, thin, read, order, how.on, memory)
        trained = [p for p in (*thin.network.parameters(), *lessons.maps.parameters()) if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, how.lr)
        steps = how.epochs * -(-len(order) // how.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        generator, losses = torch.Generator().manual_seed(seed), []
        with _estimating(thin.network, frozen), torch.enable_grad():
            for _ in range(how.epochs):
                seen = []
                for rows, inputs in read(order[torch.randperm(len(order), generator=generator)]):
                    loss = lessons.missed(thin(inputs), rows, inputs)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    seen.append(float(loss.detach()))
                losses.append(sum(seen) / len(seen))
                if not math.isfinite(losses[-1]):
                    raise NonFiniteError(
                        f"repair(): the loss of imitating became NaN or infinite in epoch {len(losses)}: take a lower "
                        f"rate than lr={how.lr:g}"
                    )
    thin.network.zero_grad(set_to_none=True)
    return tuple(losses)


@dataclass(eq=False)
class _Lessons:
    """What the dense network says of each row, and how it is held against what the thin one says.

    Attributes:
        dense: is asked again in each epoch, where `said` is None.
        place: row -> where it stands in `said`, int64.
        said: by name, [n ...]; None where it would take too much memory, or rows are of several lengths.
        scales: by name, the mean variance of a channel.
        maps: by name, what takes the thin network's features to the dense network's.
    """

    dense: Shown
    place: Tensor
    said: dict[str, Tensor] | None
    scales: dict[str, float]
    maps: nn.ModuleDict

    @classmethod
    def of(cls, dense: Shown, thin: Shown, read: Read, order: Tensor, on: str, memory: float) -> _Lessons:
        said: list[dict[str, Tensor]] = []
        own: list[Tensor] = []
        rows, room, alike = 0, memory, True
        with torch.no_grad():
            for part, inputs in read(order):
                found = {name: value.cpu() for name, value in dense(inputs).items() if on in ("both", name)}
                if "features" in found:
                    own.append(thin(inputs)["features"].cpu())
                said.append(found)
                rows, room = rows + len(part), room - sum(value.nbytes for value in (*found.values(), *own[-1:]))
                alike = alike and all(value.shape[1:] == said[0][name].shape[1:] for name, value in found.items())
                if room < 0 or not alike:
                    break
        if on not in ("both", *said[0]):
            raise InputError(
                f"repair(distil=Imitation(on={on!r})): what the last layer ({dense.layer}) is given could not "
                "be looked at; pass on='outputs'"
            )
        place = torch.zeros(int(order.max()) + 1, dtype=torch.int64).index_put_((order,), torch.arange(len(order)))
        flat = {name: _by_channel([found[name] for found in said]) for name in said[0]}
        maps = nn.ModuleDict()
        if own:
            like = next(p for p in thin.network.parameters() if p.is_floating_point())
            maps["features"] = _linear_map(flat["features"], _by_channel(own)).to(like)
        kept = (
            {name: torch.cat([found[name] for found in said]) for name in said[0]}
            if alike and rows == len(order)
            else None
        )
        scales = {name: float(value.double().var(0).mean()) for name, value in flat.items()}
        return cls(dense, place, kept, scales, maps)

    def missed(self, found: dict[str, Tensor], rows: Tensor, inputs: Any) -> Tensor:
        """Return the mean squared error, as a share of the variance, added up over what is held against each other."""
        if self.said is None:
            with torch.no_grad():
                said = self.dense(inputs)
        else:
            said = {name: value[self.place[rows]] for name, value in self.said.items()}
        losses = []
        for name, scale in self.scales.items():
            own = self.maps[name](found[name]) if name in self.maps else found[name]
            missed = (own.float() - said[name].to(own.device).float()).square().mean()
            losses.append(missed / scale if 0 < scale < math.inf else missed)
        return torch.stack(losses).sum()


def _by_channel(parts: list[Tensor]) -> Tensor:
    """Return batches [b ... d] as [p d], or as [p 1] where they are of several widths."""
    width = parts[0].shape[-1] if len({part.shape[-1] for part in parts}) == 1 else 1
    return torch.cat([part.reshape(-1, width) for part in parts])


def _linear_map(dense: Tensor, thin: Tensor) -> nn.Linear:
    """Return the map of thin features [p d'] to dense ones [p d] that misses least, as where training starts."""
    fit = refit(
        Layer(dense, thin, None, torch.zeros(dense.shape[1], thin.shape[1]), centred=True),
        torch.arange(len(dense)) % 5 == 4,
    )
    found = nn.Linear(thin.shape[1], dense.shape[1], dtype=torch.float64)
    with torch.no_grad():
        found.weight.copy_(fit.weight)
        found.bias.copy_(fit.shift)
    return found


@contextlib.contextmanager
def _estimating(network: nn.Module, frozen: Set[str]) -> Iterator[None]:
    """Have batch norms that are not frozen use and learn the statistics of batches; all else stays in eval mode."""
    norms = [
        module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" not in frozen
    ]
    try:
        for norm in norms:
            norm.training = True
        yield
    finally:
        for norm in norms:
            norm.training = False
