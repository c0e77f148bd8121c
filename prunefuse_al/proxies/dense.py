"""`Dense`: the whole network stands in for itself, as plain active learning has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..costs import macs, parameter_count
from ..fusing import ChannelMap, Fusion, TensorMap, fuse
from ..network import frozen_tensors, named_tensors
from ..pruning import Proxy, PruningReport
from .protocol import AnyProxy, Kind, Task


@dataclass(frozen=True)
class Dense(Kind):
    """Selects with the dense network itself, of any kind: nothing is traced, thinned or saved; the baseline."""

    fuses: ClassVar[bool] = True

    def cut(self, task: Task, before: AnyProxy | None = None) -> Proxy:
        """Return the dense network as its own proxy, with a map that keeps everything."""
        with task.ledger.stage("prune", round=task.round, network="proxy") as stage:
            stage.describe(task.dense)
            tensors = named_tensors(task.dense)
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            whole = ChannelMap({name: TensorMap(shape, (None,) * len(shape)) for name, shape in shapes.items()})
            return Proxy(task.dense, whole, _report(task))

    def put_back(self, dense: nn.Module, proxy: AnyProxy, fusion: Fusion) -> nn.Module:
        """Return a copy of the dense network with the trained weights."""
        assert isinstance(proxy, Proxy)
        return fuse(dense, proxy, cross=fusion)


def _report(task: Task) -> PruningReport:
    work, parameters = round(macs(task.dense, task.reader().example(), training=False)[0]), parameter_count(task.dense)
    frozen = tuple(sorted(frozen_tensors(task.dense)))
    return PruningReport(0.0, parameters, parameters, work, work, (), {}, True, 0.0, frozen)
