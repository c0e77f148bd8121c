"""Pruning a proxy while it is trained: when an epoch begins for which a step is due, channels leave in place."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..costs import Stage
from ..errors import InputError, NoEffectWarning, PruningError
from ..fusing import ChannelMap
from ..network import afresh, copied, named_tensors
from ..pruning import Proxy
from ..training import thin_in_place
from .protocol import Task

if TYPE_CHECKING:
    from .pruned import Pruned


class Thinning:
    """The `on_epoch` of one training: starts with the whole dense network and ends with the proxy.

    Args:
        kind: how to prune.
        task: with the dense network; its ledger gets a row for each step.
        aim: what `prune` gives at once, whose widths are aimed at.
        example: what the network is called with.
        stage: in which the training is measured: rows are counted at the widths they pass through.

    Attributes:
        network: a copy of the dense network, which is trained.
    """

    def __init__(self, kind: Pruned, task: Task, aim: Proxy, example: Any, stage: Stage) -> None:
        assert kind.progressive is not None
        self._kind, self._task, self._example, self._stage = kind, task, example, stage
        self._due = list(kind.progressive.ratios(kind.ratio(task.n)))
        self._aim = aim.channel_map
        self.network = copied(task.dense)
        self._now = Proxy(self.network, aim.channel_map.whole(), aim.pruning_report)

    def __call__(self, epoch: int, optimizer: torch.optim.Optimizer) -> bool:
        """Thin the network by what is due; return whether the last widths had not been reached before this epoch."""
        unfinished, ratio = bool(self._due), None
        while self._due and self._due[0][0] <= epoch:
            ratio = self._due.pop(0)[1]
        if ratio is not None:
            self._stage.settle()
            with self._stage.aside():
                self._thin(ratio, optimizer, last=not self._due)
        return unfinished

    def proxy(self) -> Proxy:
        """Return the thin network.

        Raises:
            InputError: the training ended before the last step was due.
        """
        if self._due:
            name, epoch = type(self._task.trainer).__name__, self._due[-1][0]
            raise InputError(
                f"progressive=: {name}.fit ended and {len(self._due)} steps were still due, the last one before epoch "
                f"{epoch} (from 0); it must call on_epoch(epoch, optimizer) before every epoch, and train for more "
                f"than {epoch}"
            )
        return self._now

    def _thin(self, ratio: float, optimizer: torch.optim.Optimizer, *, last: bool) -> None:
        with self._task.ledger.stage("prune", round=self._task.round, network="proxy") as row:
            found = self._pruned(ratio)
            if self._suits(found.channel_map, last=last):
                inner = found.channel_map.relative_to(self._now.channel_map)
                thin_in_place(self.network, optimizer, inner, found.channel_map.attributes)
                afresh(self.network, found.channel_map.computed)
                self._now = found.with_module(self.network)
            row.describe(self.network)

    def _suits(self, found: ChannelMap, *, last: bool) -> bool:
        """Tell whether a step leads to the widths that are aimed at: one too narrow could not be taken back."""
        if self._kind.scope == "global":  # there the weights of the moment decide on the widths as well
            return True
        pairs = [(tensor.proxy_shape, self._aim.tensors[name].proxy_shape) for name, tensor in found.tensors.items()]
        if last and any(one != aim for one, aim in pairs):
            raise PruningError(
                "progressive=: the widths that prune gives at once cannot be reached step by step in this network; "
                "leave progressive= out"
            )
        return all(a >= b for one, aim in pairs for a, b in zip(one, aim, strict=True))

    def _pruned(self, ratio: float) -> Proxy:
        """Prune the dense network with the present values in it, and nothing where channels have left."""
        dense, within = copied(self._task.dense), self._now.channel_map
        tensors = named_tensors(dense)
        nothing = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        values = within.scatter(named_tensors(self.network), nothing)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
        afresh(dense, within.computed)
        task = replace(self._task, dense=dense)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # small steps; the whole ratio was looked at before
            return self._kind.pruned(task, example=self._example, ratio=ratio, within=within)
