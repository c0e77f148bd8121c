"""The head of a network: the one linear layer that makes its logits, found, and alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..costs import Call, PassCounter
from ..errors import UnsupportedModelError
from ..network import logits_of, stand_in
from ..training import LOGITS, Reader
from .protocol import Task

_ROUNDING = 0.02


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
    """Return the head of the dense network, by what two rows of the data go through, once more with other weights.

    Raises:
        UnsupportedModelError: its logits are not what one `nn.Linear` makes, or that is not free to be trained.
    """
    network, counter = stand_in(task.dense), PassCounter()
    network.register_forward_pre_hook(counter.hook(), with_kwargs=True)
    features, watch = _asked(task, network)
    name = watch.found(task.dense)
    _check(task.dense, name)
    other = stand_in(task.dense)
    layer = _with_other_weights(other.get_submodule(name))
    again, watch = _asked(task, other)
    assert watch.logits is not None
    made = F.linear(again.to(layer.weight), layer.weight, layer.bias).reshape(watch.logits.shape)
    if not _near(again, features) or not _near(made, watch.logits.to(made)):
        raise UnsupportedModelError(_words(f"{name!r} makes them, but not of what it would be given without itself"))
    return Head(name, next(iter(counter.calls.values())))


def _asked(task: Task, network: nn.Module) -> tuple[Tensor, _Watch]:
    """Return features [b d] of two rows that go through a network, and what was noted then."""
    watch, rows = _Watch(), torch.arange(min(2, len(task.data)))
    watch.on(network)
    features = Reader(task.trainer, network, task.data).ask(rows, LOGITS | {"features"}).features
    assert features is not None
    return features, watch


def _with_other_weights(layer: nn.Module) -> Any:
    """Return a layer of a stand-in with new weights, always the same."""
    generator = torch.Generator().manual_seed(0)
    for name, old in list(layer.named_parameters()):
        new = torch.randn(old.shape, generator=generator).to(old)
        setattr(layer, name, nn.Parameter(new, requires_grad=False))
    return layer


def _near(one: Tensor, other: Tensor) -> bool:
    """Tell whether numbers are the same but for rounding, of half precision at worst."""
    return one.shape == other.shape and bool((one - other).abs().max() <= _ROUNDING * other.abs().max())


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
        times = len(calls[ends[0]])
        layer = network.get_submodule(ends[0])
        if times != 1 or type(layer).forward is not nn.Linear.forward:
            kind = type(layer).__name__
            raise UnsupportedModelError(_words(f"{ends[0]!r} is a {kind}, called {times} times"))
        return ends[0]

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, made: Any) -> None:
            if args and isinstance(made, Tensor):
                self.seen.setdefault(name, []).append((args[0], made))

        return note

    def _answered(self, module: nn.Module, args: Any, output: Any) -> None:
        self.last, self.logits = dict(self.seen), logits_of(output)


def _made(logits: Tensor, made: Tensor) -> bool:
    """Tell whether what a layer made, at one position or at one of several, are the logits [b c], or [b] of one."""
    rows = logits.reshape(len(logits), -1)
    if made.ndim < 2 or logits.ndim > 2 or made.shape[-1] != rows.shape[1] or made.numel() % rows.numel():
        return False
    positions = made.reshape(len(rows), -1, rows.shape[1])
    return bool((positions == rows[:, None]).all(2).any(1).all())


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
