"""What a kind of proxy does for the story, and what the story lends to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import nn

from ..costs import CostLedger, Stage
from ..fusing import Fusion
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
    """

    network: nn.Module
    proxy: Callable[[], AnyProxy]
    begun: nn.Module | None = None
    watching: Mapping[str, Any] = field(default_factory=dict)


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

    A kind of your own is an object with these methods, passed as ``PrunedProxySelector(proxy=...)``.
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
