"""`Another`: a network of another architecture stands in ("Selection via Proxy", Coleman et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..errors import FusionError
from ..fusing import Fusion
from ..network import check_model, copied
from .protocol import AnyProxy, Kind, Task

NO_PLACE = (
    "proxy= was given, another network, which has no place in the dense one; `model` is that network, trained, "
    "and fit_target() trains the dense one from its own weights"
)


@dataclass(frozen=True, eq=False)
class OtherNetwork:
    """A proxy that was not cut from the dense network."""

    module: nn.Module

    def with_module(self, module: nn.Module) -> OtherNetwork:
        """Return the same of another network of the same shape."""
        return OtherNetwork(module)


@dataclass(frozen=True, eq=False)
class Another(Kind):
    """Selects with another network. Nothing can be fused then: the target is trained from the dense network's weights.

    Attributes:
        network: stands in; copied, never changed.

    Raises:
        UnsupportedModelError: it is no network, or one that cannot be worked on.
    """

    network: nn.Module
    fuses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", copied(check_model(self.network, "proxy")))

    def cut(self, task: Task, before: AnyProxy | None = None) -> OtherNetwork:
        """Return the other network as it is."""
        with task.ledger.stage("prune", round=task.round, network="proxy") as stage:
            stage.describe(self.network)
        return OtherNetwork(self.network)

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        """Raise `FusionError`: it has no place in the dense network."""
        raise FusionError(f"fuse: {NO_PLACE}")
