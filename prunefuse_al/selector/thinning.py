"""Pruning a proxy while it is trained: when an epoch begins for which a step is due, channels leave in place."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from ..costs import CostLedger, Stage
from ..errors import InputError, NoEffectWarning, PruningError
from ..fusing import ChannelMap
from ..network import copied, named_tensors
from ..pruning import Proxy, prune
from ..training import thin_in_place
from .options import Options, State


class Thinning:
    """The `on_epoch` of one training: starts with the whole dense network and ends with the proxy.

    Args:
        options: see `Options`.
        ledger: gets a row for each step.
        state: with the dense network, and the map of what `prune` gives at once.
        network: a copy of the dense network, which is trained.
        example: what it is called with.
        stage: in which the training is measured: rows are counted at the widths they pass through.
    """

    def __init__(
        self, options: Options, ledger: CostLedger, state: State, network: nn.Module, example: Any, stage: Stage
    ) -> None:
        assert options.progressive is not None
        assert state.channel_map is not None
        self._options, self._ledger, self._state, self._example = options, ledger, state, example
        self._network, self._stage = network, stage
        self._due = list(options.progressive.ratios(options.ratio))
        self._aim = state.channel_map
        self.channel_map, self.report = state.channel_map.whole(), state.report

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
            name, epoch = type(self._options.trainer).__name__, self._due[-1][0]
            raise InputError(
                f"progressive=: {name}.fit ended and {len(self._due)} steps were still due, the last one before epoch "
                f"{epoch} (from 0); it must call on_epoch(epoch, optimizer) before every epoch, and train for more "
                f"than {epoch}"
            )
        return Proxy(self._network, self.channel_map, self.report)

    def _thin(self, ratio: float, optimizer: torch.optim.Optimizer, *, last: bool) -> None:
        with self._ledger.stage("prune", round=self._state.round + 1, network="proxy") as row:
            found = self._pruned(ratio)
            if self._suits(found.channel_map, last=last):
                inner = found.channel_map.relative_to(self.channel_map)
                thin_in_place(self._network, optimizer, inner, found.channel_map.attributes)
                self.channel_map, self.report = found.channel_map, found.pruning_report
            row.describe(self._network)

    def _suits(self, found: ChannelMap, *, last: bool) -> bool:
        """Tell whether a step leads to the widths that are aimed at: one too narrow could not be taken back."""
        if self._options.scope == "global":  # there the weights of the moment decide on the widths as well
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
        options, dense = self._options, copied(self._state.dense)
        tensors = named_tensors(dense)
        nothing = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        values = self.channel_map.scatter(named_tensors(self._network), nothing)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # small steps; the whole ratio was looked at before
            return prune(
                dense,
                self._example,
                ratio,
                importance=options.importance,
                scope=options.scope,
                keep=options.keep,
                round_to=options.round_to,
                random_state=options.seed("prune"),
                within=self.channel_map,
            )
