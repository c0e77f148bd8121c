"""Which device and which number format to compute with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .. import checks
from ..errors import FallbackWarning, InputError, warn

_IN_PIECES = frozenset({"FSDP", "DEEPSPEED", "MEGATRON_LM"})  # by the names of accelerate
PRECISIONS = ("fp32", "bf16", "fp16", "auto")


def check_device(name: str, device: Any) -> Any:
    """Return what names a device, or "auto", or raise `InputError`; whether it is there shows where it is used."""
    what = "'auto' or a torch device, for example 'cpu'"
    if isinstance(device, bool) or not isinstance(device, str | torch.device | int):
        raise checks.refused(name, device, what)
    if device == "auto":
        return device
    try:
        torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{name}={device!r} cannot be used here ({error}); pass {what}") from error
    return device


def check_accelerator(name: str, accelerator: Any) -> Any:
    """Return what processes are to be used by, or raise `InputError` unless it is an accelerator, or None."""
    used = ("device", "num_processes", "process_index")
    if accelerator is None:
        return None
    if isinstance(accelerator, type) or not all(hasattr(accelerator, attribute) for attribute in used):
        raise checks.refused(name, accelerator, "an accelerate.Accelerator(), or None")
    kind = getattr(accelerator, "distributed_type", "NO")
    kind = str(getattr(kind, "value", kind))
    if kind in _IN_PIECES:
        raise InputError(
            f"{name}: it spreads the weights of a network over processes ({kind}), and a proxy that is cut, read and "
            "fused is whole in each: pass an Accelerator() without that plugin; what fuse() returns can be trained "
            "with it by a loop of your own"
        )
    return accelerator


def check_precision(name: str, precision: Any) -> str:
    """Return the name of a number format, or raise `InputError`."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise checks.refused(name, precision, f"one of {', '.join(PRECISIONS)}")
    return precision


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device meant; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: the device is unknown or absent.
    """
    check_device("device", device)
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device!r} cannot be used here ({error}); pass 'auto' or 'cpu'") from error
    return torch.empty(0, device=found).device


def resolve_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype for "fp32" (None), "bf16", "fp16" or "auto" on a device.

    "auto" is bf16 on a GPU that has it, else fp16 on a GPU, else fp32. Where the hardware lacks a format (bf16 on a CPU
    without AVX512-BF16 or AMX is 13 to 30 times slower than fp32) fp32 is used, with a `FallbackWarning`.
    """
    check_precision("precision", precision)
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return None
    if precision == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float16
    if precision == "bf16" and has_bf16(device):
        return torch.bfloat16
    if precision == "fp16" and device.type in ("cuda", "mps"):
        return torch.float16
    warn(
        f"precision='{precision}' is not supported in hardware by this {device.type} device and would be many times "
        "slower than fp32; fp32 is used",
        FallbackWarning,
    )
    return None


def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(check() for check in checks if check is not None)
    return False


def home_device(model: nn.Module) -> torch.device | None:
    """Return the one device a network lies on: the CPU if it holds nothing, None if it is spread over several."""
    devices = {tensor.device for tensor in [*model.parameters(), *model.buffers()]}
    if not devices:
        return torch.device("cpu")
    return devices.pop() if len(devices) == 1 else None
