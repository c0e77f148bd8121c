"""Copies of networks: for keeps, and to be asked."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


def copied(thing: T, memo: dict[int, Any] | None = None) -> T:
    """Return a deep copy of a network, or of anything that holds some.

    What a network computed and kept (an embedding, a term of a loss, the weight that the old ``weight_norm`` makes
    before every pass) has a history that cannot be copied: in the copy it has its value alone.

    Args:
        thing: what to copy; not changed.
        memo: object identity -> what stands in its place in the copy, see `copy.deepcopy`.
    """
    known = {} if memo is None else memo
    with torch.inference_mode(False), WithoutHistory():  # tensors made in it could not be trained
        if isinstance(thing, nn.Module):
            _copy_modules(thing, known)
        return copy.deepcopy(thing, known)


PROTOCOL = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
PLAIN = (int, float, bool, str, type(None))
EMPTY = (OrderedDict, dict, set, list)


def _copy_modules(network: nn.Module, memo: dict[int, Any]) -> None:
    """Put the copies of a network's modules into `memo`, but of those that say how they are copied.

    `copy.deepcopy` would make the same, yet takes longer for the dozen tables of hooks of each module, mostly empty,
    than for its weights.
    """
    plain = {kind: _plain(kind) for kind in {type(module) for module in network.modules()}}
    modules = [module for module in network.modules() if id(module) not in memo and plain[type(module)]]
    memo.update((id(module), module.__new__(type(module))) for module in modules)
    for module in modules:
        state = vars(memo[id(module)])
        for name, value in vars(module).items():
            state[name] = value if type(value) in PLAIN else _copy_value(value, memo)


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in EMPTY and not value:
        return memo.setdefault(id(value), type(value)())
    return copy.deepcopy(value, memo)


def _plain(kind: type[nn.Module]) -> bool:
    """Return whether modules of a class are copied attribute by attribute."""
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        return False
    return all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in PROTOCOL)


def stand_in(model: nn.Module) -> nn.Module:
    """Return a copy of a network to be asked: with modes and hooks of its own, and the same weights in the same memory.

    Moving it to another device or layout does not move `model`. Nothing may train it.
    """
    with torch.inference_mode(False):
        return copied(model, {id(t): of_kind(t, t.detach()) for t in (*model.parameters(), *model.buffers())})


def afresh(network: N, computed: Mapping[str, tuple[Any, ...]]) -> N:
    """Return the network itself, after a change of its weights, without what it had computed of those it had before.

    What its `train` and `eval` clear or make they clear and make anew; modes are what they were.

    Args:
        network: changed in place.
        computed: "module:attribute" -> (what stands there where nothing was computed yet,), () where nothing does.
            Nothing happens where this is empty.
    """
    if not computed:
        return network
    modes = [(module, module.training) for module in network.modules()]
    network.train()
    for place, start in computed.items():
        path, _, name = place.partition(":")
        module = network.get_submodule(path)
        vars(module).pop(name, None)
        for value in start:
            setattr(module, name, copy.copy(value))
    for module, training in modes:  # those outside come before those within
        if module.training != training:
            module.train(training)
    for module, training in modes:
        module.training = training
    return network


def of_kind(tensor: Tensor, value: Tensor) -> Tensor:
    """Return `value` as the kind of tensor that `tensor` is."""
    return nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


class WithoutHistory(TorchFunctionMode):
    """While active, this thread's deep copies of tensors that were computed are copies of their values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Copy what has a history, pass on all other calls."""
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]
