"""What a selector has made so far; every `fit` replaces it, at once and only when it succeeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..proxies import AnyProxy
from ..training import Snapshot
from ..types import Trainer


@dataclass(frozen=True, eq=False)
class Begun:
    """What a training began with, so that it can be run again to be watched.

    Attributes:
        network: the proxy, untrained in this round.
        seed: of the training.
        trainer: who trained.
        data: dataset that it was trained on; None: what was labelled.
    """

    network: nn.Module
    seed: int
    trainer: Trainer
    data: Any = None


@dataclass(frozen=True, eq=False)
class Uncut:
    """Before there is a proxy.

    Attributes:
        dense: the network that the next proxy is cut from.
        round: successful fits.
        before: the proxy of the last round, where V2 has trained `dense` since.
    """

    dense: nn.Module
    round: int = 0
    before: AnyProxy | None = None
    labelled: ClassVar[None] = None


@dataclass(frozen=True, eq=False)
class Trained:
    """With a proxy that answers.

    Attributes:
        dense: the network the proxy was made from, with the weights it had then.
        start: the proxy before training.
        proxy: after training.
        round: successful fits; 0 where the proxy was prepared before anything was labelled.
        begun: what its training began with; None where it cannot be run again.
        snapshots: states of the proxy along its training, where a scorer has asked for them.
        synced: the target trained at the end of this round, from which the next round's proxy is cut (V2).
        labelled: dataset of the last fit; None where it is not in memory (it is in no file and no pickle).
    """

    dense: nn.Module
    start: AnyProxy
    proxy: AnyProxy
    round: int
    begun: Begun | None = None
    snapshots: tuple[Snapshot, ...] = ()
    synced: nn.Module | None = None
    labelled: Any = None


State = Uncut | Trained
