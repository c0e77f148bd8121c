"""The head of a network: the one linear layer that makes its logits, found, and alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..costs import Call, PassCounter
from ..data import subset
from ..errors import UnsupportedModelError
from ..network import logits_of, stand_in
from ..training import LOGITS
from .protocol import Task


class ProbeHead(nn.Linear):
    """A linear layer of features; passes with dropout ("mc_logits") thin them, nothing else does.

    Args:
        like: whose weights are taken over; a copy of them.
        dropout: share of the features that such a pass leaves out.
    """

    def __init__(self, like: nn.Linear, dropout: float) -> None:
        super().__init__(like.in_features, like.out_features, like.bias is not None, device="meta")
        self.dropout = dropout
        for name, parameter in like.named_parameters():
            setattr(self, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b c] of features [b d]."""
        if self.dropout:
            x = F.dropout(x, self.dropout, training=False)  # switched on by `ThinnedPass` alone
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Head:
    """Where the head of a network is.

    Attributes:
        name: of the layer.
        call: what the network is called with, two rows.
    """

    name: str
    call: Call

    def of(self, network: nn.Module) -> nn.Linear:
        """Return the layer in a network of the same architecture."""
        layer = network.get_submodule(self.name)
        assert isinstance(layer, nn.Linear)
        return layer


def head_of(task: Task) -> Head:
    """Return the head of the dense network, by what two rows of the data go through.

    Raises:
        UnsupportedModelError: its logits are not what one `nn.Linear` makes, or that is not free to be trained.
    """
    network, counter, watch = stand_in(task.dense), PassCounter(), _Watch()
    watch.on(network)
    network.register_forward_pre_hook(counter.hook(), with_kwargs=True)
    task.trainer.infer(network, subset(task.data, range(min(2, len(task.data)))), LOGITS)
    name = watch.found(task.dense)
    _check(task.dense, name)
    return Head(name, next(iter(counter.calls.values())))


class _Watch:
    """Notes what linear layers were given and made in the last pass of a network, and what it answered."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.last: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.logits: Tensor | None = None

    def on(self, network: nn.Module) -> None:
        """Watch a network."""
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(self._noting(name))
        network.register_forward_pre_hook(lambda *_: self.seen.clear())
        network.register_forward_hook(self._answered)

    def found(self, network: nn.Module) -> str:
        """Return the name of the layer that made the logits."""
        calls, logits = self.last, self.logits
        if logits is None:
            raise UnsupportedModelError(_words("the trainer's infer did not call the network"))
        ends = [name for name, each in calls.items() if any(_made(logits, made) for _, made in each)]
        if len(ends) != 1:
            what = f"{len(ends)} layers make them alike" if ends else "no nn.Linear makes them"
            raise UnsupportedModelError(_words(f"{what}, logits {list(logits.shape)} of {type(network).__name__}"))
        given, times = calls[ends[0]][0][0], len(calls[ends[0]])
        layer = network.get_submodule(ends[0])
        same = times == 1 and given.ndim == 2 and type(layer).forward is nn.Linear.forward
        if not same:
            kind = type(layer).__name__
            raise UnsupportedModelError(
                _words(f"{ends[0]!r} is a {kind}, called {times} times with {list(given.shape)}")
            )
        return ends[0]

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, made: Any) -> None:
            if args and isinstance(made, Tensor):
                self.seen.setdefault(name, []).append((args[0], made))

        return note

    def _answered(self, module: nn.Module, args: Any, output: Any) -> None:
        self.last, self.logits = dict(self.seen), logits_of(output)


def _made(logits: Tensor, made: Tensor) -> bool:
    """Tell whether what a layer made are the logits [b c], or [b] of one output."""
    return made.ndim == 2 and made.numel() == logits.numel() and torch.equal(made.reshape(logits.shape), logits)


def _check(network: nn.Module, name: str) -> None:
    """Raise unless the layer's weights are its own, plain and not all frozen."""
    layer = network.get_submodule(name)
    own, hooked = dict(layer.named_parameters()), [*layer._forward_hooks, *layer._forward_pre_hooks]
    if not own.keys() <= {"weight", "bias"} or list(layer.buffers()) or hooked:
        raise UnsupportedModelError(_words(f"{name!r} has {', '.join(own)}, parametrised or hooked"))
    everywhere = network.named_parameters(remove_duplicate=False)
    others = [name for name, parameter in everywhere if any(parameter is each for each in own.values())]
    if len(others) > len(own):
        raise UnsupportedModelError(_words(f"{name!r} shares its weights: {', '.join(others)} are the same"))
    if not all(parameter.requires_grad for parameter in own.values()):
        raise UnsupportedModelError(
            f"proxy=Probe(...) trains the head alone, and {name!r} is frozen: unfreeze it, requires_grad_(True), or "
            "take another proxy"
        )


def _words(found: str) -> str:
    return (
        f"proxy=Probe(...) trains the last linear layer on what it is given, and here {found}: end the network in an "
        "nn.Linear of one row a sample, or take another proxy, such as Dense() of prunefuse_al.proxies"
    )
