"""What a kind of proxy does for the story, and what the story lends to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from ..costs import CostLedger, Stage
from ..fusing import Fusion
from ..network import copied, stand_in
from ..training import Reader
from ..types import Trainer

P = TypeVar("P", bound="AnyProxy")


class AnyProxy(Protocol):
    """What stands in for the dense network: a network, and what is known of where it came from."""

    @property
    def module(self) -> nn.Module:
        """The network."""
        ...

    def with_module(self: P, module: nn.Module) -> P:
        """Return the same of another network of the same shape, such as this one trained."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """What a round lends a kind of proxy to make one, and to have it trained.

    Attributes:
        dense: the network that is stood in for; not to be changed.
        trainer: who trains the proxy, and asks networks.
        data: dataset of what is labelled; before anything is, of what there is.
        n: how many samples are labelled.
        round: the number of the round, from 1.
        ledger: gets a row for each stage.
        seed: the seed of a stage, by its name.
    """

    dense: nn.Module
    trainer: Trainer
    data: Any
    n: int
    round: int
    ledger: CostLedger
    seed: Callable[[str], int]

    def reader(self, network: nn.Module | None = None) -> Reader:
        """Return what asks the dense network, or another one, about the data."""
        return Reader(self.trainer, self.dense if network is None else network, self.data)


@dataclass(frozen=True, eq=False)
class Training:
    """A proxy's training as it begins.

    Attributes:
        network: is trained in place.
        proxy: what the trained network is, called when the training has ended.
        begun: the same network, which is not changed, to train it again and watch; None where that gives another one.
        watching: further arguments of the trainer's `fit`.
        trainer: who trains it; None: the trainer of the task.
        data: dataset that it is trained on; None: the data of the task.
    """

    network: nn.Module
    proxy: Callable[[], AnyProxy]
    begun: nn.Module | None = None
    watching: Mapping[str, Any] = field(default_factory=dict)
    trainer: Trainer | None = None
    data: Any = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A proxy before anything is labelled.

    Attributes:
        start: what trainings begin with.
        proxy: answers by what the dense network knows.
    """

    start: AnyProxy
    proxy: AnyProxy


class ProxyKind(Protocol):
    """A kind of what can stand in for the dense network: whatever differs between kinds is said here.

    A kind of your own is an object with these methods, passed as ``PrunedProxySelector(proxy=...)``; what else may be
    said of one stands in `Kind`, with what is so where it says nothing.
    """

    @property
    def fuses(self) -> bool:
        """Whether what a proxy learned can be put back into the dense network."""
        ...

    def cut(self, task: Task, before: AnyProxy | None = None) -> AnyProxy:
        """Return what trainings begin with; `before` is the proxy before V2 trained the dense network on."""
        ...

    def prepare(self, task: Task) -> Prepared:
        """Return a proxy that answers before anything is labelled."""
        ...

    def stale(self, proxy: AnyProxy, n: int) -> bool:
        """Tell whether another proxy has to be cut where `n` samples are labelled."""
        ...

    def begin(self, task: Task, start: AnyProxy, stage: Stage) -> Training:
        """Return a training from `start`, which is not changed, inside the ledger's stage for it."""
        ...

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        """Return a new network: the dense one, with what the proxy learned.

        Raises:
            FusionError: it has no place there.
        """
        ...


class Kind(ProxyKind):
    """A base for kinds of proxies, with what is so of one that does not say otherwise.

    Attributes:
        syncs: V2 (`sync_every`) may train the target between rounds, and cut the next proxy from it.
        exact: `put_back` gives the proxy's function, whatever way back is asked for.
    """

    syncs: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def prepare(self, task: Task) -> Prepared:
        """Return what trainings begin with, which answers as it is."""
        start = self.cut(task)
        return Prepared(start, start.with_module(copied(start.module)))

    def stale(self, proxy: AnyProxy, n: int) -> bool:
        """Return False: however much is labelled, it is the same network."""
        return False

    def begin(self, task: Task, start: AnyProxy, stage: Stage) -> Training:
        """Return a training of a copy."""
        return from_a_copy(start)

    def check(self, trainer: Trainer, sync_every: int | None) -> None:
        """Raise `InputError` where these options of a selector contradict what the kind was told."""

    def trains(self, trainer: Trainer) -> Trainer:
        """Return who trains proxies of this kind, where `trainer` is the selector's."""
        return trainer

    def reader(self, task: Task, proxy: AnyProxy, rows: Tensor | None = None, *, pool: bool = False) -> Reader:
        """Return what asks a proxy about the data of the task; it may compute what is needed for that, in stages.

        Args:
            task: with the data.
            proxy: what is asked.
            rows: of the data, int64 [m], that will be asked about; None: all.
            pool: the data is a pool, which will be asked about again.
        """
        return Reader(task.trainer, stand_in(proxy.module), task.data)

    def go_on(self, task: Task, proxy: AnyProxy, stage: Stage) -> Training:
        """Return a training that goes on from a trained proxy (`warm_start`), inside the ledger's stage for it."""
        return from_a_copy(proxy)

    def serves(self, task: Task, proxy: AnyProxy) -> bool:
        """Tell whether V2 can leave out a target that is due, because the next proxies are as good without it."""
        return False

    def restored(self, proxy: AnyProxy) -> AnyProxy:
        """Return a proxy of this kind, where a file holds the network and where it came from."""
        return proxy


def completed(kind: ProxyKind) -> Kind:
    """Return a kind as it is where it is a `Kind`; else one that has what that one says, and the rest of `Kind`."""
    return kind if isinstance(kind, Kind) else _Completed(kind)  # type: ignore[abstract]


class _Completed(Kind):
    """A kind of the user's own that may say nothing but what a `ProxyKind` must."""

    def __init__(self, own: Any) -> None:
        said = [name for name in dir(Kind) if not name.startswith("_") and name != "fuses" and hasattr(own, name)]
        self._own = own
        vars(self).update({name: getattr(own, name) for name in said})

    @property
    def fuses(self) -> bool:
        return bool(self._own.fuses)


def from_a_copy(start: AnyProxy) -> Training:
    """Return a training that begins with a copy of `start`."""
    network = copied(start.module)
    return Training(network, lambda: start.with_module(network), begun=start.module)
