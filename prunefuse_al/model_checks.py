"""Which networks can be worked on at all."""

from __future__ import annotations

import torch
from torch import nn

from . import checks
from .errors import UnsupportedModelError


def check_model(model: object, name: str = "model") -> nn.Module:
    """Return `model` if it is a network that can be traced, pruned and trained; `name` is what the argument is called.

    Raises:
        UnsupportedModelError: not an `nn.Module`; TorchScript; quantised; with lazy (unshaped) parameters; on the
            "meta" device (no values); or with a computed tensor as an attribute, which cannot be copied.
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        hint = "pass an instance, not the class" if isinstance(model, type) else "pass one, or wrap it in an nn.Module"
        raise UnsupportedModelError(
            f"{name}={checks.shown(model)}: the network must be a torch.nn.Module, found {kind}: {hint}"
        )
    for name, module in model.named_modules():
        where = f"'{name}' ({type(module).__name__})" if name else type(module).__name__
        _check_kind(module, where)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _check_tensor(name, tensor)
    return model


def _check_kind(module: nn.Module, where: str) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{where} is TorchScript, whose Python code is gone: pass the original nn.Module, "
            "and script the fused target afterwards"
        )
    computed = [name for name, value in vars(module).items() if isinstance(value, torch.Tensor) and value.grad_fn]
    if computed:
        raise UnsupportedModelError(
            f"{where} holds {computed[0]!r}, a tensor with a history, so the network cannot be copied: where it comes "
            "from torch.nn.utils.weight_norm, use torch.nn.utils.parametrizations.weight_norm; else detach it"
        )
    if ".quantized" in type(module).__module__ and type(module).__module__.startswith("torch."):
        raise UnsupportedModelError(
            f"{where} is quantised, so its weights cannot be trained: pass the floating-point network, "
            "and quantise the fused target afterwards"
        )


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise UnsupportedModelError(
            f"'{name}' is a lazy parameter without a shape: run the network once on a batch, then pass it"
        )
    if tensor.device.type == "meta":
        raise UnsupportedModelError(
            f"'{name}' is on the meta device and has no values: call to_empty() and load weights"
        )
    if tensor.is_quantized:
        raise UnsupportedModelError(f"'{name}' is a quantised tensor: pass the floating-point network")
