"""Which networks can be worked on at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .. import checks
from ..errors import UnsupportedModelError


def check_model(model: object, name: str = "model") -> nn.Module:
    """Return `model` if it is a network that can be traced, pruned and trained; `name` is what the argument is called.

    Raises:
        UnsupportedModelError: not an `nn.Module`; TorchScript; quantised; with lazy (unshaped) parameters; or on
            the "meta" device (no values).
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise UnsupportedModelError(
            f"{name}={checks.shown(model)}: the network must be a torch.nn.Module, found {kind}: {_instead(model)}"
        )
    for name, module in model.named_modules():
        where = f"'{name}' ({type(module).__name__})" if name else type(module).__name__
        _check_kind(module, where)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _check_tensor(name, tensor)
    return model


def _instead(found: object) -> str:
    """Return what to pass instead of something that is no network."""
    if isinstance(found, type):
        return "pass an instance, not the class"
    if isinstance(found, Mapping):
        return "build the network and load the state into it with load_state_dict"
    if isinstance(getattr(found, "module_", None), nn.Module):
        return "pass its module_"
    return "wrap it in an nn.Module" if callable(found) else "build the network and pass that"


def _check_kind(module: nn.Module, where: str) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{where} is TorchScript, whose Python code is gone: pass the original nn.Module, "
            "and script the fused target afterwards"
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
