"""What the user froze: parameters that take no gradient, and batch norms whose statistics are to stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .states import named_tensors


def frozen_norms(model: nn.Module) -> list[_NormBase]:
    """Return the layers that keep running statistics and count as frozen.

    Those whose own parameters are all frozen, and those that are in eval mode while `model` is in train mode. A network
    that is in eval mode as a whole, as after loading, says nothing of its layers by that.
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    return [norm for norm in norms if _all_frozen(norm) or (model.training and not norm.training)]


def _all_frozen(norm: nn.Module) -> bool:
    own = list(norm.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def frozen_tensors(model: nn.Module) -> frozenset[str]:
    """Return the names of all frozen parameters, and of the statistics of frozen norms; all names of tied ones."""
    statistics = {id(buffer) for norm in frozen_norms(model) for buffer in norm.buffers(recurse=False)}
    parameters = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    still = statistics | parameters
    return frozenset(name for name, tensor in named_tensors(model).items() if id(tensor) in still)


@contextmanager
def held_still(model: nn.Module) -> Iterator[None]:
    """Have the frozen norms of a network in eval mode for the block, also when the network is put in train mode."""
    norms = frozen_norms(model)
    before = [(norm, norm.training, vars(norm).get("train")) for norm in norms]
    try:
        for norm in norms:
            norm.training = False
            vars(norm)["train"] = partial(_still, norm)  # in its own name space: the layer's class stays as it is
        yield
    finally:
        for norm, training, train in before:
            norm.training = training
            del vars(norm)["train"]
            if train is not None:  # of a block around this one
                vars(norm)["train"] = train


def _still(norm: nn.Module, mode: bool = True) -> nn.Module:
    """Stand in for `norm.train`: what else is in the layer (an activation, dropout) follows, its statistics do not."""
    for child in norm.children():
        child.train(mode)
    return norm
